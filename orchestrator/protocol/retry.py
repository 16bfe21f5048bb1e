"""When to try again: exponential, capped, full jitter; the policy decides, somebody else waits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

BUDGET_TOKENS_MAX = 1_000
BUDGET_PER_S = 100
BUDGET_PERCENT = 10  # of the first attempts
BUDGET_PER_ANSWER_MILLI = 2_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How one step is retried.

    Args:
        attempt_timeout_ms: an attempt unanswered for so long is sent again.
        backoff_ms: ceiling of the first delay after a transient answer; it doubles with every attempt.
        backoff_ms_max: cap of that ceiling.
        attempts_max: prepare: give up (abort) after so many; commit, rollback, perform: park after so many and go on
            retrying at the cap. 0 = no limit (a prepare is still bounded by the deadline).

    Source of the jitter rule: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
    """

    attempt_timeout_ms: int = 1_000
    backoff_ms: int = 50
    backoff_ms_max: int = 2_000
    attempts_max: int = 0

    def __post_init__(self) -> None:
        for name in ("attempt_timeout_ms", "backoff_ms", "backoff_ms_max"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of milliseconds, at least 1; got {value!r}")
        if type(self.attempts_max) is not int or self.attempts_max < 0:
            raise ValueError(f"attempts_max must be 0 (no limit) or more; got {self.attempts_max!r}")

    def delay_ms(self, attempt: int, salt: str) -> int:
        """Delay before the attempt after `attempt` (from 1); the jitter is a pure function of `salt` and attempt."""
        return 1 + _drawn(f"{salt}/{attempt}") % min(self.backoff_ms_max, self.backoff_ms << min(attempt - 1, 20))

    def postponed_ms(self, now_ms: int, salt: str) -> int:
        """Delay of an attempt for which there is no budget: half to one and a half of the time given to one."""
        return spread_ms(self.attempt_timeout_ms, now_ms, salt)

    def exhausted(self, attempt: int) -> bool:
        """Whether no attempt may follow this one without giving up or parking."""
        return 0 < self.attempts_max <= attempt


class RetryBudget:
    """How many messages to one service may be repeats: a bucket of tokens, one taken by each.

    A service that answers nothing would otherwise be sent everything that is open again every second, for as long as that
    lasts, and be the slower for it. A fraction of a token comes with every first attempt, some with time, and two with
    every repeat that is answered: so what was lost is made up for quickly once the service is back.

    Args:
        per_s: tokens that come with time, a second: the floor.
        percent: tokens that come with a hundred first attempts.

    Source: Google SRE Book, "Handling Overload" (per-client retry budget); AWS SDK "standard" retry mode (token bucket).
    """

    __slots__ = ("_millitokens", "_per_first", "_per_s", "_refilled_ms")

    def __init__(self, per_s: int = BUDGET_PER_S, percent: int = BUDGET_PERCENT) -> None:
        self._per_s, self._per_first = per_s, percent * 10
        self._millitokens = BUDGET_TOKENS_MAX * 1_000
        self._refilled_ms = 0

    def first(self) -> None:
        """A first attempt has left."""
        self._add(self._per_first)

    def answered(self) -> None:
        """A repeat was answered for good: repeating is what helps."""
        self._add(BUDGET_PER_ANSWER_MILLI)

    def take(self, now_ms: int) -> bool:
        """Whether a repeat may leave; it has taken its token then."""
        self._add(max(0, now_ms - self._refilled_ms) * self._per_s)
        self._refilled_ms = max(now_ms, self._refilled_ms)
        if self._millitokens < 1_000:  # noqa: PLR2004 - one token
            return False
        self._millitokens -= 1_000
        return True

    def _add(self, millitokens: int) -> None:
        self._millitokens = min(self._millitokens + millitokens, BUDGET_TOKENS_MAX * 1_000)


PREPARE_RETRY = RetryPolicy()
FINISH_RETRY = RetryPolicy(backoff_ms_max=5_000, attempts_max=20)


def spread_ms(around_ms: int, now_ms: int, salt: str) -> int:
    """Half to one and a half of a time, another one for every salt and time."""
    return around_ms // 2 + 1 + _drawn(f"{salt}/{now_ms}") % around_ms


def _drawn(salt: str) -> int:
    return int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=4).digest(), "big")
