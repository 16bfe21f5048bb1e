"""How the command line shows things to a person; `--json` shows the same as data."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from orchestrator.logs import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from orchestrator.audit import AuditReport
    from orchestrator.deployment import DeploymentRecord

WIDTH_OF_PIPE = 200  # nothing is wrapped or cut where no terminal says how wide it is

STATE_STYLES = {
    "committed": "green", "aborted": "red", "serving": "green", "recovering": "yellow", "refused": "bold red",
    "unreachable": "bold red", "rejected": "red", "unknown": "yellow"}


def console() -> Console:
    """Standard output."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_PIPE, highlight=False)


@contextmanager
def told_progress() -> Iterator[Callable[[str], None]]:
    """A spinner with what is being done, on stderr; plain lines where that is no terminal."""
    err = Console(stderr=True, highlight=False)
    if not err.is_terminal:
        yield lambda text: err.print(f"raytx: {text}", markup=False, soft_wrap=True)
        return
    with err.status("starting") as status:
        yield lambda text: status.update(Text(text))


@contextmanager
def counted_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with stage, done and total, on stderr; nothing where that is no terminal."""
    err = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total or None)


def deployment_json(record: DeploymentRecord, data: str) -> dict[str, Any]:
    """What runs where, as data."""
    return {
        "data": data, "state": record.state, "namespace": record.namespace, "run": record.run, "app": record.app,
        "address": record.address, "dashboard": record.dashboard, "own_head": record.own_head, "keeper": record.keeper,
        "pid": record.owner.pid, "shards": record.shards, "services": record.services,
        "warnings": record.warnings}


def deployment_text(record: DeploymentRecord, data: str) -> Text:
    """What runs where, for a person."""
    orchestrators = f"{record.shards} orchestrator{'s' if record.shards > 1 else ''}"
    who = "keeper" if record.keeper else "embedded in"
    lines = [
        f"deployment  {data}  ({record.namespace})",
        f"app         {record.app}: log, {orchestrators}, services {', '.join(record.services)}",
        f"Ray         {record.address}{'' if record.own_head else ' (joined)'}  {who} pid {record.owner.pid}"]
    if record.dashboard:
        lines.append(f"dashboard   {record.dashboard}  (asks for the token in {record.token_path})")
    lines += [f"warning     {text}" for text in record.warnings]
    return Text("\n".join(lines))


def actors_table(actors: Sequence[Mapping[str, Any]]) -> Table:
    """Every actor's health."""
    table = _table("actor", "role", "state", "pid", "node", "epoch", "restarts", "detail")
    for actor in actors:
        table.add_row(
            actor["name"], actor["role"], _state(actor["state"]),
            *(_or_dash(actor.get(name)) for name in ("pid", "node", "epoch", "restarts")), _detail(actor.get("detail")))
    return table


def outcomes_table(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """What became of each transaction that was submitted."""
    table = _table("status", "transaction", "key", "code", "service", "message")
    for one in outcomes:
        table.add_row(
            _state(one["status"].lower()), one["transaction"] or "-", one["key"], one["code"], one["service"], one["message"])
    return table


def audit_text(report: AuditReport) -> RenderableType:
    """An audit's findings, the worst first."""
    verdict = Text("audit ok", "bold green") if report.ok else Text(f"audit failed: {report.violations} violations", "bold red")
    counts = Text(f"{report.committed} committed, {report.aborted} aborted, {report.open} open, {report.parked} parked")
    parts: list[RenderableType] = [verdict, counts]
    if report.totals:
        totals = _table("total", "value")
        for name, value in report.totals.items():
            totals.add_row(name, f"{value:,}")
        parts.append(totals)
    for title, one in (("worst", report.worst_violation), ("first", report.first_violation)):
        if one is not None:
            parts.append(Text(f"{title}: {one.check.value} {one.transaction} {redact(one.text)}", "red"))
    failed = [f"{name} {count}" for name, count in report.by_check.items() if count]
    if failed:
        parts.append(Text(f"by check: {', '.join(failed)}"))
    parts += [
        Text(f"asserted by an operator: {one.transaction} step {one.step!r} counts as {one.decision}, says {redact(one.who)}: "
             f"{one.reason}", "yellow") for one in report.asserted_steps]
    if report.asserted > len(report.asserted_steps):
        parts.append(Text(f"asserted by an operator: {report.asserted} in all", "yellow"))
    parts += [Text(f"left out: {text}") for text in report.left_out]
    return Group(*parts)


def iso(at_ms: int) -> str:
    """A time (Unix ms) in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z" if at_ms else ""


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, no_wrap=header in {"transaction", "state", "status", "pid"}, overflow="fold")
    return table


def _state(state: str) -> Text:
    return Text(state, STATE_STYLES.get(state, ""))


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)


def _detail(detail: Any) -> Text:
    if isinstance(detail, dict):
        return Text(", ".join(f"{name} {value}" for name, value in detail.items()))
    return Text(str(detail or ""))
