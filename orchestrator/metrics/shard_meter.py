"""What a shard counts beside its core, and its figures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.metrics.figures import Figures
from orchestrator.protocol.breaker import BreakerState
from orchestrator.protocol.counts import OTHER, Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.appender import Appender
    from orchestrator.protocol.coordinator import Coordinator
    from orchestrator.protocol.effects import Notice

SERIES_MAX = 512
COMMITTED, ABORTED = "committed", "aborted"


class Outstanding(Protocol):
    """The way to one service."""

    @property
    def outstanding(self) -> int:
        """Messages queued or not answered."""


class ShardMeter:
    """Counts on behalf of one incarnation of a shard; lives on its event loop.

    Args:
        refused: connections that it ended for what came over them, by reason, live.

    Attributes:
        fenced: how often its epoch was called stale.
    """

    def __init__(self, refused: Mapping[str, int]) -> None:
        self._refused = refused
        self.since_ms = time.time_ns() // 1_000_000
        self.fenced = 0
        self._noticed: dict[tuple[str, str, str], int] = {}
        self._rejected: dict[str, int] = {}

    def notice(self, notice: Notice) -> None:
        """The core had something to say."""
        if notice.event in _NOTICED:
            self._count(notice.event, notice.service, notice.code)

    def lost(self, service: str) -> None:
        """A service does not answer any more."""
        self._count("service_lost", service, "")

    def rejected(self, code: str) -> None:
        """A request was refused, and nothing begun."""
        self._rejected[code] = self._rejected.get(code, 0) + 1

    def figures(
        self, core: Coordinator | None, appender: Appender | None, services: Mapping[str, Outstanding], restarts: int,
    ) -> dict[str, Any]:
        """All figures of a shard; without a core, while it recovers, only that it does not serve."""
        figures = Figures(self.since_ms)
        figures.value("serving", int(appender is not None))
        figures.value("restarts", restarts)
        figures.refused(self._refused)
        if core is None or appender is None:
            return figures.plain()
        figures.value("epoch", max(core.epochs.values(), default=0))
        figures.value("partitions", len(core.epochs))
        figures.value("open", core.open_count)
        _transactions(figures, core)
        _services(figures, core, services)
        self._events(figures)
        figures.value("append_queue", appender.waiting)
        figures.histogram("append_records", appender.appended)
        figures.histogram("append_ms", appender.took_ms)
        return figures.plain()

    def _count(self, event: str, service: str, code: str) -> None:
        key = (event, service, code)
        if key not in self._noticed and len(self._noticed) >= SERIES_MAX:  # codes are the services' own words
            key = (event, service, OTHER)
        self._noticed[key] = self._noticed.get(key, 0) + 1

    def _events(self, figures: Figures) -> None:
        figures.value("fenced", self.fenced)
        for code, count in self._rejected.items():
            figures.value("rejected", count, code=code)
        by_service: dict[tuple[str, str], int] = {}
        for (event, service, code), count in self._noticed.items():
            if event == "retry":
                figures.value("retries", count, service=service, code=code)
            elif event == "parked":
                figures.value("parkings", count, service=service, code=code)
            elif event in _BY_SERVICE:
                by_service[event, service] = by_service.get((event, service), 0) + count
        for (event, service), count in by_service.items():
            figures.value(_BY_SERVICE[event], count, service=service)


_BREAKERS = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_NOTICED = frozenset({"retry", "parked", "attempt_timeout"})
_BY_SERVICE = {"attempt_timeout": "timeouts", "service_lost": "service_lost"}


def _transactions(figures: Figures, core: Coordinator) -> None:
    for (saga, code), histogram in core.counts.decided.items():
        figures.value("transactions", sum(histogram.counts), saga=saga, outcome=_outcome(code), code=code)
    for name, found in (("decide_ms", core.counts.decided), ("end_ms", core.counts.ended)):
        merged: dict[tuple[str, str], Histogram] = {}
        for (saga, code), histogram in found.items():
            merged.setdefault((saga, _outcome(code)), Histogram()).add(histogram)
        for (saga, outcome), histogram in merged.items():
            figures.histogram(name, histogram, saga=saga, outcome=outcome)


def _services(figures: Figures, core: Coordinator, services: Mapping[str, Outstanding]) -> None:
    for name, caller in services.items():
        figures.value("outstanding", caller.outstanding, service=name)
    for name, report in core.breakers.items():
        figures.value("breaker", _BREAKERS[BreakerState(report.state)], service=name)
    for name, service in core.traffic.services.items():
        figures.value("waiting", service.waiting, service=name)
        for phase, answers in (("prepare", service.prepared), ("finish", service.finished)):
            for step, histogram in answers.items():
                figures.histogram("step_ms", histogram, service=name, step=step, phase=phase)


def _outcome(code: str) -> str:
    return ABORTED if code else COMMITTED
