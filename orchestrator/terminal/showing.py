"""`raytx show`: one transaction, from the log and every ledger."""

import typer

from orchestrator.terminal.answer import answer, report_errors
from orchestrator.terminal.options import DATA_DEFAULT, AppPath, Data, Json, TransactionId, app_of, existing


def show(
    context: typer.Context, transaction: TransactionId, *, data: Data = DATA_DEFAULT, app: AppPath = None,
    as_json: Json = False,
) -> None:
    """One transaction's timeline, from log and ledgers; works with the deployment up or down.

    Example: raytx show 01a20528b877ed0000000100000003e2
    """
    with report_errors(as_json=as_json):
        from orchestrator.timeline import timeline  # noqa: PLC0415 - only what a command needs is imported

        directory = existing(data)
        found = timeline(directory.path, app_of(directory, app, str(context.obj)), transaction)
        answer(found.to_json(), found.render(), as_json=as_json)
