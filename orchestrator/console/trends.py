"""How things went in the last minutes: points kept from every sample, and what the newest samples say of each actor."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.console.plot import Plot, Series, plot
from orchestrator.metrics.figures import quantile
from orchestrator.metrics.reading import rate_per_s, series, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WINDOW_MS = 5_000  # over which a rate or a quantile is taken
KEPT_MS = 10 * 60_000
GAP_MS = 8_000  # between points: the line is broken where nothing was sampled
_WINDOW_SAMPLES = 12
_MINUTE_MS = 60_000

Figures = dict[str, Any]


class Sample(NamedTuple):
    """What every actor said at one moment (Unix ms)."""

    at_ms: int
    statuses: list[dict[str, Any]]

    def figures(self) -> dict[str, Figures]:
        """The figures of every actor that gave some, by name."""
        return {status["name"]: status["figures"] for status in self.statuses if status.get("figures")}


class Point(NamedTuple):
    """The whole deployment at one moment; None is what is not known. Rates are per second."""

    at_ms: int
    committed: float | None
    aborted: float | None
    refused: float | None
    p50_ms: float | None
    p99_ms: float | None
    open: float | None


class Reading:
    """Two samples some seconds apart, and what they say together of some actors.

    Args:
        before: the older one.
        after: the newer one.
    """

    def __init__(self, before: Sample, after: Sample) -> None:
        self._before, self._after = before.figures(), after.figures()

    def total(self, name: str, actors: str = "", **labels: str) -> float | None:
        """The sum of a gauge over the actors whose name begins so; None where none of them tells it."""
        known = [figures for figures in self._of(actors).values() if series(figures, name)]
        return sum(total(figures, name, **labels) for figures in known) if known else None

    def rate(self, name: str, actors: str = "", **labels: str) -> float | None:
        """How fast a counter rises, over those actors."""
        rates = [rate_per_s(self._before.get(actor), figures, name, **labels) for actor, figures in self._of(actors).items()]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known else None

    def quantile(self, name: str, share: float, actors: str = "", **labels: str) -> float | None:
        """A quantile of what a histogram counted between the samples, over those actors; None if it counted nothing."""
        bounds: list[float] = []
        counts: list[int] = []
        for actor, figures in self._of(actors).items():
            before = self._before.get(actor)
            same = before is not None and before["since_ms"] == figures["since_ms"]
            for sign, found in ((1, series(figures, name, **labels)), (-1, series(before, name, **labels) if same else [])):
                for one in found:
                    bounds, counts = one["bounds"], _added(counts, one["counts"], sign)
        return quantile(bounds, counts, share) if sum(counts) > 0 else None

    def mean(self, name: str, actors: str = "") -> float | None:
        """The mean of a histogram's values since the actors' start."""
        found = [one for figures in self._of(actors).values() for one in series(figures, name)]
        count = sum(one["count"] for one in found)
        return sum(one["sum"] for one in found) / count if count else None

    def _of(self, actors: str) -> dict[str, Figures]:
        return {name: figures for name, figures in self._after.items() if name.startswith(actors)}


class Trends:
    """Points of the last ten minutes; thread-safe."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_WINDOW_SAMPLES)
        self._points: deque[Point] = deque()
        self._lock = threading.Lock()

    def add(self, sample: Sample) -> None:
        """One more sample, newer than all before."""
        with self._lock:
            while self._samples and self._samples[0].at_ms < sample.at_ms - 2 * WINDOW_MS:
                self._samples.popleft()
            self._samples.append(sample)
            self._points.append(_point(sample.at_ms, self._reading()))
            while self._points[0].at_ms < sample.at_ms - KEPT_MS:
                self._points.popleft()

    def latest(self) -> Sample | None:
        """The newest sample."""
        with self._lock:
            return self._samples[-1] if self._samples else None

    def reading(self) -> Reading | None:
        """The newest sample against one of some seconds before; None before the second one."""
        with self._lock:
            return self._reading() if self._samples else None

    def points(self) -> list[Point]:
        """The oldest first."""
        with self._lock:
            return list(self._points)

    def _reading(self) -> Reading:
        newest = self._samples[-1]
        return Reading(next((one for one in self._samples if one.at_ms >= newest.at_ms - WINDOW_MS), newest), newest)


def plots(points: Sequence[Point], now_ms: int) -> list[Plot]:
    """Throughput, latency and what is open, over the last ten minutes, or as long as it was sampled."""
    sampled_ms = now_ms - points[0].at_ms if points else 0
    begin_ms = now_ms - min(max(-(-sampled_ms // _MINUTE_MS), 1) * _MINUTE_MS, KEPT_MS)
    lines = (
        ("Decided", "transactions/s", (("committed", "good", "committed"), ("aborted", "bad", "aborted"),
                                       ("refused", "warn", "refused"))),
        ("Time to the decision", "ms", (("half within", "accent", "p50_ms"), ("99 % within", "busy", "p99_ms"))),
        ("Open", "transactions", (("open", "accent", "open"),)))
    return [
        plot(title, unit, [Series(name, kind, _line(points, field)) for name, kind, field in of],
             begin_ms=begin_ms, end_ms=now_ms)
        for title, unit, of in lines]


def _point(at_ms: int, reading: Reading) -> Point:
    return Point(
        at_ms, reading.rate("transactions", "shard-", outcome="committed"),
        reading.rate("transactions", "shard-", outcome="aborted"), reading.rate("rejected", "shard-"),
        reading.quantile("decide_ms", 0.5, "shard-"), reading.quantile("decide_ms", 0.99, "shard-"),
        reading.total("open", "shard-"))


def _line(points: Iterable[Point], field: str) -> list[tuple[int, float | None]]:
    line: list[tuple[int, float | None]] = []
    for point in points:
        if line and point.at_ms - line[-1][0] > GAP_MS:
            line.append((point.at_ms, None))
        line.append((point.at_ms, getattr(point, field)))
    return line


def _added(counts: list[int], more: Sequence[int], sign: int) -> list[int]:
    return [was + sign * one for was, one in zip(counts or [0] * len(more), more, strict=True)]
