"""Two results side by side: ratios, since a machine's own speed may change by the hour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table

from loadgen.result import LoadResult

UNTOLD = frozenset({"data", "history"})  # settings that may differ between runs that are alike


class Row(NamedTuple):
    """One figure of both; the ratio is the second by the first, None where the first is nothing."""

    what: str
    first: float
    second: float

    @property
    def ratio(self) -> float | None:
        """The second by the first."""
        return self.second / self.first if self.first else None


class Comparison:
    """What two results have in common, and what sets them apart.

    Args:
        first: by which the other one is divided.
        second: the other one.
    """

    def __init__(self, first: LoadResult, second: LoadResult) -> None:
        self._first, self._second = first, second
        self.rows = list(_rows(first, second))
        asked, asked_second = _asked(first), _asked(second)
        self.differing = {
            name: (asked.get(name), asked_second.get(name))
            for name in sorted((asked.keys() | asked_second.keys()) - UNTOLD) if asked.get(name) != asked_second.get(name)}

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "runs": [self._first.run, self._second.run], "ok": [self._first.ok, self._second.ok],
            "differing_settings": {name: list(values) for name, values in self.differing.items()},
            "figures": {
                row.what: {"first": row.first, "second": row.second,
                           "ratio": None if row.ratio is None else round(row.ratio, 4)} for row in self.rows}}

    def render(self) -> RenderableType:
        """Tables for a terminal."""
        table = Table("what", f"A {self._first.run}", f"B {self._second.run}", "B / A")
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            table.add_row(row.what, f"{row.first:,.6g}", f"{row.second:,.6g}", ratio)
        notes = [f"differs: {name}: {first} and {second}" for name, (first, second) in self.differing.items()]
        notes += [
            f"[red]{name} is not ok: see its audit, history, refusals and notes[/red]"
            for name, result in (("A", self._first), ("B", self._second)) if not result.ok]
        return Group(table, *notes)


def _asked(result: LoadResult) -> dict[str, Any]:
    """What was asked for and what it ran on: the deployment's own settings, such as its shards, stand beside the load's."""
    settings = dict(result.settings)
    return {**settings.pop("deployment", {}), **settings, "seed": result.seed}


def _rows(first: LoadResult, second: LoadResult) -> Iterator[Row]:
    yield Row("orders/s", first.orders_per_s, second.orders_per_s)
    if first.capacity is not None and second.capacity is not None:
        yield Row("capacity/s", first.capacity.rate_per_s, second.capacity.rate_per_s)
    for name in (name for name in first.latency_ms if name in second.latency_ms):
        yield Row(f"latency {name} ms", first.latency_ms[name], second.latency_ms[name])
    for role in sorted(first.cpu_us_per_order.keys() | second.cpu_us_per_order.keys()):
        yield Row(f"CPU µs/order {role}", first.cpu_us_per_order.get(role, 0.0), second.cpu_us_per_order.get(role, 0.0))
    for what in ("aborted", "rejected", "unknown"):
        yield Row(f"{what} of 100", _share(first, what), _share(second, what))
    yield Row("repeats", first.repeats, second.repeats)
    yield Row("restarts", first.restarts, second.restarts)


def _share(result: LoadResult, what: str) -> float:
    number: int = getattr(result, what)
    return round(100 * number / result.orders, 3) if result.orders else 0.0
