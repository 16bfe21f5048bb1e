"""`raytx list`: transactions by what is asked of them, the newest first, a page at a time."""

import time
from contextlib import closing
from typing import Annotated

import msgspec
import typer

from orchestrator import rendering
from orchestrator.log.reader import LogReader
from orchestrator.logs import redact
from orchestrator.terminal.answer import answer, report_errors
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
from orchestrator.terminal.list_view import transactions_table
from orchestrator.terminal.options import DATA_DEFAULT, Data, Json, checked_id, existing


def list_transactions(
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
    after: Annotated[str | None, typer.Option(metavar="ID", help="Older than this one: the next page.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lines of a page.")] = 50,
    as_json: Json = False,
) -> None:
    """List transactions, the newest first; works with the deployment up or down.

    Example: raytx list --state aborted --service payment --since 15m
    """
    with report_errors(as_json=as_json):
        query = query_of(
            state=state, saga=saga, code=code, service=service, parked=parked, key=key, since=since, until=until,
            older_than=older_than, limit=limit, after=after and checked_id("--after", after))
        with closing(LogReader(existing(data).log_path)) as log:
            found = log.find(query)
        plain = [redact(msgspec.to_builtins(one)) | {"transaction": one.transaction} for one in found]
        table = transactions_table(found, time.time_ns() // 1_000_000, rendering.console().width)
        answer({"transactions": plain}, table, as_json=as_json)
