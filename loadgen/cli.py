"""The composition root: the command `raytx`, with the shop as the default app and the load generator's own commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadgen.load_command import load_cli, quiet_stdout
from loadgen.options import parse_lines
from orchestrator.cli import build_cli
from orchestrator.config import Transport
from orchestrator.terminal.answer import report_errors
from orchestrator.terminal.options import Json

DEFAULT_APP = "actors.orders:app"
PROVE = "Prove"  # the part of --help that has `raytx test`, too

cli = build_cli(DEFAULT_APP)

AppPath = Annotated[
    str | None, typer.Option("--app", metavar="MODULE:ATTRIBUTE", help="The one that runs or ran there, else the shop.")]


cli.add_typer(load_cli, name="load", rich_help_panel=PROVE)


@cli.command("chaos", rich_help_panel=PROVE)
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
    transport: Annotated[Transport, typer.Option(help="What its processes call each other over.")] = Transport.DIRECT,
    disk_mb: Annotated[int | None, typer.Option(min=400, help="Data on a tmpfs of that size, which is filled up too.")] = None,
    rpc_percent: Annotated[int, typer.Option(min=0, max=20, help="Of Ray's actor calls, lost each way while faults last.")] = 0,
    app: AppPath = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Break a deployment under load as a seeded plan says, heal it, check everything; exit 0 if it held.

    Example: raytx chaos --minutes 5 --seed 7 --faults kill,stop
    """
    parse_lines(lines)
    with report_errors(as_json=as_json), quiet_stdout():
        from loadgen.nemesis.choice import choose  # noqa: PLC0415 - as above

        run = choose(
            app or DEFAULT_APP, seed=seed, data=data, shards=shards, concurrency=concurrency, lines=lines,
            transport=transport, minutes=minutes,
            faults=faults, disk_mb=disk_mb, rpc_percent=rpc_percent, zombies=zombies, partitions=partitions)
        report = run(Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        Console(file=sys.stdout).print(report.render())
    raise typer.Exit(0 if report.ok else 1)


@cli.command(rich_help_panel=PROVE)
def demo(
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Kept; a temporary one otherwise.")] = None,
    seed: Annotated[int, typer.Option(help="Of orders and declines.")] = 1,
) -> None:
    """Show it: real-shaped orders, an orchestrator killed amid them, recovery, audit; exit 0 if the audit is ok.

    Example: raytx demo --seed 7
    """
    out = Console(file=sys.stdout)
    with report_errors(as_json=False), quiet_stdout():
        from loadgen.demo import run_demo  # noqa: PLC0415 - as above

        summary = run_demo(DEFAULT_APP, out, data=data, seed=seed)
    raise typer.Exit(0 if summary.ok else 1)


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()
