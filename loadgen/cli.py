"""The composition root: the command `raytx`, with the shop as the default app and the load generator's own commands."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console

from loadgen.options import parse_arrivals, parse_faults, parse_lines, parse_share
from orchestrator.cli import DATA_DEFAULT, Data, Json, app_path, build_cli, report_errors
from orchestrator.config import Transport
from orchestrator.deployment import DataDirectory

DEFAULT_APP = "actors.orders:app"

cli = build_cli(DEFAULT_APP)

AppPath = Annotated[
    str | None, typer.Option("--app", metavar="MODULE:ATTRIBUTE", help="The one that runs or ran there, else the shop.")]


@cli.command()
def load(  # noqa: PLR0917 - typer reads the options from the parameters
    orders: Annotated[int | None, typer.Option(min=1, help="How many; the whole trace, or 10,000 made ones.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=100_000, help="Orders in flight.")] = 256,
    rate: Annotated[float | None, typer.Option(metavar="R", help="Open loop: R orders a second, refusals stay.")] = None,
    duration: Annotated[float | None, typer.Option(metavar="S", help="With --rate: for S seconds, 10 by default.")] = None,
    shards: Annotated[int | None, typer.Option(min=1, max=64, help="Orchestrators of an embedded deployment.")] = None,
    transport: Annotated[Transport | None, typer.Option(help="What its processes call each other over.")] = None,
    data: Data = DATA_DEFAULT,
    seed: Annotated[int, typer.Option(help="Of made orders and simulated failures.")] = 1,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Online Retail CSV (.xz too) to replay.")] = None,
    lines: Annotated[str | None, typer.Option(metavar="MIN-MAX", help="Lines of made orders, e.g. 1-3.")] = None,
    stock_share: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Opening stock as a share of what is ordered, e.g. 0.9.")] = None,
    returns: Annotated[bool, typer.Option("--returns", help="Replay matching credit notes as well.")] = False,  # noqa: FBT002
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count rows that cannot be parsed.")] = False,  # noqa: FBT002
    fault: Annotated[
        list[str] | None, typer.Option(metavar="SERVICE.FAILURE=NUMBER", help="Simulated failure; repeatable.")] = None,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds until a missing outcome counts as unknown.")] = 120.0,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="New file that keeps what was asked and told.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Read the services' databases meanwhile.")] = False,  # noqa: FBT002
    chaos: Annotated[
        str | None, typer.Option(metavar="PLAN", help="Strike actors: seed=7,seconds=30,faults=kill+stop, or usual.")] = None,
    app: AppPath = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Place orders as fast as they are answered, then audit and judge what was told; exit 0 if all is ok."""
    out = Console(file=sys.stdout)
    with report_errors(as_json=as_json), _quiet_stdout():
        # Ray takes a second to import: only where it is needed, so that --help stays fast.
        from loadgen.load import LoadPlan, run_load  # noqa: PLC0415

        summary = run_load(
            LoadPlan(
                data=data, app=app_path(DataDirectory(data), app, DEFAULT_APP), orders=orders,
                concurrency=concurrency, arrivals=parse_arrivals(rate, duration, seed), shards=shards,
                transport=transport, seed=seed,
                trace=trace, lines=parse_lines(lines), stock_share=parse_share(stock_share), returns=returns,
                skip_bad=skip_bad, faults=parse_faults(fault or []), patience_s=patience, history=history, watch=watch,
                chaos=chaos),
            Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    else:
        out.print(summary.render())
    raise typer.Exit(0 if summary.ok else 1)


@cli.command("chaos")
def break_deployment(  # noqa: PLR0917 - as above
    minutes: Annotated[float, typer.Option(min=0.1, max=600, help="Of faults; start, healing and checks come on top.")] = 1.0,
    zombies: Annotated[
        int | None, typer.Option(min=1, help="Instead: lose so many nodes of a cluster whose actors run on.")] = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="Instead: cut nodes off so many times (as root: network namespaces).")] = None,
    seed: Annotated[int, typer.Option(help="Of the plan, the orders and simulated failures.")] = 1,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Kept; a temporary one otherwise.")] = None,
    faults: Annotated[str | None, typer.Option(metavar="KIND,...", help="kill, stop, all...; most kinds if not given.")] = None,
    shards: Annotated[int, typer.Option(min=1, max=64, help="Orchestrators.")] = 2,
    concurrency: Annotated[int, typer.Option(min=1, max=100_000, help="Orders in flight.")] = 128,
    lines: Annotated[str, typer.Option(metavar="MIN-MAX", help="Lines of an order.")] = "1-3",
    disk_mb: Annotated[int | None, typer.Option(min=400, help="Data on a tmpfs of that size, which is filled up too.")] = None,
    rpc_percent: Annotated[int, typer.Option(min=0, max=20, help="Of Ray's actor calls, lost each way while faults last.")] = 0,
    app: AppPath = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Break a deployment under load as a seeded plan says, heal it, check everything; exit 0 if it held."""
    parse_lines(lines)
    with report_errors(as_json=as_json), _quiet_stdout():
        from loadgen.nemesis.choice import choose  # noqa: PLC0415 - as above

        run = choose(
            app or DEFAULT_APP, seed=seed, data=data, shards=shards, concurrency=concurrency, lines=lines, minutes=minutes,
            faults=faults, disk_mb=disk_mb, rpc_percent=rpc_percent, zombies=zombies, partitions=partitions)
        report = run(Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        Console(file=sys.stdout).print(report.render())
    raise typer.Exit(0 if report.ok else 1)


@cli.command()
def demo(
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Kept; a temporary one otherwise.")] = None,
    seed: Annotated[int, typer.Option(help="Of orders and declines.")] = 1,
) -> None:
    """Show it: real-shaped orders, an orchestrator killed amid them, recovery, audit; exit 0 if the audit is ok."""
    out = Console(file=sys.stdout)
    with report_errors(as_json=False), _quiet_stdout():
        from loadgen.demo import run_demo  # noqa: PLC0415 - as above

        summary = run_demo(DEFAULT_APP, out, data=data, seed=seed)
    raise typer.Exit(0 if summary.ok else 1)


def _quiet_stdout() -> redirect_stdout[TextIO]:
    """Have what Ray prints on its own account (that a worker died, say) go to stderr: stdout is for the result."""
    return redirect_stdout(sys.stderr)


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()
