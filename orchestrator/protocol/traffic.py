"""What is under way to each service: how much waits for its answer, how long that takes, how much may be repeated to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.protocol.breaker import Breaker, BreakerPolicy, BreakerState
from orchestrator.protocol.counts import Histogram
from orchestrator.protocol.effects import Notice
from orchestrator.protocol.retry import BUDGET_PER_S, BUDGET_PERCENT, RetryBudget, RetryPolicy, spread_ms
from orchestrator.protocol.transaction import Phase, StepProgress

SLOW_FACTOR = 3  # an answer is late after so many times what answers take
SLOW_MS_MAX = 5_000
BREAKER = BreakerPolicy()


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """How much may be sent to a service that is ill.

    Args:
        repeats_per_s: repeats to one service that are always allowed.
        repeats_percent: of the first attempts to it, that may be repeats in addition.
        breaker: when no more new work is sent to it.
    """

    repeats_per_s: int = BUDGET_PER_S
    repeats_percent: int = BUDGET_PERCENT
    breaker: BreakerPolicy = BREAKER


TRAFFIC = TrafficPolicy()


class BreakerReport(NamedTuple):
    """How a service's breaker is, for an operator; times in ms.

    `since_ms` is when it opened or closed last, 0 if it never did; `cause`, `last_error` and `retry_after_ms` are empty or 0
    while it is closed.
    """

    state: str
    since_ms: int
    cause: str
    last_error: str
    retry_after_ms: int


class Service:
    """What is known of one service."""

    __slots__ = ("answer_ms", "breaker", "budget", "finished", "prepared", "waiting")

    def __init__(self, budget: RetryBudget, breaker: Breaker) -> None:
        self.prepared: dict[str, Histogram] = {}  # by step: from the first attempt of its prepare to the vote, ms
        self.finished: dict[str, Histogram] = {}  # the same of commit, rollback or perform
        self.waiting = 0
        self.answer_ms = 0.0  # moving average, from the first attempt to its answer
        self.budget = budget
        self.breaker = breaker


class Traffic:
    """Per service: the steps that wait for it, how long it takes, its retry budget and its circuit breaker.

    The first is the bulkhead: transactions that need a service for which too many wait are refused, so that there is room
    for those that do not need it. The second keeps what is only slow from being taken for lost: repeating it would make it
    slower still.

    Args:
        policy: the numbers.
        notice: told what an operator should see.
    """

    def __init__(self, policy: TrafficPolicy, notice: Callable[[Notice], None]) -> None:
        self.broken = 0  # breakers that are not closed
        self._policy, self._notice = policy, notice
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
        if service.breaker.troubled:
            self._heard(service, progress, now_ms)
        self.left(progress)

    def asked_again(self, progress: StepProgress, now_ms: int) -> None:
        """The service wants to be asked again, or says no to what is not prepared: it is there all the same."""
        self._heard(self._of(progress), progress, now_ms)

    def failed(self, transaction: str, progress: StepProgress, error: str, now_ms: int) -> None:
        """The attempt was answered with a transient error."""
        service = self._of(progress)
        if _is_new_work(progress):
            service.breaker.failed(transaction, error, now_ms)
        else:
            service.breaker.heard(now_ms)

    def unanswered(self, transaction: str, progress: StepProgress, now_ms: int) -> None:
        """The attempt was not answered in time."""
        self._of(progress).breaker.unanswered(transaction, now_ms)

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

    def held_ms(self, transaction: str, progress: StepProgress, now_ms: int) -> int:
        """For how long the breaker of the step's service holds its message back; 0: it may leave."""
        if self._of(progress).breaker.may_send(now_ms, finishing=not _is_new_work(progress)):
            return 0
        return spread_ms(self._policy.breaker.probe_ms, now_ms, f"{transaction}/{progress.step.name}")

    def down(self, services: Iterable[str], now_ms: int) -> str:
        """The first of these services that is known to be down, so that nothing new may begin; empty if there is none."""
        for name in services:
            found = self._services.get(name)
            if found is not None and not found.breaker.may_begin(now_ms):
                return name
        return ""

    def is_down(self, services: Iterable[str]) -> bool:
        """Whether the breaker of one of these services is open."""
        found = (self._services.get(name) for name in services)
        return any(one is not None and one.breaker.state is not BreakerState.CLOSED for one in found)

    @property
    def retry_after_ms(self) -> int:
        """When to come back to a service that is down."""
        return self._policy.breaker.probe_ms

    def breakers(self) -> dict[str, BreakerReport]:
        """Every service that was sent something, and how its breaker is."""
        return {name: self._report(service.breaker) for name, service in sorted(self._services.items())}

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
            policy = self._policy
            found = self._services[name] = Service(
                RetryBudget(policy.repeats_per_s, policy.repeats_percent),
                Breaker(policy.breaker, lambda breaker, why: self._turned(name, breaker, why)))
        return found

    def _heard(self, service: Service, progress: StepProgress, now_ms: int) -> None:
        if _is_new_work(progress):
            service.breaker.recovers(now_ms)
        else:
            service.breaker.heard(now_ms)

    def _turned(self, service: str, breaker: Breaker, why: str) -> None:
        """A breaker has opened or closed."""
        opened = breaker.state is not BreakerState.CLOSED
        self.broken += 1 if opened else -1
        event, level = ("breaker_opened", "WARNING") if opened else ("breaker_closed", "INFO")
        self._notice(Notice(event, level, "", service=service, message=why))

    def _report(self, breaker: Breaker) -> BreakerReport:
        if breaker.state is BreakerState.CLOSED:
            return BreakerReport(breaker.state, breaker.since_ms, "", "", 0)
        return BreakerReport(breaker.state, breaker.since_ms, breaker.cause, breaker.last_error, self.retry_after_ms)


def _is_new_work(progress: StepProgress) -> bool:
    """Whether what the step is sent is a prepare or a perform, not a commit or a rollback."""
    return progress.step.after_commit or progress.phase < Phase.FINISHING
