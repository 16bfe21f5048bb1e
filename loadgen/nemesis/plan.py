"""What is broken when: a plan drawn from a seed, the same for the same seed, so that a failing run can be replayed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.errors import DefiniteError, ErrorCode


class Kind(StrEnum):
    """A fault; the names are what `--faults` takes."""

    KILL = "kill"  # SIGKILL of one actor
    RAY_KILL = "ray-kill"  # ray.kill(no_restart=False) of one actor
    STOP = "stop"  # SIGSTOP of one actor, later SIGCONT
    NESTED = "nested"  # SIGKILL, and again as soon as there is a successor, before it serves
    TOGETHER = "together"  # SIGKILL of several actors at once
    STRACE = "strace"  # SIGKILL at the N-th write or sync of the actor's files
    SLOW_DISK = "slow-disk"  # every sync of one actor takes long for a while
    DISK_ERROR = "disk-error"  # one sync of one actor fails with EIO
    FULL_DISK = "full-disk"  # no room on the data directory's file system for a while
    DRIVER = "driver"  # SIGKILL of the load driver, which is started again and repeats its keys
    RAYLET = "raylet"  # SIGKILL of Ray's raylet
    GCS = "gcs"  # SIGKILL of Ray's GCS
    KEEPER = "keeper"  # SIGKILL of the keeper, with which the kernel ends the head
    ALL = "all"  # SIGKILL of every process of the deployment at once, and of the driver
    ZOMBIE = "zombie"  # SIGSTOP of a node's raylet: its actors live on beside their successors; of runs of their own
    PARTITION = "partition"  # packets of a node are dropped; of runs of their own


ONE_ACTOR = frozenset({Kind.KILL, Kind.RAY_KILL, Kind.STOP, Kind.NESTED, Kind.STRACE, Kind.SLOW_DISK, Kind.DISK_ERROR})
HEAD = (Kind.RAYLET, Kind.GCS, Kind.KEEPER)
ON_ACTORS = ONE_ACTOR | {Kind.TOGETHER}  # what a driver within the same process survives
PLANNED = frozenset(Kind) - {Kind.ZOMBIE, Kind.PARTITION}
USUAL = PLANNED - {Kind.FULL_DISK}
DISK_KINDS = frozenset({Kind.STRACE, Kind.SLOW_DISK, Kind.DISK_ERROR})  # of whoever has a database

_WEIGHT = {
    Kind.KILL: 40, Kind.RAY_KILL: 12, Kind.STOP: 12, Kind.NESTED: 12, Kind.TOGETHER: 10, Kind.STRACE: 12,
    Kind.SLOW_DISK: 4, Kind.DISK_ERROR: 4, Kind.FULL_DISK: 3}
_COST_S = {  # about how long a step takes with what follows it, for the length of a plan; the pause comes on top
    Kind.KILL: 0.6, Kind.RAY_KILL: 0.6, Kind.STOP: 2.6, Kind.NESTED: 1.5, Kind.TOGETHER: 1.2, Kind.STRACE: 2.0,
    Kind.SLOW_DISK: 3.0, Kind.DISK_ERROR: 2.0, Kind.FULL_DISK: 5.0, Kind.DRIVER: 4.0, Kind.RAYLET: 12.0, Kind.GCS: 12.0,
    Kind.KEEPER: 12.0, Kind.ALL: 12.0}
_ALL_EVERY_S = 90.0
_HEAD_EVERY_S = 100.0
_DRIVER_EVERY_S = 60.0
_PAUSE_MS = (100, 1_500)
_STOP_MS = (200, 4_000)
_LONG_STOP_MS = (6_000, 9_000)  # past the time after which a participant asks what became of a transaction
_LONG_STOP_SHARE = 0.1
_SLOW_MS = (1_000, 3_000)
_FULL_MS = (1_000, 4_000)
_SYNC_CALLS, _WRITE_CALLS = ("fsync", "fdatasync"), ("pwrite64",)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault.

    Attributes:
        number: from 1.
        kind: what is done.
        pause_ms: before it, since the one before has been recovered from.
        actors: to whom: log, shard-0, inventory, ...; empty where the kind says it all.
        hold_ms: for how long, where the fault lasts.
        times: kills in a row of a nested one.
        calls: system calls that are counted or hit.
        at: at which of them.
    """

    number: int
    kind: Kind
    pause_ms: int
    actors: tuple[str, ...] = ()
    hold_ms: int = 0
    times: int = 1
    calls: tuple[str, ...] = ()
    at: int = 0

    def __str__(self) -> str:
        parts = [str(self.kind), *self.actors]
        parts += [f"{self.times} times"] if self.times > 1 else []
        parts += [f"at {'/'.join(self.calls)} {self.at}"] if self.at else []
        parts += [f"for {self.hold_ms} ms"] if self.hold_ms else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Plan:
    """All faults of a run in order."""

    seed: int
    steps: tuple[Step, ...]

    def kinds(self) -> Counter[Kind]:
        """How many steps of each kind."""
        return Counter(step.kind for step in self.steps)

    def words(self) -> str:
        """The same for a person."""
        return ", ".join(f"{kind} {number}" for kind, number in sorted(self.kinds().items()))


def make_plan(seed: int, budget_s: float, actors: Sequence[str], kinds: Collection[Kind] = USUAL) -> Plan:
    """A plan that takes about so long.

    Args:
        seed: the same one, with the same other arguments, gives the same plan.
        budget_s: seconds of faults, what follows them included.
        actors: names, those with a database first: log, services, then shards.
        kinds: which faults to choose from.

    Raises:
        DefiniteError: E_INVALID_INPUT where no step fits.
    """
    draw = random.Random(f"{seed}/nemesis")
    rare = _rare(draw, budget_s, kinds)
    left_s = budget_s - sum(_cost_s(kind) for kind in rare)
    frequent = list(_frequent(draw, left_s, sorted(set(_WEIGHT) & set(kinds))))
    order = _spread(draw, frequent, rare)
    if not order:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"no fault fits into {budget_s:.0f} s: allow more time")
    turns = _turns(draw, actors)
    return Plan(seed, tuple(_step(draw, number, kind, actors, turns) for number, kind in enumerate(order, 1)))


def _rare(draw: random.Random, budget_s: float, kinds: Collection[Kind]) -> list[Kind]:
    """What costs much time and comes in fixed numbers, in any order."""
    found = [Kind.ALL] * max(1, round(budget_s / _ALL_EVERY_S)) if Kind.ALL in kinds else []
    found += [Kind.DRIVER] * max(1, round(budget_s / _DRIVER_EVERY_S)) if Kind.DRIVER in kinds else []
    heads = [kind for kind in HEAD if kind in kinds]
    least = 1 if set(_WEIGHT) & set(kinds) else len(heads)
    found += [heads[index % len(heads)] for index in range(max(least, round(budget_s / _HEAD_EVERY_S)))] if heads else []
    draw.shuffle(found)
    return found


def _frequent(draw: random.Random, left_s: float, kinds: Sequence[Kind]) -> Iterator[Kind]:
    while kinds:
        kind = draw.choices(kinds, [_WEIGHT[kind] for kind in kinds])[0]
        left_s -= _cost_s(kind)
        if left_s < 0:
            return
        yield kind


def _cost_s(kind: Kind) -> float:
    return _COST_S[kind] + sum(_PAUSE_MS) / 2_000


def _spread(draw: random.Random, frequent: list[Kind], rare: list[Kind]) -> list[Kind]:
    """The rare ones at about equal distances among the others."""
    order = list(frequent)
    for index, kind in reversed(list(enumerate(rare))):
        place = (index + draw.uniform(0.3, 0.9)) * len(frequent) / len(rare)
        order.insert(round(place), kind)
    return order


def _turns(draw: random.Random, actors: Sequence[str]) -> Iterator[str]:
    """Every actor once, in any order, again and again."""
    while True:
        yield from draw.sample(list(actors), len(actors))


def _step(draw: random.Random, number: int, kind: Kind, actors: Sequence[str], turns: Iterator[str]) -> Step:
    step = Step(number, kind, draw.randint(*_PAUSE_MS))
    with_database = [actor for actor in actors if not actor.startswith("shard-")]
    if kind is Kind.TOGETHER:
        many = draw.choice([2, 3, len(with_database), len(actors)])
        return replace(step, actors=tuple(draw.sample(list(actors), min(many, len(actors)))))
    if kind in DISK_KINDS:
        return _disk_step(draw, replace(step, actors=(draw.choice(with_database),)))
    if kind is Kind.FULL_DISK:
        return replace(step, hold_ms=draw.randint(*_FULL_MS))
    if kind not in ONE_ACTOR:
        return step
    step = replace(step, actors=(next(turns),))
    if kind is Kind.STOP:
        span = _LONG_STOP_MS if draw.random() < _LONG_STOP_SHARE else _STOP_MS
        return replace(step, hold_ms=draw.randint(*span))
    return replace(step, times=draw.choice([2, 2, 3])) if kind is Kind.NESTED else step


def _disk_step(draw: random.Random, step: Step) -> Step:
    if step.kind is Kind.STRACE:
        return replace(step, calls=draw.choice([_SYNC_CALLS, _WRITE_CALLS]), at=draw.randint(1, 40))
    if step.kind is Kind.DISK_ERROR:
        return replace(step, calls=_SYNC_CALLS, at=draw.randint(1, 20))
    return replace(step, calls=_SYNC_CALLS, hold_ms=draw.randint(*_SLOW_MS))


def parse_kinds(text: str | None, allowed: Collection[Kind]) -> frozenset[Kind] | None:
    """Kinds from `kill,stop,all`; None where nothing was asked for.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming what there is.
    """
    if text is None:
        return None
    names = {kind.value: kind for kind in allowed}
    asked = [name.strip() for name in text.split(",")]
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise DefiniteError(
            ErrorCode.INVALID_INPUT, f"faults: no {unknown[0]!r} here; there are {', '.join(sorted(names))}")
    return frozenset(names[name] for name in asked)
