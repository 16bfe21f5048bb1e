"""What is under way to each service: how much waits for its answer, and how much may be repeated to it."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.protocol.retry import RetryBudget
from orchestrator.protocol.transaction import StepProgress


class Traffic:
    """Per service: the steps that wait for it, and its retry budget.

    The first is the bulkhead: transactions that need a service for which too many wait are refused, so that there is room
    for those that do not need it.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        self._budgets: dict[str, RetryBudget] = {}

    def sent(self, progress: StepProgress) -> None:
        """A message of this step has left."""
        service = progress.step.service
        if progress.attempt == 1:
            self._budget(service).first()
        if not progress.waits and not progress.parked:
            progress.waits = True
            self._waiting[service] = self._waiting.get(service, 0) + 1

    def answered(self, progress: StepProgress, attempt: int = 0) -> None:
        """The step waits no longer: this attempt was answered for good, or (0) nobody waits for an answer any more."""
        if attempt > 1 and attempt == progress.attempt:
            self._budget(progress.step.service).answered()
        if progress.waits:
            progress.waits = False
            self._waiting[progress.step.service] -= 1

    def may_repeat(self, progress: StepProgress, now_ms: int) -> bool:
        """Whether the budget of the step's service allows a repeat; it has been taken then."""
        return self._budget(progress.step.service).take(now_ms)

    def crowded(self, services: Iterable[str], waiting_max: int) -> str:
        """The first of these services for which as many steps wait as may; empty if there is none."""
        return next((service for service in services if self._waiting.get(service, 0) >= waiting_max), "")

    def _budget(self, service: str) -> RetryBudget:
        found = self._budgets.get(service)
        if found is None:
            found = self._budgets[service] = RetryBudget()
        return found
