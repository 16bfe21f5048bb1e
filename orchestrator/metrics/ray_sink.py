"""Ray's metrics as a sink: every node's metrics agent offers to Prometheus what its workers hand over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.util.metrics import Counter, Gauge

from orchestrator.metrics.registry import ACTOR, PREFIX, described

if TYPE_CHECKING:
    from orchestrator.metrics.export import Labels


class RaySink:
    """Makes each metric when it is first told of; for a process that is a worker of Ray."""

    def __init__(self) -> None:
        self._counters: dict[str, Any] = {}
        self._gauges: dict[str, Any] = {}

    def add(self, name: str, labels: Labels, amount: float) -> None:
        """Raise a counter."""
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters[name] = Counter(name, *_described(name))
        counter.inc(amount, labels)

    def set(self, name: str, labels: Labels, value: float) -> None:
        """Set a gauge."""
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = self._gauges[name] = Gauge(name, *_described(name))
        gauge.set(value, labels)


def _described(name: str) -> tuple[str, tuple[str, ...]]:
    """What a metric is about, and its labels."""
    about, labels = described(name.removeprefix(PREFIX))
    return about, (*labels, ACTOR)
