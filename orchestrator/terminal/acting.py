"""`raytx retry`, `cancel`, `resolve`: acts on transactions, by id or by filter, each on the record."""

import getpass
import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.finding import LIMIT_MAX
from orchestrator.log.reader import LogReader
from orchestrator.logs import redact
from orchestrator.operate.selection import Selection
from orchestrator.rendering import iso
from orchestrator.terminal.answer import EXIT_BAD, EXIT_UNREACHABLE, answer, report_errors
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
from orchestrator.terminal.options import DATA_DEFAULT, SECONDS_MAX, Data, Json, TransactionId, checked_id, existing

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Transaction ids; none: those that the filters find.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what it would act on.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before acting on what filters found.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stands in the record of the act.")]
Who = Annotated[str | None, typer.Option("--who", metavar="NAME", help="Who acts; user@host where it is not given.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, max=SECONDS_MAX, help="Seconds to wait for the answers.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=LIMIT_MAX, help="At most so many, the newest first.")]


def retry(
    ids: Ids = None, *, data: Data = DATA_DEFAULT, state: StateFilter = None, saga: SagaFilter = None, code: CodeFilter = None,
    service: ServiceFilter = None, parked: ParkedFilter = None, key: KeyFilter = None, since: SinceFilter = None,
    until: UntilFilter = None, older_than: OlderFilter = None, limit: Limit = LIMIT_MAX, dry_run: DryRun = False,
    yes: Yes = False, reason: Reason = "", who: Who = None, timeout: Timeout = 30.0, as_json: Json = False,
) -> None:
    """Try at once what waits or is parked; without ids and state: of open transactions.

    Example: raytx retry --parked --service payment --reason "payment is mended"
    """
    with report_errors(as_json=as_json):
        selection = _selection(
            ids, state=state, saga=saga, code=code, service=service, parked=parked, key=key, since=since, until=until,
            older_than=older_than, limit=limit)
        code_of_exit = _act(
            "retry", data, selection, dry_run=dry_run, yes=yes or bool(ids), reason=reason, who=who, timeout_s=timeout,
            as_json=as_json)
    raise typer.Exit(code_of_exit)


def cancel(
    ids: Ids = None, *, data: Data = DATA_DEFAULT, state: StateFilter = None, saga: SagaFilter = None, code: CodeFilter = None,
    service: ServiceFilter = None, parked: ParkedFilter = None, key: KeyFilter = None, since: SinceFilter = None,
    until: UntilFilter = None, older_than: OlderFilter = None, limit: Limit = LIMIT_MAX, dry_run: DryRun = False,
    yes: Yes = False, reason: Reason = "", who: Who = None, timeout: Timeout = 30.0, as_json: Json = False,
) -> None:
    """Ask to abort; exit 1 if one is, or is being, committed already. Without ids and state: undecided transactions.

    Example: raytx cancel --saga place_order --older-than 10s --dry-run
    """
    with report_errors(as_json=as_json):
        selection = _selection(
            ids, state=state, saga=saga, code=code, service=service, parked=parked, key=key, since=since, until=until,
            older_than=older_than, limit=limit)
        code_of_exit = _act(
            "cancel", data, selection, dry_run=dry_run, yes=yes or bool(ids), reason=reason, who=who, timeout_s=timeout,
            as_json=as_json)
    raise typer.Exit(code_of_exit)


def resolve(
    transaction: TransactionId,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The parked step.")],
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="On what grounds; it stands in the record.")],
    data: Data = DATA_DEFAULT, who: Who = None, timeout: Timeout = 30.0, as_json: Json = False,
) -> None:
    """Assert that a parked step of a decided transaction has come to what the decision requires; exit 1 if refused.

    Example: raytx resolve 01a20528b877ed0000000100000003e2 pay --reason "refunded by hand, ticket 4711"
    """
    with report_errors(as_json=as_json):
        from orchestrator.client import Client  # noqa: PLC0415 - Ray takes a second to import
        from orchestrator.cluster import attach  # noqa: PLC0415
        from orchestrator.operate.acts import Operator  # noqa: PLC0415

        with Client(attach(data)) as client:
            acted = Operator(client, timeout).resolve(transaction, step, who=who or acting(), reason=reason)
        _tell([acted], as_json=as_json)
    raise typer.Exit(exit_code([acted]))


def acts(
    transaction: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only acts on this transaction.")] = None, *,
    data: Data = DATA_DEFAULT, limit: Annotated[int, typer.Option(min=1, max=LIMIT_MAX, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """What operators did, when and why, the newest first; works with the deployment up or down.

    Example: raytx acts --limit 20
    """
    with report_errors(as_json=as_json):
        with closing(LogReader(existing(data).log_path)) as log:
            found = log.acts(transaction and checked_id("ID", transaction), limit)
        table = _table("time", "who", "act", "on", "step", "reason")
        plain = []
        for one in found:
            act = one.act
            on = act.transaction or (f"saga {act.saga}" if act.saga else f"service {act.service}")
            table.add_row(*map(Text, (
                iso(one.stored_ms), str(redact(act.who)), act.kind.name.lower(), on, act.step, str(redact(act.reason)))))
            plain.append({
                "number": one.number, "stored_ms": one.stored_ms, "act": act.kind.name.lower(), "who": redact(act.who),
                "reason": redact(act.reason), "at_ms": act.at_ms, "transaction": act.transaction, "step": act.step,
                "saga": act.saga, "service": act.service})
        answer({"acts": plain}, table, as_json=as_json)


def acting() -> str:
    """Who acts where nobody is named: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _selection(ids: list[str] | None, **filters: Any) -> Selection:
    limit = filters.pop("limit")
    named = [f"--{name.replace('_', '-')}" for name, value in filters.items() if value is not None]
    if ids and named:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"{named[0]}: give either ids or filters")
    if not ids and not named:
        raise DefiniteError(ErrorCode.INVALID_INPUT, "name transactions, or a filter such as --parked or --state open")
    return ids or query_of(limit=limit, **filters)


def _act(
    name: str, data: Path, selection: Selection, *, dry_run: bool, yes: bool, reason: str, who: str | None, timeout_s: float,
    as_json: bool,
) -> int:
    from orchestrator.client import Client  # noqa: PLC0415 - Ray takes a second to import
    from orchestrator.cluster import attach  # noqa: PLC0415
    from orchestrator.operate.acts import Operator  # noqa: PLC0415

    with Client(attach(data)) as client:
        operator = Operator(client, timeout_s)
        act = getattr(operator, name)
        if not dry_run and not yes:
            found = act(selection, who=who or acting(), reason=reason, dry_run=True)
            if found and not typer.confirm(f"{name} {len(found)} transactions?", err=True):
                raise DefiniteError(ErrorCode.INVALID_INPUT, "not confirmed, nothing was done (--dry-run shows what it is on)")
            selection = [one.transaction for one in found]  # what was confirmed, and nothing that came since
        acted = act(selection, who=who or acting(), reason=reason, dry_run=dry_run)
    _tell(acted, as_json=as_json)
    return exit_code(acted)


def _tell(acted: list[Any], *, as_json: bool) -> None:
    counts: dict[str, int] = {}
    table = _table("transaction", "saga", "was", "act", "code", "message")
    for one in acted:
        counts[one.done] = counts.get(one.done, 0) + 1
        table.add_row(*map(Text, (
            one.transaction, one.saga, one.state, str(one.done).replace("_", " "), one.code, str(redact(one.message)))))
    plain = [redact(msgspec.to_builtins(one)) | {"transaction": one.transaction} for one in acted]
    answer({"counts": counts, "transactions": plain}, table if acted else Text("no transaction fits"), as_json=as_json)


def exit_code(acted: list[Any]) -> int:
    """The gravest: what is not known to be done, then what was refused."""
    done = {str(one.done) for one in acted}
    return EXIT_UNREACHABLE if "unknown" in done else EXIT_BAD if "refused" in done else 0


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, no_wrap=header in {"transaction", "time"}, overflow="fold")
    return table
