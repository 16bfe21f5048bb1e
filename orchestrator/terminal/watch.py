"""`raytx watch`: what becomes of transactions, line by line, as it becomes durable."""

import contextlib
import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from orchestrator import rendering
from orchestrator.log.following import Change, LogFollower
from orchestrator.logs import redact
from orchestrator.terminal.answer import EXIT_BAD, EXIT_UNREACHABLE, report_errors
from orchestrator.terminal.filters import (
    CodeFilter,
    KeyFilter,
    OlderFilter,
    ParkedFilter,
    SagaFilter,
    ServiceFilter,
    SinceFilter,
    StateFilter,
    UntilFilter,
    query_of,
)
from orchestrator.terminal.options import DATA_DEFAULT, Data, Json, checked_id, existing
from orchestrator.timeline import TimelineEvent, log_events

_STYLES = {"COMMIT": "green", "ABORT": "red", "parked": "bold yellow"}


def watch(
    transaction: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One transaction: from its begin until it has ended.")] = None,
    *,
    data: Data = DATA_DEFAULT,
    state: StateFilter = None,
    saga: SagaFilter = None,
    code: CodeFilter = None,
    service: ServiceFilter = None,
    parked: ParkedFilter = None,
    key: KeyFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    older_than: OlderFilter = None,
    limit_s: Annotated[float | None, typer.Option("--for", min=0.1, metavar="SECONDS", help="End after so long.")] = None,
    as_json: Json = False,
) -> None:
    """Follow transactions as they begin, are decided, parked and end; works with the deployment up or down.

    With an ID the command ends with the transaction: exit 0 if it committed, 1 if it aborted. Without one it follows
    those that fit the filters by then, until Ctrl-C. With --json, each line is one object.

    Example: raytx watch --saga place_order --state aborted
    """
    with report_errors(as_json=as_json):
        query = query_of(
            state=state, saga=saga, code=code, service=service, parked=parked, key=key, since=since, until=until,
            older_than=older_than)
        if transaction is not None:
            checked_id("ID", transaction)
        last: Change | None = None
        with LogFollower(existing(data).log_path) as follower, contextlib.suppress(KeyboardInterrupt):
            changes = follower.changes(query, limit_s) if transaction is None else follower.transaction(transaction, limit_s)
            for last in changes:
                _tell(last, as_json=as_json)
    if transaction is not None and last is not None:
        if last[1].code:
            raise typer.Exit(EXIT_BAD)
        if not last[1].decided_ms:
            raise typer.Exit(EXIT_UNREACHABLE)  # its outcome is unknown


def _tell(change: Change, *, as_json: bool) -> None:
    record, summary = change
    console = rendering.console()
    for _, event in log_events(record):
        who = {
            "transaction": summary.transaction, "saga": summary.saga, "business_key": redact(summary.business_key),
            "sequence": record.sequence}
        if as_json:
            typer.echo(json.dumps({"time": rendering.iso(event.at_ms), **_plain(event), **who}))
        else:
            console.print(_line(event, who), soft_wrap=True)


def _plain(event: TimelineEvent) -> dict[str, Any]:
    return {"at_ms": event.at_ms, "what": event.what, "step": event.step, "service": event.service,
            "attempts": event.attempts, "code": event.code, "message": event.message}


def _line(event: TimelineEvent, who: dict[str, Any]) -> Text:
    style = next((style for word, style in _STYLES.items() if word in event.what), "")
    line = Text.assemble(
        f"{rendering.iso(event.at_ms)}  {who['transaction']}  ", (event.what, style))
    for part in _where(event):
        line.append(part)
    if who["business_key"]:
        line.append(f"  ({who['business_key']})", "dim")
    return line


def _where(event: TimelineEvent) -> Iterator[str]:
    if event.step:
        yield f"  {event.service + '/' if event.service else ''}{event.step}"
    if event.code:
        yield f"  {event.code}"
    if event.message:
        yield f": {event.message}"
