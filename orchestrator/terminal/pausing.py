"""`raytx pause` and `raytx resume`: whether new transactions of a saga, or for a service, are begun."""

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.logs import redact
from orchestrator.protocol.records import Pauses
from orchestrator.rendering import iso
from orchestrator.terminal.acting import Timeout, Who, acting
from orchestrator.terminal.answer import answer, report_errors
from orchestrator.terminal.options import DATA_DEFAULT, Data, Json

SagaToPause = Annotated[str | None, typer.Option("--saga", metavar="NAME", help="New transactions of this saga.")]
ServiceToPause = Annotated[
    str | None, typer.Option("--service", metavar="NAME", help="New transactions that need it; nothing new is sent to it.")]


def pause(
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; whoever is refused is told.")],
    saga: SagaToPause = None, service: ServiceToPause = None, data: Data = DATA_DEFAULT, who: Who = None,
    timeout: Timeout = 30.0, as_json: Json = False,
) -> None:
    """Begin nothing new of a saga, or for a service, until it is resumed; what is open goes on.

    Example: raytx pause --service payment --reason "the bank is being migrated"
    """
    with report_errors(as_json=as_json):
        changed = _change("pause", data, timeout, saga=saga, service=service, reason=reason, who=who or acting())
        what = f"saga {saga}" if saga else f"service {service}"
        text = f"{what} is paused" if changed else f"{what} was paused already"
        answer({"saga": saga, "service": service, "paused": True, "changed": changed}, text, as_json=as_json)


def resume(
    *, saga: SagaToPause = None, service: ServiceToPause = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")] = "",
    data: Data = DATA_DEFAULT, who: Who = None, timeout: Timeout = 30.0, as_json: Json = False,
) -> None:
    """End a pause.

    Example: raytx resume --service payment
    """
    with report_errors(as_json=as_json):
        changed = _change("resume", data, timeout, saga=saga, service=service, reason=reason, who=who or acting())
        what = f"saga {saga}" if saga else f"service {service}"
        text = f"{what} is resumed" if changed else f"{what} was not paused"
        answer({"saga": saga, "service": service, "paused": False, "changed": changed}, text, as_json=as_json)


def pauses_json(pauses: Pauses) -> list[dict[str, Any]]:
    """What is paused, as data."""
    return [{"saga": one.saga, "service": one.service, "who": redact(one.who), "reason": redact(one.reason), "at_ms": one.at_ms}
            for one in pauses.paused]


def pauses_lines(pauses: Pauses) -> list[str]:
    """What is paused, by whom, since when and why: a line each."""
    return [
        f"paused: {f'saga {one.saga}' if one.saga else f'service {one.service}'} by {redact(one.who)} since {iso(one.at_ms)}: "
        f"{redact(one.reason)}" for one in pauses.paused]


def _change(name: str, data: Path, timeout_s: float, **what: str | None) -> bool:
    from orchestrator.client import Client  # noqa: PLC0415 - Ray takes a second to import
    from orchestrator.cluster import attach  # noqa: PLC0415
    from orchestrator.operate.acts import Operator  # noqa: PLC0415

    with Client(attach(data)) as client:
        return bool(getattr(Operator(client, timeout_s), name)(**what))
