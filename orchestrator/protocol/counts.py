"""What is counted on the way, in plain integers: histograms of fixed buckets, and what a shard's core has come to."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (  # milliseconds, or how many
    1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 20_000,
    30_000, 60_000, 300_000, 3_600_000)
BOUNDS_OF_COMMITS_MS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1_000, 5_000, 30_000)
CODES_MAX = 64  # of one saga: codes of refusals are the services' own words, and every one is a series of its own
OTHER = "OTHER"


class Histogram:
    """How many values lay at or below each bound, and not below the one before; the last bucket has no bound.

    Args:
        bounds: rising.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Count all that another one of the same bounds has counted."""
        assert self.bounds == other.bounds
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Counts:
    """What the transactions of a shard came to since its incarnation began, and how long they took.

    Attributes:
        decided: accepted to decided, ms, by (saga, code); the code of a commit is empty.
        ended: decided to ended, ms, by (saga, code).
    """

    def __init__(self) -> None:
        self.decided: dict[tuple[str, str], Histogram] = {}
        self.ended: dict[tuple[str, str], Histogram] = {}
        self._codes: dict[str, set[str]] = {}

    def decide(self, saga: str, code: str, took_ms: int) -> None:
        """A decision is durable, this long after the transaction was accepted."""
        found = self.decided.get((saga, code)) or self._series(self.decided, saga, code)
        found.observe(max(took_ms, 0))  # a clock may have run backwards between two incarnations

    def end(self, saga: str, code: str, took_ms: int) -> None:
        """Everybody has acknowledged, this long after the decision."""
        found = self.ended.get((saga, code)) or self._series(self.ended, saga, code)
        found.observe(max(took_ms, 0))

    def _series(self, histograms: dict[tuple[str, str], Histogram], saga: str, code: str) -> Histogram:
        codes = self._codes.setdefault(saga, set())
        if code not in codes and len(codes) >= CODES_MAX:
            code = OTHER
        codes.add(code)
        return histograms.setdefault((saga, code), Histogram())
