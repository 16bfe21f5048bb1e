"""What two readings of an actor's figures say together: rates, and quantiles of the time between them."""

from __future__ import annotations

from typing import Any

from orchestrator.metrics.figures import quantile
from orchestrator.metrics.registry import METRICS

Figures = dict[str, Any]  # of one actor, as its status has them


def series(figures: Figures | None, name: str, **labels: str) -> list[dict[str, Any]]:
    """The series of a metric whose labels are these; none where the actor did not answer.

    Args:
        figures: of one actor; None or {} is a silent one.
        name: see `orchestrator.metrics.registry`.
        labels: those that must fit; the others may be anything.
    """
    assert name in METRICS, name
    found = ((figures or {}).get("metrics") or {}).get(name, [])
    return [one for one in found if all(one[label] == text for label, text in labels.items())]


def total(figures: Figures | None, name: str, **labels: str) -> float:
    """The sum of the series of a counter or gauge, or of a histogram's counts."""
    values: list[float] = [one["value"] if "value" in one else one["count"] for one in series(figures, name, **labels)]
    return sum(values)


def rate_per_s(before: Figures | None, after: Figures | None, name: str, **labels: str) -> float | None:
    """How fast a counter rose between two readings of the same actor; None where that cannot be told.

    An actor that was started anew meanwhile counts from 0.
    """
    if not after or not before:
        return None
    restarted = after["since_ms"] != before["since_ms"]
    elapsed_ms: int = after["at_ms"] - (after["since_ms"] if restarted else before["at_ms"])
    if elapsed_ms <= 0:
        return None
    was = 0 if restarted else total(before, name, **labels)
    return (total(after, name, **labels) - was) * 1_000 / elapsed_ms


def quantile_between(
    before: Figures | None, after: Figures | None, name: str, share: float, **labels: str,
) -> float | None:
    """A quantile of what a histogram counted between two readings, over all series that fit; None if it counted nothing.

    Args:
        before: the older reading; None: since the actor's start.
        after: the newer one.
        name: of the histogram.
        share: 0.99 for the 99th percentile.
        labels: those that must fit.
    """
    found = series(after, name, **labels)
    if not found:
        return None
    counts = _counts(found)
    if before and after and before["since_ms"] == after["since_ms"]:
        old = series(before, name, **labels)
        counts = [now - then for now, then in zip(counts, _counts(old), strict=True)] if old else counts
    return quantile(found[0]["bounds"], counts, share)


def _counts(found: list[dict[str, Any]]) -> list[int]:
    return [sum(column) for column in zip(*(one["counts"] for one in found), strict=True)]
