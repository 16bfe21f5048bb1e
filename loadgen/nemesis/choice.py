"""Which chaos run the options of the command ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

from rich.console import Console

from loadgen.nemesis.partitions import PartitionOptions, run_partitions
from loadgen.nemesis.plan import PLANNED, parse_kinds
from loadgen.nemesis.report import ChaosReport
from loadgen.nemesis.run import ChaosOptions, run_chaos
from loadgen.nemesis.zombies import ZombieOptions, run_zombies
from orchestrator.config import Transport
from orchestrator.errors import DefiniteError, ErrorCode


class Common(TypedDict):
    """What every run takes."""

    seed: int
    data: Path | None
    shards: int
    concurrency: int
    lines: str
    transport: Transport


def choose(
    app: str, *, minutes: float, faults: str | None, disk_mb: int | None, rpc_percent: int, zombies: int | None,
    partitions: int | None,
    **common: Unpack[Common],
) -> Callable[[Console], ChaosReport]:
    """The run that is asked for.

    Raises:
        DefiniteError: E_INVALID_INPUT where the options do not go together.
    """
    if zombies and partitions:
        raise DefiniteError(ErrorCode.INVALID_INPUT, "--zombies and --partitions are runs of their own: name one of them")
    if (zombies or partitions) and (faults or disk_mb or rpc_percent):
        raise DefiniteError(
            ErrorCode.INVALID_INPUT, "--faults, --disk-mb and --rpc-percent do not go with --zombies or --partitions")
    if zombies:
        return partial(run_zombies, ZombieOptions(app=app, rounds=zombies, **common))
    if partitions:
        return partial(run_partitions, PartitionOptions(app=app, rounds=partitions, **common))
    return partial(run_chaos, ChaosOptions(
        app=app, minutes=minutes, faults=parse_kinds(faults, PLANNED), disk_mb=disk_mb, rpc_percent=rpc_percent, **common))
