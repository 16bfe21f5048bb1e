"""What a benchmark came to: a table for people, one JSON object for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.alternation import Ratio, Rounds, all_ok, middle, ratio
from benchmarks.comparisons import Comparison

BY_ROLE = "cpu_us_per_order"
DETAILED = ("bytes_on_disk_per_order.", "bytes_written_per_order.", "commits_per_order.", "exchanges_per_order.",
            "fsync_per_order.", "fdatasync_per_order.", "sendmsg_per_order.", "sendto_per_order.", "rss_mb.",
            "rss_mb_further.", "rss_growth.", "rss_bytes_per_open.")


def render(name: str, comparison: Comparison, rounds: Rounds, *, detailed: bool = False) -> RenderableType:
    """Medians by side, ratios to the base with their range, CPU by role."""
    parts: list[RenderableType] = [_medians(name, comparison, rounds)]
    if comparison.base:
        parts.append(_ratios(comparison, rounds))
    parts.append(_roles(rounds))
    if detailed:
        parts.append(_details(rounds))
    parts += [f"note: {side}: {note}" for side, runs in rounds.items() for note in _notes(runs)]
    good, bad = "[bold green]every run's audit is ok[/bold green]", "[bold red]a run is NOT OK: nothing here counts[/bold red]"
    return Group(*parts, good if all_ok(rounds) else bad)


def to_json(name: str, comparison: Comparison, rounds: Rounds) -> dict[str, Any]:
    """All runs, medians of every figure, ratios of the shown ones."""
    return {
        "benchmark": name, "ok": all_ok(rounds), "base": comparison.base,
        "sides": {
            side: {
                "plan": msgspec.to_builtins(comparison.sides[side]),
                "median": {figure: middle(runs, figure) for figure in (*comparison.shown, *runs[0].figures)},
                "ratio": {figure: _plain(ratio(rounds, side, comparison.base, figure)) for figure in comparison.shown}
                if comparison.base else {},
                "runs": [msgspec.to_builtins(run) | {"orders_per_s": run.orders_per_s} for run in runs],
            } for side, runs in rounds.items()}}


def _medians(name: str, comparison: Comparison, rounds: Rounds) -> Table:
    count = max(len(runs) for runs in rounds.values())
    table = Table("", *rounds, title=f"{name}: medians of {count} runs", title_justify="left")
    for figure in comparison.shown:
        values = [middle(runs, figure) for runs in rounds.values()]
        if any(value is not None for value in values):
            table.add_row(figure, *(_number(value) for value in values))
    return table


def _ratios(comparison: Comparison, rounds: Rounds) -> Table:
    others = [side for side in rounds if side != comparison.base]
    title = f"divided by {comparison.base!r}: median (least to most) of the rounds"
    table = Table("", *others, title=title, title_justify="left")
    for figure in comparison.shown:
        found = [ratio(rounds, side, comparison.base, figure) for side in others]
        if any(one is not None for one in found):
            table.add_row(figure, *(_ratio(one) for one in found))
    return table


def _roles(rounds: Rounds) -> Table:
    roles = dict.fromkeys(role for runs in rounds.values() for run in runs for role in run.cpu_us_per_order)
    table = Table("CPU µs/order", *rounds, title_justify="left")
    for role in roles:
        table.add_row(role, *(_number(middle(runs, f"{BY_ROLE}.{role}")) for runs in rounds.values()))
    return table


def _details(rounds: Rounds) -> Table:
    names = dict.fromkeys(
        figure for runs in rounds.values() for run in runs for figure in sorted(run.figures) if figure.startswith(DETAILED))
    table = Table("by actor or database", *rounds, title_justify="left")
    for figure in names:
        table.add_row(figure, *(_number(middle(runs, figure)) for runs in rounds.values()))
    return table


def _notes(runs: Any) -> list[str]:
    return list(dict.fromkeys(note for run in runs for note in run.notes))


def _plain(found: Ratio | None) -> Mapping[str, float] | None:
    return None if found is None else found._asdict()


def _ratio(found: Ratio | None) -> str:
    return "" if found is None else f"{found.median:,.3g} ({found.least:,.3g} to {found.most:,.3g})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"  # noqa: PLR2004 - three digits are enough
