"""The command `raytx load`, with `raytx load compare` under it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from loadgen.options import parse_arrivals, parse_faults, parse_lines, parse_search, parse_share
from orchestrator.config import Transport
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.terminal.answer import EXIT_BAD, EXIT_WRONG_USE, report_errors
from orchestrator.terminal.options import DATA_DEFAULT, Data, Json

load_cli = typer.Typer(invoke_without_command=True, help="Place orders as fast as they are answered; audit; judge.")

App = Annotated[
    str | None, typer.Option(metavar="MODULE:ATTRIBUTE", help="The one that runs or ran there, else the workload's.")]
Workload = Annotated[str, typer.Option(metavar="NAME", help="retail, uniform, hot, bank, or your own MODULE:SAGA.")]
Orders = Annotated[int | None, typer.Option(min=1, help="How many; the whole trace, or 10,000 made ones.")]
Concurrency = Annotated[int, typer.Option(min=1, max=100_000, help="Orders in flight, of a closed loop.")]
Rate = Annotated[float | None, typer.Option(metavar="R", help="Open loop: R orders a second, refusals stay.")]
Duration = Annotated[float | None, typer.Option(metavar="S", help="Place for S seconds; with --rate 10 by default.")]
WarmUp = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds before them that are not measured; 1 with --find-capacity.")]
Arrivals = Annotated[Path | None, typer.Option(metavar="FILE", help="Open loop: when to place, from a CSV (.gz too).")]
Processes = Annotated[int, typer.Option(min=1, max=26, help="That place orders.")]
Find = Annotated[bool, typer.Option("--find-capacity", help="Search the highest rate with p99 within --p99-ms.")]
P99 = Annotated[float | None, typer.Option(metavar="MS", min=0.1, help="The bound of --find-capacity, 100 by default.")]
Shards = Annotated[int | None, typer.Option(min=1, max=64, help="Orchestrators of an embedded deployment.")]
Over = Annotated[Transport | None, typer.Option(help="What its processes call each other over.")]
Seed = Annotated[int, typer.Option(help="Of made orders and simulated failures.")]
TraceFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Online Retail CSV (.xz too) to replay.")]
Lines = Annotated[str | None, typer.Option(metavar="MIN-MAX", help="Lines of made orders, e.g. 1-3.")]
Share = Annotated[
    str | None, typer.Option(metavar="SHARE", help="Opening stock (or money) as a share of what is ordered, e.g. 0.9.")]
Returns = Annotated[bool, typer.Option("--returns", help="Replay matching credit notes as well.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Count rows of --trace that cannot be parsed.")]
Faults = Annotated[
    list[str] | None, typer.Option(metavar="SERVICE.FAILURE=NUMBER", help="Simulated failure; repeatable.")]
Patience = Annotated[float, typer.Option(min=0.1, help="Seconds until a missing outcome counts as unknown.")]
HistoryFile = Annotated[Path | None, typer.Option(metavar="FILE", help="New file that keeps what was asked and told.")]
WatchToo = Annotated[bool, typer.Option("--watch", help="Read the services' databases meanwhile.")]
Chaos = Annotated[
    str | None, typer.Option(metavar="PLAN", help="Strike actors: seed=7,seconds=30,faults=kill+stop, or usual.")]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON, as --json prints it.")]
Report = Annotated[Path | None, typer.Option(metavar="FILE", help="Write one HTML page with plots (extra `report`).")]
Result = Annotated[Path, typer.Argument(metavar="FILE", help="That --save or --json wrote.")]


@load_cli.callback()
def load(  # noqa: PLR0917 - typer reads the options from the parameters
    context: typer.Context,
    workload: Workload = "retail", orders: Orders = None, concurrency: Concurrency = 256, rate: Rate = None,
    duration: Duration = None, warm_up: WarmUp = None, arrivals: Arrivals = None, processes: Processes = 1,
    find_capacity: Find = False, p99_ms: P99 = None, shards: Shards = None, transport: Over = None,  # noqa: FBT002
    data: Data = DATA_DEFAULT, seed: Seed = 1, trace: TraceFile = None, lines: Lines = None, stock_share: Share = None,
    returns: Returns = False, skip_bad: SkipBad = False, fault: Faults = None, patience: Patience = 120.0,  # noqa: FBT002
    history: HistoryFile = None, watch: WatchToo = False, chaos: Chaos = None, app: App = None,  # noqa: FBT002
    save: Save = None, report: Report = None, as_json: Json = False,  # noqa: FBT002
) -> None:
    """Place orders as fast as they are answered, then audit and judge what was told; exit 0 if all is ok.

    Example: raytx load --orders 5000 --concurrency 64
    """
    if context.invoked_subcommand is not None:
        return
    with report_errors(as_json=as_json), quiet_stdout():
        # Ray takes a second to import: only where it is needed, so that --help stays fast.
        from loadgen.load import LoadPlan, run_load  # noqa: PLC0415
        from loadgen.prepare import app_for  # noqa: PLC0415
        from loadgen.report import check_library  # noqa: PLC0415

        if report is not None:
            check_library()
        _check_places(data, save, report)
        bound_ms, warm_up_s = parse_search(p99_ms, warm_up, find=find_capacity)
        schedule = parse_arrivals(rate, duration, seed, warm_up_s=warm_up_s, trace=arrivals)
        summary = run_load(
            LoadPlan(
                data=data, app=app_for(workload, data, app), workload=workload, orders=orders, concurrency=concurrency,
                arrivals=schedule, warm_up_s=warm_up_s, duration_s=None if schedule else duration, processes=processes,
                capacity_p99_ms=bound_ms, shards=shards, transport=transport, seed=seed,
                trace=trace, lines=parse_lines(lines), stock_share=parse_share(stock_share), returns=returns,
                skip_bad=skip_bad, faults=parse_faults(fault or []), patience_s=patience, history=history, watch=watch,
                chaos=chaos),
            Console(stderr=True))
    plain = summary.to_json()
    try:
        _show(plain if as_json else summary.render(), as_json=as_json)
    finally:
        written = _write(plain, save, report, as_json=as_json)
    raise typer.Exit(EXIT_BAD if not summary.ok else 0 if written else EXIT_WRONG_USE)


@load_cli.command("compare")
def compare_results(first: Result, second: Result, as_json: Json = False) -> None:  # noqa: FBT002
    """Put two results side by side; ratios are the second's figures by the first's."""
    with report_errors(as_json=as_json):
        from loadgen.compare import Comparison  # noqa: PLC0415 - as above
        from loadgen.result import LoadResult  # noqa: PLC0415

        comparison = Comparison(LoadResult.read(first), LoadResult.read(second))
    _show(comparison.to_json() if as_json else comparison.render(), as_json=as_json)


@load_cli.command("report")
def report_result(result: Result, page: Annotated[Path, typer.Argument(metavar="PAGE", help="HTML file to write.")]) -> None:
    """Write the page with plots of a result that was kept."""
    with report_errors(as_json=False):
        from loadgen.report import write_report  # noqa: PLC0415 - as above
        from loadgen.result import LoadResult  # noqa: PLC0415

        write_report(LoadResult.read(result), page)


def _check_places(data: Path, save: Path | None, report: Path | None) -> None:
    """Refuse, before anything is placed, files that cannot be written; a new data directory is there by the end."""
    for option, path in (("--save", save), ("--report", report)):
        if path is None or (path.parent == data and not data.exists()):
            continue
        if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise DefiniteError(
                ErrorCode.INVALID_INPUT, f"{option}: {path} cannot be written: name a file in a directory where you may write")


def _write(plain: dict[str, Any], save: Path | None, report: Path | None, *, as_json: bool) -> bool:
    """Each file that was asked for, whatever becomes of the other one; whether both could be written."""
    written = True
    for path, write in ((save, _save), (report, _report)):
        try:
            with report_errors(as_json=as_json):
                if path is not None:
                    write(plain, path)
        except typer.Exit:
            written = False
    return written


def _save(plain: dict[str, Any], path: Path) -> None:
    try:
        path.write_text(json.dumps(plain) + "\n", encoding="utf-8")
    except OSError as error:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"--save: {path} cannot be written: {error.strerror}") from None


def _report(plain: dict[str, Any], path: Path) -> None:
    from loadgen.report import write_report  # noqa: PLC0415 - as above
    from loadgen.result import LoadResult  # noqa: PLC0415

    write_report(LoadResult.model_validate(plain), path)


def _show(told: Any, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(told))
    else:
        Console(file=sys.stdout).print(told)


def quiet_stdout() -> redirect_stdout[TextIO]:
    """Have what Ray prints on its own account (that a worker died, say) go to stderr: stdout is for the result."""
    return redirect_stdout(sys.stderr)
