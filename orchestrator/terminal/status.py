"""`raytx status`: what runs, how every actor is, what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator import rendering
from orchestrator.advice import Advice, Severity, advise, is_healthy
from orchestrator.deployment import DataDirectory
from orchestrator.log.reader import LogReader
from orchestrator.observation import observe
from orchestrator.terminal.answer import answer, report_errors
from orchestrator.terminal.options import DATA_DEFAULT, SECONDS_MAX, Data, Json
from orchestrator.terminal.pausing import pauses_json, pauses_lines

_STYLES = {Severity.BAD: "bold red", Severity.WARN: "yellow"}


def status(
    *,
    data: Data = DATA_DEFAULT,
    timeout: Annotated[float, typer.Option(
        min=0.1, max=SECONDS_MAX, help="Seconds to wait for an actor's answer.")] = 5.0,
    as_json: Json = False,
) -> None:
    """What runs on a data directory, how every actor is, what is wrong and what to do; exit 3 where nothing runs.

    Example: raytx status --data orders
    """
    with report_errors(as_json=as_json):
        from orchestrator.cluster import attach  # noqa: PLC0415 - Ray takes a second to import

        deployment = attach(data)
        try:
            actors = deployment.statuses(timeout)
        finally:
            deployment.stop()
        directory = DataDirectory(data)
        record = directory.record()
        assert record is not None
        observed = observe(directory, record, actors)
        with closing(LogReader(directory.log_path)) as log:
            pauses = log.pauses()
        advice = advise(observed)
        told: dict[str, Any] = {
            "deployment": rendering.deployment_json(record, str(directory.path)), "healthy": is_healthy(observed, advice),
            "open": observed.backlog.open, "paused": pauses_json(pauses), "advice": [one._asdict() for one in advice],
            "actors": actors}
        text = Group(
            rendering.deployment_text(record, str(directory.path)), "", rendering.actors_table(actors), "",
            f"{observed.backlog.open} open transactions", *pauses_lines(pauses), advice_text(advice))
        answer(told, text, as_json=as_json)


def advice_text(advice: Sequence[Advice]) -> RenderableType:
    """What is wrong and what to do, one line each; that all is well, where it is."""
    if not advice:
        return Text("all is well", "green")
    table = Table(box=None, pad_edge=False, show_header=False)
    for one in advice:
        table.add_row(Text(one.severity, _STYLES[one.severity]), Text(one.what), Text(one.do))
    return table
