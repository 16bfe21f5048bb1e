"""When to try again: exponential, capped, full jitter; the policy decides, somebody else waits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


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
        ceiling = min(self.backoff_ms_max, self.backoff_ms << min(attempt - 1, 20))
        digest = hashlib.blake2b(f"{salt}/{attempt}".encode(), digest_size=4).digest()
        return 1 + int.from_bytes(digest, "big") % ceiling

    def exhausted(self, attempt: int) -> bool:
        """Whether no attempt may follow this one without giving up or parking."""
        return 0 < self.attempts_max <= attempt


PREPARE_RETRY = RetryPolicy()
FINISH_RETRY = RetryPolicy(backoff_ms_max=5_000, attempts_max=20)
