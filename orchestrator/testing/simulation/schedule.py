"""One schedule: load and faults for a while, then everything heals, and all must end well."""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.protocol.identifiers import partition_of_key
from orchestrator.protocol.messages import OutcomeStatus
from orchestrator.testing.marks import Marks
from orchestrator.testing.simulation.chance import Chance, Draw
from orchestrator.testing.simulation.invariants import findings
from orchestrator.testing.simulation.options import Options, draw
from orchestrator.testing.simulation.world import ViolationError, World

if TYPE_CHECKING:
    from orchestrator.testing.simulation.life import Life
    from orchestrator.testing.simulation.workload import Books, Workload

HEAL_MS = 400_000  # simulated: whatever has not ended by then never will
SLICE_MS = 500
BOOT_MS = 20


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one schedule.

    Attributes:
        seed: it follows from this and the options alone.
        options: what could happen.
        fired: faults that happened.
        committed, aborted: outcomes that were told.
        worked: whether any service did something for a transaction.
        trace: (simulated ms, what, who), in order.
        violation: guarantee and text, None where all held.
        marks: rows of the catalogue of failures that occurred.
    """

    seed: int
    options: Options
    fired: list[Draw]
    committed: int
    aborted: int
    worked: bool
    trace: list[tuple[int, str, str]]
    violation: tuple[str, str] | None
    marks: Marks = field(default_factory=Marks)

    @property
    def digest(self) -> bytes:
        """Tells traces apart: the same seed and options give the same."""
        return hashlib.blake2b(marshal.dumps(self.trace, 2), digest_size=8).digest()  # version 2 writes no references


def run_schedule(
    workload: Workload, books: Books, seed: int, options: Options | None = None, without: Collection[Draw] = (),
) -> Run:
    """Run one schedule.

    Args:
        workload: what is tried.
        books: the state to begin with.
        seed: all choices follow from it.
        options: instead of those that the seed draws.
        without: faults left out although the seed has them.
    """
    chance = Chance(seed, without)
    options = options or draw(chance)
    world = World(books, options, chance)
    violation = None
    try:
        _run(world, workload, seed)
    except ViolationError as error:
        violation = (error.guarantee, error.text)
    world.stores.close()
    statuses = [told.outcome.status for told in world.answers]
    run = Run(seed, options, chance.fired, statuses.count(OutcomeStatus.COMMITTED), statuses.count(OutcomeStatus.ABORTED),
              bool(world.worked), world.trace, violation, world.witness.marks)
    world.dismantle()
    return run


def _run(world: World, workload: Workload, seed: int) -> None:
    world.partitions = sorted({partition_of_key(f"{seed}-{number}") for number in range(world.options.transactions)})
    world.start_all()
    world.run_until(BOOT_MS)
    world.faulty = True
    world.watched = world.options.crash > 0
    _plan_load(world, workload, seed)
    _plan_faults(world)
    world.operator.plan()
    world.run_until(BOOT_MS + world.options.phase_ms)
    heal(world)
    settle(world)


def heal(world: World) -> None:
    """No more faults: what was stopped goes on, what was cut is joined, what is down starts."""
    world.faulty = world.watched = False
    world.cuts.clear()
    for role in world.stores.names:
        world.stores.make_room(role)
    for life in list(world.lives.values()):
        world.thaw(life)
    world.operator.resume_all()


def settle(world: World, limit_ms: int = HEAL_MS) -> None:
    """Let everything end, then check all of it.

    Raises:
        ViolationError: something did not end, or is wrong.
    """
    end_ms = world.now_ms + limit_ms
    while not at_rest(world):
        if world.now_ms >= end_ms:
            world.violation("L", f"not at rest {limit_ms} ms after everything healed: {_restless(world)}")
        world.run_until(world.now_ms + SLICE_MS)
    for guarantee, text in findings(world):
        world.violation(guarantee, text)


def at_rest(world: World) -> bool:
    """Whether everybody has been told and every transaction has ended."""
    log, client = world.log, world.client
    if log is None or not log.ready or client is None or client.waiting or world.planned:
        return False
    # where two logs live, the older one may have opened the file last: what it stored, the other knows once it writes
    model = world.stores.read_log() if "log" in world.zombies else log.model
    return all(entry.ended and not entry.unsettled for entry in model.transactions.values())


def _restless(world: World) -> str:
    log = world.log
    if log is None or not log.ready:
        return "the log does not serve"
    open_ = [f"{t} {list(e.parked)}" for t, e in log.model.transactions.items() if not e.ended or e.unsettled]
    return f"open: {open_}; callers waiting: {bool(world.client and world.client.waiting)}"


# ---- load ---------------------------------------------------------------------------------------------------------


def _plan_load(world: World, workload: Workload, seed: int) -> None:
    chance, options = world.chance, world.options
    for number in range(options.transactions):
        key = f"{seed}-{number}"
        at_ms = chance.between("load", 0, options.spread_ms)
        _plan(world, at_ms, _submit(world, workload, key, number))
        if chance.hits("repeat", options.repeat):
            for _ in range(chance.between("repeats", 1, 4)):
                other = number + 1 if chance.hits("other payload", options.other_payload) else number
                _plan(world, at_ms + chance.between("repeated", 0, 1_500), _submit(world, workload, key, other))
        if chance.hits("cancel", options.cancel):
            _plan(world, max(at_ms + chance.between("cancelled", -5, 600), 0), _cancel(world, key))
    if options.driver_dies:
        _plan(world, chance.between("driver", 0, options.phase_ms), lambda: _driver_dies(world, workload, seed))


def _submit(world: World, workload: Workload, key: str, number: int) -> Callable[[], None]:
    def submit() -> None:
        world.client.submit(workload.saga.name, key, workload.payload(number), world.options.deadline_ms)

    return submit


def _cancel(world: World, key: str) -> Callable[[], None]:
    return lambda: world.client.cancel(key)


def _plan(world: World, at_ms: int, action: Callable[[], None]) -> None:
    """Have a caller do something, who may have to be started first."""
    world.planned += 1

    def act() -> None:
        if world.client is None:
            world.after(100, None, act)
            return
        world.planned -= 1
        world.run_as(world.client, action)

    world.after(at_ms, None, act)


def _driver_dies(world: World, workload: Workload, seed: int) -> None:
    """The process of all callers is killed; a new one asks again under some of the keys."""
    if not world.chance.planned("driver dies"):
        return
    world.crash(world.client)
    for number in range(world.options.transactions):
        if world.chance.between("again", 0, 1):
            _plan(world, 1_000, _submit(world, workload, f"{seed}-{number}", number))


# ---- faults -------------------------------------------------------------------------------------------------------


def _plan_faults(world: World) -> None:
    options = world.options
    for kind, count, act in (
            ("kill", options.kills, _kill), ("freeze", options.freezes, _freeze), ("zombie", options.zombies, _zombie),
            ("cut", options.cuts, _cut), ("deployment", options.deployments, _deployment),
            ("full", int(options.disk_full_ms > 0), _full), ("clock", int(options.clock_jump_ms > 0), _clock)):
        for _ in range(count):
            at_ms = world.chance.between(kind, 0, options.phase_ms)
            if world.chance.planned(kind):
                world.after(at_ms, None, partial(_while_faulty, act, world))


def _while_faulty(act: Callable[[World], None], world: World) -> None:
    if world.faulty:
        act(world)


def _someone(world: World, kind: str) -> Life | None:
    lives = [life for life in world.roles.values() if life.role != "client"]
    return world.chance.pick(kind, lives) if lives else None


def _kill(world: World) -> None:
    if life := _someone(world, "killed"):
        world.crash(life)


def _freeze(world: World) -> None:
    if life := _someone(world, "frozen"):
        world.freeze(life)
        world.after(world.chance.between("frozen for", 50, 6_000), None, lambda: world.thaw(life))


def _zombie(world: World) -> None:
    """A successor starts while the old one lives, stopped for a while or not."""
    life = _someone(world, "zombie of")
    if life is None or life.role in world.zombies:
        return
    if world.chance.between("zombie frozen", 0, 1):
        world.freeze(life)
        world.after(world.chance.between("zombie for", 50, 4_000), None, lambda: world.thaw(life))
    world.start(life.role)


def _cut(world: World) -> None:
    """One direction between two roles, or both."""
    roles = ["client", *world.stores.names, *(f"shard-{index}" for index in range(world.shards))]
    one, other = world.chance.pick("cut from", roles), world.chance.pick("cut to", roles)
    cut = {(one, other)} | ({(other, one)} if world.chance.between("both ways", 0, 1) else set())
    world.note("cut", f"{one} to {other}, {len(cut)} ways")
    world.cuts |= cut
    world.after(world.chance.between("cut for", 100, 4_000), None, lambda: world.cuts.difference_update(cut))


def _deployment(world: World) -> None:
    """Everything is killed at once, and brought up as another run."""
    world.run = f"run-{world.now_ms}"
    if world.options.reshard:
        world.shards = world.chance.between("shards", 1, 3)
    world.witness.everything_dies()
    for life in list(world.lives.values()):
        world.crash(life)
    for index in range(world.shards):
        role = f"shard-{index}"
        world.after(world.chance.between("restart", 60, 900), None, partial(world.start_missing, role))


def _full(world: World) -> None:
    role = world.chance.pick("full", sorted(world.stores.names))
    world.note("disk full", role)
    world.stores.fill(role)
    world.after(world.options.disk_full_ms, None, lambda: world.stores.make_room(role))


def _clock(world: World) -> None:
    """The wall clock jumps; processes notice when they start."""
    world.jumped_ms += world.options.clock_jump_ms * (1 if world.chance.between("clock way", 0, 1) else -1)
    world.witness.clock_jumped(world.options.clock_jump_ms)
    world.note("clock", f"jumped by {world.jumped_ms} ms")
