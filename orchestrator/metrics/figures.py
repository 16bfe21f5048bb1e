"""The figures of one actor: plain data for its status, and for whoever exports them.

`{"since_ms": ..., "at_ms": ..., "metrics": {name: [series, ...]}}`, times in Unix ms. A series is its labels with, of a counter
or a gauge, `value`, and of a histogram `count`, `sum`, `p50`, `p90`, `p99`, `max` and `counts` by bucket. Totals count from
the start of the process: a rate is the difference of two readings, see `orchestrator.metrics.reading`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orchestrator.logs import redact
from orchestrator.metrics.registry import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.protocol.counts import Histogram

LABEL_LENGTH_MAX = 64
Series = dict[str, Any]


class Figures:
    """Gathers series; every name and every label must be in the registry.

    Args:
        since_ms: when counting began, Unix ms.
    """

    def __init__(self, since_ms: int) -> None:
        self._since_ms = since_ms
        self._metrics: dict[str, list[Series]] = {}
        self._known: dict[tuple[str, ...], Series] = {}

    def value(self, name: str, value: float, **labels: str) -> None:
        """One series of a counter or a gauge; values of what is labelled alike, once it is short and redacted, are added up."""
        series = self._add(name, labels)
        series["value"] = series.get("value", 0) + value

    def refused(self, counts: Mapping[str, int]) -> None:
        """Connections of the data plane that an actor has ended, by reason; see `Endpoint.refused`."""
        for reason, count in counts.items():
            self.value("connections_refused", count, reason=reason)

    def histogram(self, name: str, histogram: Histogram, **labels: str) -> None:
        """One series of a histogram, with its quantiles."""
        series = self._add(name, labels)
        series |= {"count": sum(histogram.counts), "sum": round(histogram.sum, 3), "counts": list(histogram.counts),
                   "bounds": list(histogram.bounds)}
        series |= {told: quantile(series["bounds"], series["counts"], share) for told, share in QUANTILES.items()}

    def plain(self) -> dict[str, Any]:
        """All of it as of now."""
        return {"since_ms": self._since_ms, "at_ms": time.time_ns() // 1_000_000, "metrics": self._metrics}

    def _add(self, name: str, labels: dict[str, str]) -> Series:
        metric = METRICS[name]
        assert set(labels) == set(metric.labels), (name, labels)
        told: Series = {label: _plain(text) for label, text in labels.items()}
        key = (name, *told.values())
        if key not in self._known:
            self._known[key] = told
            self._metrics.setdefault(name, []).append(told)
        return self._known[key]


QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def quantile(bounds: list[float], counts: list[int], share: float) -> float | None:
    """A quantile as far as the buckets tell it, evenly spread within a bucket; None without values.

    Args:
        bounds: rising; what lies above the last one is taken for it.
        counts: by bucket, one more than bounds.
        share: 0.99 for the 99th percentile.
    """
    rank = sum(counts) * share
    below, lower = 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return round(lower + (bound - lower) * (rank - below) / count, 3)
        below, lower = below + count, bound
    return bounds[-1] if rank else None


def _plain(text: str) -> str:
    """A label's value as every system takes it: codes are the services' own words, and Ray's metrics are ASCII."""
    told: str = redact(str(text))
    return told.encode("ascii", "backslashreplace").decode()[:LABEL_LENGTH_MAX]
