"""A frame of `raytx top` as tables; what cannot be told reads as "-"."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.logs import redact
from orchestrator.rendering import STATE_STYLES, iso
from orchestrator.waterfall import told_ms

UNKNOWN = "-"
_BREAKER_STYLES = {"open": "bold red", "half_open": "yellow"}
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_CODES_MAX = 4
_WIDE = 100
_WIDE_ONLY = {"fsync p99", "held", "restarts", "partitions", "append p99", "appends/s", "fsync p50"}
_TEN = 10


def view(found: Mapping[str, Any], heading: str, remarks: list[str], width: int) -> RenderableType:
    """All tables of a frame.

    Args:
        found: the frame.
        heading: what is looked at.
        remarks: what else has to be seen first: what is paused, what could not be asked.
        width: columns of the terminal.
    """
    narrow = width < _WIDE
    at = iso(found["at_ms"]) if found["at_ms"] else UNKNOWN
    over = f" over {found['seconds']:.1f} s" if found["seconds"] else ""
    parts: list[RenderableType] = [Text(heading, "bold"), Text(f"{at}{over}")]
    parts += [Text(remark, "bold yellow") for remark in remarks]
    parts += ["", _totals(found["totals"]), "", _services(found["services"], narrow=narrow), ""]
    parts += [_shards(found["shards"], narrow=narrow), ""]
    parts.append(Text("log: no answer", "bold red") if found["log"] is None else _log(found["log"], narrow=narrow))
    if found["sagas"]:
        parts += ["", _sagas(found["sagas"], narrow=narrow)]
    return Group(*parts)


def _totals(totals: Mapping[str, Any]) -> RenderableType:
    rates = Text(
        f"committed {per_s(totals['committed_per_s'])}   aborted {per_s(totals['aborted_per_s'])}   "
        f"refused {per_s(totals['rejected_per_s'])}   retries {per_s(totals['retries_per_s'])}   "
        f"timeouts {per_s(totals['timeouts_per_s'])}")
    latency = Text(
        f"decided p50 {ms(totals['decide_p50_ms'])} p99 {ms(totals['decide_p99_ms'])}   "
        f"then ended p50 {ms(totals['end_p50_ms'])} p99 {ms(totals['end_p99_ms'])}")
    now = Text(f"open {count(totals['open'])}")
    for name, told in (("parked", "parked"), ("in_doubt", "in doubt"), ("fenced", "fenced")):
        now.append(f"   {told} {count(totals[name])}", "bold yellow" if totals[name] else "")
    return Group(rates, latency, now)


def _services(services: list[Mapping[str, Any]], *, narrow: bool) -> Table:
    return _table([{
        "service": Text(one["service"]), "state": _state(one["state"]), "breaker": _breaker(one["breaker"]),
        "answers/s": rate(one["answers_per_s"]), "p50 ms": number(_answered(one, "p50")),
        "p99 ms": number(_answered(one, "p99")), "fsync p99": number(one["commit_p99_ms"]), "waiting": count(one["waiting"]),
        "held": count(one["held"]), "in doubt": count(one["in_doubt"]), "restarts": count(one["restarts"]),
    } for one in services], narrow=narrow)


def _answered(service: Mapping[str, Any], share: str) -> float | None:
    """Of its prepares; a service that has none performs."""
    prepared: float | None = service[f"prepare_{share}_ms"]
    finished: float | None = service[f"finish_{share}_ms"]
    return finished if prepared is None else prepared


def _shards(shards: list[Mapping[str, Any]], *, narrow: bool) -> Table:
    return _table([{
        "shard": Text(one["name"]), "state": _state(one["state"]), "epoch": count(one["epoch"]),
        "partitions": count(one["partitions"]), "open": count(one["open"]), "decided/s": rate(one["decided_per_s"]),
        "p50 ms": number(one["decide_p50_ms"]), "p99 ms": number(one["decide_p99_ms"]),
        "append p99": number(one["append_p99_ms"]), "restarts": count(one["restarts"]),
    } for one in shards], narrow=narrow)


def _log(log: Mapping[str, Any], *, narrow: bool) -> Table:
    return _table([{
        "log": Text(log["name"]), "state": _state(log["state"]), "epoch": count(log["epoch"]),
        "records/s": rate(log["records_per_s"]), "appends/s": rate(log["appends_per_s"]),
        "fsync p50": number(log["commit_p50_ms"]), "fsync p99": number(log["commit_p99_ms"]), "queue": count(log["queue"]),
        "size": size(log["database_bytes"]), "disk free": size(log["disk_free_bytes"]),
    }], narrow=narrow)


def _sagas(sagas: list[Mapping[str, Any]], *, narrow: bool) -> Table:
    return _table([{
        "saga": Text(one["saga"]), "committed/s": rate(one["committed_per_s"]), "aborted/s": rate(one["aborted_per_s"]),
        "p50 ms": number(one["decide_p50_ms"]), "p99 ms": number(one["decide_p99_ms"]), "aborts so far": _codes(one["codes"]),
    } for one in sagas], narrow=narrow)


def _codes(codes: Mapping[str, float]) -> Text:
    told = [f"{redact(code)} {count(times)}" for code, times in codes.items()]
    return Text(", ".join(told[:_CODES_MAX]) + (f", {len(told) - _CODES_MAX} more" if len(told) > _CODES_MAX else ""))


def _table(rows: list[dict[str, Text | str]], *, narrow: bool) -> Table:
    """Texts to the left, figures to the right; what a narrow terminal has no room for is left out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    headers = [header for header in (rows[0] if rows else {}) if not (narrow and header in _WIDE_ONLY)]
    for header in headers:
        figure = isinstance(rows[0][header], str)
        table.add_column(header, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    for row in rows:
        table.add_row(*(row[header] for header in headers))
    return table


def _state(state: str) -> Text:
    return Text(state, STATE_STYLES.get(state, ""))


def _breaker(breaker: Mapping[str, Any] | None) -> Text:
    if breaker is None:
        return Text(UNKNOWN)
    told = breaker["state"].replace("_", " ")
    if breaker["state"] != "closed":
        for_ms = max(time.time_ns() // 1_000_000 - breaker["since_ms"], 0)
        told += f" {told_ms(for_ms)}, {redact(breaker['last_error'] or breaker['cause'])}"
    return Text(told, _BREAKER_STYLES.get(breaker["state"], ""))


def rate(value: float | None) -> str:
    """A rate without its unit."""
    return UNKNOWN if value is None else f"{value:,.1f}" if 0 < value < _TEN else f"{value:,.0f}"


def per_s(value: float | None) -> str:
    """A rate with its unit."""
    return UNKNOWN if value is None else f"{rate(value)}/s"


def number(value: float | None) -> str:
    """Milliseconds without their unit."""
    return UNKNOWN if value is None else f"{value:.1f}" if value < _TEN else f"{value:,.0f}"


def ms(value: float | None) -> str:
    """Milliseconds with their unit."""
    return UNKNOWN if value is None else f"{number(value)} ms"


def count(value: float | None) -> str:
    """A whole number."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return UNKNOWN
    return next((f"{value / unit:.1f} {name}" for unit, name in _UNITS if value >= unit), f"{value:.0f} B")
