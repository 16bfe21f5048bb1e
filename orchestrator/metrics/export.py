"""Hands an actor's figures on a timer to Ray's metrics, and so to Prometheus.

A histogram leaves as counters of its buckets, one for each `le`, with `_sum` and `_count`: `histogram_quantile` reads them
like any other. (Ray's own Histogram takes values one by one, which costs the actor a call each, and its agent records them
one by one again.) Counters only ever get what was added since: Ray's agent keeps their totals when an actor is restarted.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.logs import log_event
from orchestrator.metrics.registry import ACTOR, BUCKET_LABEL, METRICS, PREFIX, Metric, Type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERIES_A_TURN = 32  # handed over before the event loop gets on with its work
THINNED = 2  # of the bounds of a histogram every second one is exported: each is a series of its own in Ray's agent

Labels = dict[str, str]


class Sink(Protocol):
    """Where metrics go."""

    def add(self, name: str, labels: Labels, amount: float) -> None:
        """Raise a counter."""

    def set(self, name: str, labels: Labels, value: float) -> None:
        """Set a gauge."""


class Exporter:
    """Hands over what has changed since the last time; lives on the actor's event loop.

    Args:
        actor: the label that every series has.
        gather: the actor's figures, see `orchestrator.metrics.figures`.
        sink: where they go.
    """

    def __init__(self, actor: str, gather: Callable[[], dict[str, Any]], sink: Sink) -> None:
        self._actor, self._gather, self._sink = actor, gather, sink
        self._told: dict[tuple[str, ...], float] = {}  # total of a counter's series when it was last handed over

    async def run(self, every_ms: int) -> None:
        """Hand over for ever, every so many ms; what fails is told once, and never disturbs the actor."""
        told = False
        while True:
            await asyncio.sleep(every_ms / 1_000)
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - nobody's transactions wait for a metric
                if not told:
                    log_event("metrics_failed", level="WARNING", message=f"{type(error).__name__}: {error}")
                told = True

    async def flush(self) -> None:
        """Hand over once, in small portions."""
        for number, (name, labels, amount, rises) in enumerate(samples(self._gather()["metrics"]), start=1):
            labels[ACTOR] = self._actor
            if rises:
                self._raise(name, labels, amount)
            else:
                self._sink.set(name, labels, amount)
            if number % SERIES_A_TURN == 0:
                await asyncio.sleep(0)

    def _raise(self, name: str, labels: Labels, total: float) -> None:
        key = (name, *labels.values())
        added = total - self._told.get(key, 0)
        if added > 0:
            self._sink.add(name, labels, added)
            self._told[key] = total


def samples(metrics: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, Labels, float, bool]]:
    """Figures as single samples: name without Ray's prefix and suffix, labels, value, and whether it is a counter's total."""
    for name, found in metrics.items():
        metric = METRICS[name]
        for series in found:
            labels = {label: series[label] for label in metric.labels}
            if metric.type is Type.HISTOGRAM:
                yield from _histogram(metric, series, labels)
            else:
                yield PREFIX + name, labels, series["value"], metric.type is Type.COUNTER


def _histogram(metric: Metric, series: dict[str, Any], labels: Labels) -> Iterator[tuple[str, Labels, float, bool]]:
    below = 0
    base = PREFIX + metric.name
    for number, (bound, count) in enumerate(zip([*series["bounds"], "+Inf"], series["counts"], strict=True)):
        below += count
        if number % THINNED == 0 or bound == "+Inf":
            yield f"{base}_bucket", {**labels, BUCKET_LABEL: str(bound)}, below, True
    yield f"{base}_sum", labels, series["sum"], True
    yield f"{base}_count", dict(labels), series["count"], True


async def export(actor: str, gather: Callable[[], dict[str, Any]], every_ms: int) -> None:
    """Hand an actor's figures to Ray for as long as it lives; at once over where that is switched off, or without Ray.

    Args:
        actor: its name.
        gather: its figures.
        every_ms: how often; 0: never.
    """
    ray = sys.modules.get("ray")  # slow to import: an actor of Ray has it, and others do without
    if not every_ms or ray is None or not ray.is_initialized():
        return
    from orchestrator.metrics.ray_sink import RaySink  # noqa: PLC0415 - as above

    await Exporter(actor, gather, RaySink()).run(every_ms)
