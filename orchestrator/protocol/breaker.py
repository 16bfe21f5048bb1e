"""The circuit breaker of one service: a state machine of what it was sent, what it answered, and the time.

It is `CLOSED` while the service answers. It opens for one of two reasons. *Silent*: attempts of several transactions timed
out, and for a while nothing at all was heard of the service. *Failing*: it answers, and nearly all that it says to new work is
that it cannot. While it is open, new work (prepare, perform) and, where the service is silent, commits and rollbacks too
are held by the shard; a few of them leave every while as probes, those that end a transaction before those that begin one.
One answer of a silent service closes it, or a few good ones in a row of one that failed.

It bounds traffic and nothing else: no vote, decision or acknowledgement depends on it, and a shard that starts anew starts
with a closed one.

Source of the pattern: M. Nygard, "Release It!", 2007, "Circuit Breaker".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

WINDOW_MS = 5_000  # in which answers of a service that fails are counted
WINDOW_MS_MIN = 1_000  # one batch that fails is not yet a service that does
FAILURES_PER_GOOD_MIN = 4  # so that at most one answer in five was good
PROBES = 3  # messages that may leave in every `probe_ms`, and good answers in a row that close it again
QUIET_PROBES = 2  # after so many times `probe_ms` in which nobody wanted to send, a new transaction is the probe
NEVER_ASKED_MS = -(1 << 62)


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and how it probes.

    Args:
        failures: as many different transactions must have failed; 0 = it never opens.
        silent_ms: for so long after the first timeout nothing must have been heard of the service. Together with the time that
            an attempt has (1 s or more) it must be more than a slow answer takes.
        probe_ms: the time in which `PROBES` messages may leave while it is open.
    """

    failures: int = 10
    silent_ms: int = 4_000
    probe_ms: int = 1_000


class BreakerState(StrEnum):
    """Whether messages leave."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"  # probes are on their way


class Cause(StrEnum):
    """Why it is open."""

    SILENT = "silent"
    FAILING = "failing"


class Breaker:
    """What is known of how one service answers.

    Invariant: `troubled` is false only while it is closed and no failure has been seen since the last calm window; then
    nothing is counted.

    Args:
        policy: its numbers.
        turned: told whenever it opens or closes, with what there is to say.
    """

    __slots__ = (
        "_asked_ms", "_errors", "_failing", "_finish_asked_ms", "_good", "_good_in_row", "_policy", "_probes_left",
        "_quiet_left", "_quiet_ms", "_round_ms", "_silent", "_silent_since_ms", "_turned", "_window_ms", "cause", "last_error",
        "since_ms", "state", "troubled")

    def __init__(self, policy: BreakerPolicy, turned: Callable[[Breaker, str], None]) -> None:
        self._policy, self._turned = policy, turned
        self.state = BreakerState.CLOSED
        self.troubled = False
        self.cause = Cause.SILENT  # why it is open, or was
        self.since_ms = 0  # when it opened or closed last
        self.last_error = ""
        self._window_ms = 0  # when it began
        self._errors = self._good = 0  # answers to new work in it
        self._failing: set[str] = set()  # transactions, up to as many as it takes
        self._silent: set[str] = set()
        self._silent_since_ms = 0
        self._round_ms = self._asked_ms = self._quiet_ms = 0
        self._finish_asked_ms = NEVER_ASKED_MS
        self._probes_left = self._quiet_left = self._good_in_row = 0

    # ---- what happened --------------------------------------------------------------------------------------------

    def recovers(self, now_ms: int) -> None:
        """New work was answered, and not with "I cannot"."""
        if not self.troubled:
            return
        self._silent.clear()
        self._good += 1
        self._good_in_row += 1
        if self.state is not BreakerState.CLOSED:
            if self.cause is Cause.SILENT or self._good_in_row >= PROBES:
                self._close(now_ms)
        elif now_ms - self._window_ms >= WINDOW_MS:
            self._calm(now_ms)

    def heard(self, now_ms: int) -> None:
        """A commit or a rollback was answered: the service is not silent, which says nothing of new work."""
        if not self.troubled:
            return
        self._silent.clear()
        if self.state is not BreakerState.CLOSED and self.cause is Cause.SILENT:
            self._close(now_ms)

    def failed(self, transaction: str, error: str, now_ms: int) -> None:
        """New work was answered with a transient error."""
        if not self._policy.failures:
            return
        self._window(now_ms)
        self._silent.clear()
        self.last_error = error
        self._good_in_row = 0
        if self.state is not BreakerState.CLOSED:
            self.cause, self.state = Cause.FAILING, BreakerState.OPEN
            return
        self._errors += 1
        if len(self._failing) < self._policy.failures:
            self._failing.add(transaction)
        enough = len(self._failing) >= self._policy.failures and now_ms - self._window_ms >= WINDOW_MS_MIN
        if enough and self._errors >= FAILURES_PER_GOOD_MIN * self._good:
            self._open(Cause.FAILING, f"{self._errors} of {self._errors + self._good} answers were transient errors", now_ms)

    def unanswered(self, transaction: str, now_ms: int) -> None:
        """An attempt of any kind has timed out."""
        if not self._policy.failures:
            return
        self._window(now_ms)
        if self.state is not BreakerState.CLOSED:
            self.state = BreakerState.OPEN
            return
        if not self._silent:
            self._silent_since_ms = now_ms
        if len(self._silent) < self._policy.failures:
            self._silent.add(transaction)
        silent_ms = now_ms - self._silent_since_ms
        if len(self._silent) >= self._policy.failures and silent_ms >= self._policy.silent_ms:
            self.last_error = "no answer"
            self._open(Cause.SILENT, f"attempts time out; nothing was heard since the first did, {silent_ms} ms ago", now_ms)

    # ---- what may leave -------------------------------------------------------------------------------------------

    def may_send(self, now_ms: int, *, finishing: bool) -> bool:
        """Whether a message may leave; it has taken a probe's place then if this is not closed.

        Args:
            now_ms: the time.
            finishing: whether it is a commit or a rollback.
        """
        if self.state is BreakerState.CLOSED or (finishing and self.cause is Cause.FAILING):
            return True
        self._begin_round(now_ms)
        urgent_ms = QUIET_PROBES * self._policy.probe_ms
        if self._probes_left and (finishing or now_ms - self._finish_asked_ms >= urgent_ms):
            self._probes_left -= 1
            self.state = BreakerState.HALF_OPEN
            return True
        self._asked_ms = now_ms
        if finishing:
            self._finish_asked_ms = now_ms
        return False

    def may_begin(self, now_ms: int) -> bool:
        """Whether a new transaction may be begun that needs the service: as a probe, where nobody else is there to be one."""
        if self.state is BreakerState.CLOSED:
            return True
        if now_ms - self._asked_ms < QUIET_PROBES * self._policy.probe_ms:
            return False
        if now_ms - self._quiet_ms >= self._policy.probe_ms:
            self._quiet_ms, self._quiet_left = now_ms, PROBES
        if not self._quiet_left:
            return False
        self._quiet_left -= 1
        return True

    def _begin_round(self, now_ms: int) -> None:
        if now_ms - self._round_ms >= self._policy.probe_ms:
            self._round_ms, self._probes_left = now_ms, PROBES

    def _open(self, cause: Cause, why: str, now_ms: int) -> None:
        self.state, self.cause, self.since_ms = BreakerState.OPEN, cause, now_ms
        self._round_ms = self._asked_ms = now_ms  # the first probe leaves after `probe_ms`
        self._probes_left = self._good_in_row = 0
        self._finish_asked_ms = NEVER_ASKED_MS
        self._turned(self, why)

    def _close(self, now_ms: int) -> None:
        open_ms = now_ms - self.since_ms
        self.state, self.since_ms = BreakerState.CLOSED, now_ms
        self._calm(now_ms)
        self._turned(self, f"it answers again; it was open for {open_ms} ms")

    def _window(self, now_ms: int) -> None:
        """Begin a window with the first failure after a calm one; what was counted before says nothing of it."""
        if not self.troubled or (self.state is BreakerState.CLOSED and now_ms - self._window_ms >= WINDOW_MS):
            silent = self._silent  # a silence may last longer than a window
            self._calm(now_ms)
            self._silent, self.troubled = silent, True

    def _calm(self, now_ms: int) -> None:
        self.troubled = False
        self._window_ms = now_ms
        self._good = self._errors = self._good_in_row = 0
        self._failing, self._silent = set(), set()
