"""The command line: `python -m benchmarks NAME`."""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import ExitStack
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.alternation import all_ok, alternate
from benchmarks.execution import FailedRunError, execute
from benchmarks.plan import CONCURRENCY, ORDERS, Plan, System
from benchmarks.preparation import Asked, Preparation
from benchmarks.rendering import render, to_json
from orchestrator.errors import RaytxError


class Name(StrEnum):
    """The benchmarks."""

    SYSTEMS = "systems"
    FLOOR = "floor"
    HISTORY = "history"
    HEAD_OF_LINE = "head-of-line"
    SHARDS = "shards"
    TRANSPORT = "transport"
    COST = "cost"
    LATENCY = "latency"
    MEMORY = "memory"
    RECOVERY = "recovery"
    METRICS = "metrics"


ABOUT = {
    Name.SYSTEMS: "raytx against plain Ray actors without durability, and DBOS on SQLite and PostgreSQL where installed",
    Name.FLOOR: "raytx against one plain process that makes the same records durable",
    Name.HISTORY: "with --transactions on disk already, against an empty data directory; opening time, bytes per order",
    Name.HEAD_OF_LINE: "1 % of the payments take 500 ms: latency of the other orders",
    Name.SHARDS: "1, 2 and 4 orchestrators, or as many as --count says",
    Name.TRANSPORT: "the direct data plane against Ray calls",
    Name.COST: "CPU by role, bytes on disk and written, commits, fsyncs and calls per order",
    Name.LATENCY: "one order at a time, 16 in flight, and an open loop at half of the capacity",
    Name.MEMORY: "resident memory of every actor after N orders and after 10 N",
    Name.METRICS: "metrics and JSON log lines at their defaults, against neither; 7 rounds",
    Name.RECOVERY: "a shard killed with all orders open: how long until each has its outcome; memory of an open one",
}
HELP = (
    "Benchmarks of raytx: the sides run alternately (A B B A ...), each run in processes of its own on a data directory of its "
    "own, fsync on, audited; medians and ratios from this one run. Nothing else should use the machine meanwhile.\n\n"
    + "\n\n".join(f"{name}: {text}" for name, text in ABOUT.items()))
DETAILED = frozenset({Name.COST, Name.MEMORY, Name.RECOVERY, Name.HISTORY})
CONCURRENCY_TO_KILL = 10_000
ROUNDS = {Name.METRICS: 7}
ROUNDS_USUAL = 3
STDERR = Console(stderr=True)

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@cli.command(help=HELP)
def run(  # noqa: PLR0917 - typer reads the options from the parameters
    name: Annotated[Name, typer.Argument(help="Which one.", show_choices=False, metavar="NAME")],
    orders: Annotated[int | None, typer.Option(min=1, help=f"Measured orders of a run; {ORDERS:,} by default.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Orders in flight; floor: in one group commit.")] = CONCURRENCY,
    warm_up: Annotated[int | None, typer.Option(min=0, help="Orders before; a tenth by default.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help=f"How often each side runs; {ROUNDS_USUAL} by default.")] = None,
    lines: Annotated[str, typer.Option(metavar="MIN-MAX", help="Lines of an order; '': as measured at a real shop.")] = "1-3",
    seed: Annotated[int, typer.Option(help="Of the orders.")] = 1,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Of the deployments.")] = None,
    scratch: Annotated[str, typer.Option("--dir", metavar="DIR", help="For temporary data: a real disk, no tmpfs.")] = "",
    only: Annotated[list[System] | None, typer.Option(help="systems: compare raytx with these only.")] = None,
    other_orders: Annotated[int, typer.Option(min=1, help="systems: orders of the slower ones.")] = 3_000,
    transactions: Annotated[list[int] | None, typer.Option(min=1, help="history: on disk already; repeatable.")] = None,
    retention_s: Annotated[int, typer.Option(min=1, help="history: how far back it goes, and retention.")] = 604_800,
    count: Annotated[list[int] | None, typer.Option(min=1, max=64, help="shards: how many; repeatable.")] = None,
    rate: Annotated[float, typer.Option(min=0, help="latency: half capacity, orders/s; 0: measured first.")] = 0.0,
    strace: Annotated[bool, typer.Option(help="cost: count system calls too, in runs of their own.")] = True,  # noqa: FBT002
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,  # noqa: FBT002
) -> None:
    """See `HELP`."""
    orders = orders or (CONCURRENCY_TO_KILL if name is Name.RECOVERY else ORDERS)
    plan = Plan(
        orders=orders, concurrency=concurrency, warm_up=orders // 10 if warm_up is None else warm_up, lines=lines, seed=seed,
        settings=setting or [], scratch=scratch)
    asked = Asked(
        only=tuple(only or ()), other_orders=other_orders, transactions=tuple(transactions or (1_000_000,)),
        retention_s=retention_s, counts=tuple(count or (1, 2, 4)), rate_per_s=rate, strace=strace)
    try:
        ok = _compare(name, plan, asked, rounds or ROUNDS.get(name, ROUNDS_USUAL), as_json=as_json)
    except (FailedRunError, RaytxError) as error:
        STDERR.print(f"error {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if ok else 1)


def _compare(name: Name, plan: Plan, asked: Asked, rounds: int, *, as_json: bool) -> bool:
    with ExitStack() as undo:
        comparison = Preparation(plan, asked, progress=_progress, undo=undo).comparison(name.value)
        found = alternate(comparison.sides, rounds, execute, _progress)
    if as_json:
        typer.echo(json.dumps(to_json(name.value, comparison, found)))
    else:
        Console(file=sys.stdout).print(render(name.value, comparison, found, detailed=name in DETAILED))
    return all_ok(found)


def _progress(told: str) -> None:
    """To stderr: stdout is for the result."""
    STDERR.print(f"{time.strftime('%H:%M:%S')} {told}", style="dim", highlight=False, markup=False)


def main() -> None:
    """Run the command line; SIGTERM is taken as an interrupt, so that whatever runs is cleaned up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cli()
