"""What is under way to each service: how much waits for its answer, how long that takes, how much may be repeated to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.protocol.counts import Histogram
from orchestrator.protocol.retry import RetryBudget, RetryPolicy
from orchestrator.protocol.transaction import Phase, StepProgress

SLOW_FACTOR = 3  # an answer is late after so many times what answers take
SLOW_MS_MAX = 5_000


class Service:
    """What is known of one service."""

    __slots__ = ("answer_ms", "budget", "finished", "prepared", "waiting")

    def __init__(self) -> None:
        self.prepared: dict[str, Histogram] = {}  # by step: from the first attempt of its prepare to the vote, ms
        self.finished: dict[str, Histogram] = {}  # the same of commit, rollback or perform
        self.waiting = 0
        self.answer_ms = 0.0  # moving average, from the first attempt to its answer
        self.budget = RetryBudget()


class Traffic:
    """Per service: the steps that wait for it, how long it takes, and its retry budget.

    The first is the bulkhead: transactions that need a service for which too many wait are refused, so that there is room
    for those that do not need it. The second keeps what is only slow from being taken for lost: repeating it would make it
    slower still.
    """

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}

    @property
    def services(self) -> Mapping[str, Service]:
        """What is known of each service, by name."""
        return self._services

    def sent(self, progress: StepProgress, now_ms: int) -> None:
        """A message of this step has left."""
        service = self._of(progress)
        if progress.attempt == 1:
            progress.sent_ms = now_ms
            service.budget.first()
        if not progress.waits and not progress.parked:
            progress.waits = True
            service.waiting += 1

    def answered(self, progress: StepProgress, attempt: int, now_ms: int) -> None:
        """This attempt of the step was answered for good."""
        service = self._of(progress)
        answers = service.prepared if progress.phase is Phase.SENT else service.finished
        histogram = answers.get(progress.step.name)
        if histogram is None:
            histogram = answers[progress.step.name] = Histogram()
        histogram.observe(now_ms - progress.sent_ms)
        if attempt == 1:
            service.answer_ms += (now_ms - progress.sent_ms - service.answer_ms) / 8
        elif attempt == progress.attempt:
            service.budget.answered()
        self.left(progress)

    def left(self, progress: StepProgress) -> None:
        """Nobody waits for the step's answer any more."""
        if progress.waits:
            progress.waits = False
            self._of(progress).waiting -= 1

    def timeout_ms(self, progress: StepProgress, policy: RetryPolicy) -> int:
        """After how long an attempt counts as lost: what the policy says, longer where the service is slow.

        Source: V. Jacobson, "Congestion Avoidance and Control", 1988: a timer that does not follow the round trip time
        drives a slow network into collapse.
        """
        return max(policy.attempt_timeout_ms, min(int(self._of(progress).answer_ms * SLOW_FACTOR), SLOW_MS_MAX))

    def may_repeat(self, progress: StepProgress, now_ms: int) -> bool:
        """Whether the budget of the step's service allows a repeat; it has been taken then."""
        return self._of(progress).budget.take(now_ms)

    def crowded(self, services: Iterable[str], waiting_max: int) -> str:
        """The first of these services for which as many steps wait as may; empty if there is none."""
        for name in services:
            found = self._services.get(name)
            if found is not None and found.waiting >= waiting_max:
                return name
        return ""

    def _of(self, progress: StepProgress) -> Service:
        name = progress.step.service
        found = self._services.get(name)
        if found is None:
            found = self._services[name] = Service()
        return found
