"""The command `raytx test`: prove a saga and its services, without Ray and in seconds."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.errors import DefiniteError, ErrorCode

PARTS = ("contract", "sweep", "simulator")
TELL_S = 60.0  # how often a long run says how far it has come where no terminal shows it


def prove(
    target: Annotated[str, typer.Argument(metavar="MODULE:SAGA", help="Or MODULE:APP for all its sagas with an example.")],
    *,
    seeds: Annotated[int, typer.Option(min=1, help="Random schedules of each saga.")] = 2_000,
    minutes: Annotated[float, typer.Option(min=0.0, help="Random schedules for so long instead.")] = 0.0,
    first_seed: Annotated[int, typer.Option(min=0, help="Each schedule follows from its seed.")] = 0,
    pairs: Annotated[str, typer.Option(help="Pairs of crashes for each way to end: a number, or all.")] = "200",
    only: Annotated[str, typer.Option(metavar="PART,...", help="contract, sweep, simulator.")] = ",".join(PARTS),
    disk: Annotated[bool, typer.Option("--disk", help="Schedules over the real stores, on simulated disks.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that run schedules.")] = 1,
    app: Annotated[str, typer.Option(metavar="MODULE:APP", help="Where the saga's module has no app with it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else there.")] = False,
) -> None:
    """Crash, lose, double and delay everything that a saga does, and check every guarantee; exit 0 if all held.

    Example: raytx test shop.orders:place_order --seeds 5000
    """
    from orchestrator.terminal.answer import report_errors  # noqa: PLC0415 - only what a command needs is imported
    from orchestrator.testing.examination_report import progress_line, render, to_json  # noqa: PLC0415 - only where needed
    from orchestrator.testing.examine import Plan, examine  # noqa: PLC0415 - as above
    from orchestrator.testing.simulation.simulator import Explored  # noqa: PLC0415 - as above

    told = Console(stderr=True)
    with report_errors(as_json=as_json):
        plan = Plan(
            target, app, seeds, first_seed, minutes, _pairs(pairs), _parts(only), workers, disk)
        told.print(f"{target}: {', '.join(plan.parts)}; " + (
            f"{minutes:g} minutes" if minutes else f"seeds {first_seed} to {first_seed + seeds - 1}")
            + ", options drawn from each seed")
        began_s, told_s = time.monotonic(), dict[str, float]()
        with told.status("") as status:
            def progress(saga: str, explored: Explored) -> None:
                line, now_s = progress_line(saga, explored), time.monotonic()
                status.update(line)
                if not told.is_terminal and now_s - told_s.get(saga, began_s) >= TELL_S:  # a file: what was done is kept
                    told_s[saga] = now_s
                    told.print(line, soft_wrap=True)

            done = examine(plan, progress)
    if as_json:
        typer.echo(json.dumps(to_json(plan, done)))
    else:
        Console(file=sys.stdout, soft_wrap=True).print(render(plan, done))
    raise typer.Exit(0 if done.ok else 1)


def _pairs(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise DefiniteError(ErrorCode.CONFIG, f"--pairs: {text!r} is neither a number nor all")
    return int(text)


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    for part in parts:
        if part not in PARTS:
            raise DefiniteError(ErrorCode.CONFIG, f"--only: there is no part {part!r}; choose among {', '.join(PARTS)}")
    return parts
