"""`raytx down`: stop a deployment, at once or when what is open has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator import rendering
from orchestrator.bringup import bring_down, refuse_embedded
from orchestrator.deployment import DataDirectory
from orchestrator.log.finding import LEFT_MAX, how_many
from orchestrator.terminal.answer import EXIT_BAD, answer, report_errors
from orchestrator.terminal.options import DATA_DEFAULT, SECONDS_MAX, Data, Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.drain import DrainReport

DRAIN_S_DEFAULT = 60.0
_NAMED_MAX = 20


def down(
    *,
    data: Data = DATA_DEFAULT,
    drain: Annotated[bool, typer.Option("--drain", help="Begin nothing new, and wait until what is open has ended.")] = False,
    timeout: Annotated[float, typer.Option(
        min=0.0, max=SECONDS_MAX, metavar="S", help="With --drain: stop all the same after so long.")]
    = DRAIN_S_DEFAULT,
    as_json: Json = False,
) -> None:
    """Stop exactly what runs on a data directory; where nothing runs, say so (exit 0). The data stays.

    With --drain, exit 1 where the time was over before everything that is not parked had ended; it goes on at the next start.

    Example: raytx down --drain --timeout 60
    """
    with report_errors(as_json=as_json):
        directory = DataDirectory(data)
        with rendering.told_progress() as progress:
            report = _drained(directory, timeout, progress) if drain else None
            stopped = bring_down(directory, progress)
    text = f"stopped what ran on {directory.path}" if stopped else f"nothing runs on {directory.path}"
    told: dict[str, Any] = {"data": str(directory.path), "stopped": stopped}
    if report is not None:
        told["drain"] = _report_json(report)
        text = "\n".join([text, *_report_lines(report)])
    answer(told, text, as_json=as_json)
    raise typer.Exit(EXIT_BAD if report is not None and not report.complete else 0)


def _drained(directory: DataDirectory, timeout_s: float, progress: Callable[[str], None]) -> DrainReport | None:
    record = directory.running()
    if record is None:
        return None
    refuse_embedded(directory, record)
    from orchestrator.cluster import attach  # noqa: PLC0415 - Ray takes a second to import
    from orchestrator.drain import drain  # noqa: PLC0415 - as above

    deployment = attach(directory.path)
    try:
        return drain(deployment, timeout_s, progress)
    finally:
        deployment.stop()


def _report_json(report: DrainReport) -> dict[str, Any]:
    return {
        "complete": report.complete, "seconds": report.seconds,
        "left": [{"transaction": one.transaction, "saga": one.saga, "version": one.version, "state": one.state}
                 for one in report.left],
        "parked": [one.transaction for one in report.parked]}


def _report_lines(report: DrainReport) -> list[str]:
    left = how_many(report.left, LEFT_MAX)
    lines = [f"drained in {report.seconds} s" if report.complete else
             f"not drained after {report.seconds} s: {left} open transactions go on at the next start"]
    lines += [f"  {one.transaction}  {one.state}  {one.saga} v{one.version}" for one in report.left[:_NAMED_MAX]]
    if len(report.left) > _NAMED_MAX:
        lines.append(f"  and {len(report.left) - _NAMED_MAX} more (`raytx list --state open`)")
    if report.parked:
        lines.append(f"{len(report.parked)} parked transactions were not waited for (`raytx list --parked`)")
    return lines
