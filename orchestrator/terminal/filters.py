"""The options that choose transactions; the commands that list, follow or act on several have the same ones."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.finding import STATES, TransactionQuery
from orchestrator.terminal.options import parse_age, parse_time

StateFilter = Annotated[
    str | None, typer.Option("--state", help="preparing, committing, committed, aborting, aborted, or open (not ended).")]
SagaFilter = Annotated[str | None, typer.Option("--saga", help="Name of the saga.")]
CodeFilter = Annotated[str | None, typer.Option("--code", help="Why it aborted, or why a step is parked.")]
ServiceFilter = Annotated[str | None, typer.Option("--service", help="Where it aborted, or where a step is parked.")]
ParkedFilter = Annotated[bool | None, typer.Option("--parked/--no-parked", help="Whether a step needs an operator.")]
KeyFilter = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Business key (for example the order's id) or idempotency key.")]
SinceFilter = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Begun at or after: ISO time, or so long ago: 90s, 15m, 2h, 1d.")]
UntilFilter = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Begun at or before.")]
OlderFilter = Annotated[str | None, typer.Option("--older-than", metavar="AGE", help="Begun longer ago than 90s, 15m, 2h, 1d.")]


def query_of(
    *, since: str | None = None, until: str | None = None, older_than: str | None = None, state: str | None = None, **more: Any,
) -> TransactionQuery:
    """The query that the options ask for.

    Args:
        since: as given.
        until: as given.
        older_than: as given; not together with `until`.
        state: in any case.
        more: other fields of `TransactionQuery`.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming the option.
    """
    if until is not None and older_than is not None:
        raise DefiniteError(ErrorCode.INVALID_INPUT, "--until and --older-than both say how young: give one of them")
    until_ms = parse_time("--until", until)
    if older_than is not None:
        until_ms = time.time_ns() // 1_000_000 - parse_age("--older-than", older_than)
    if state and state.lower() not in {*STATES, "open"}:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"--state must be one of {', '.join(STATES)}, open; got {state!r}")
    return TransactionQuery(
        state=state.lower() if state else None, since_ms=parse_time("--since", since), until_ms=until_ms, **more)
