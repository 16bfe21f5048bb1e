"""The core and the ledger under hostile schedules: every single fault at every point, pairs, and random ones."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestrator.protocol.messages import Inquiry, OutcomeStatus
from orchestrator.protocol.records import Decision
from orchestrator.saga import Context, RollbackOrder, Saga, Step
from simulation.world import ServiceModel, World, shuffle_run


class Nothing(BaseModel):
    pass


def _request(_: Context) -> dict[str, int]:
    return {}


def _reading(*names: str):
    return lambda ctx: {name: ctx.results[name]["held"] for name in names}


def saga_of(steps: int, order: RollbackOrder = RollbackOrder.PARALLEL, *, perform: bool = True) -> Saga:
    """`steps` parallel prepares, one that reads them all, one performed after the commit (if wanted)."""
    names = [f"s{i}" for i in range(steps)]
    return Saga(name="sample", input=Nothing, rollback_order=order, steps=[
        *[Step(name=n, service=n, request=_request, compensation="undo") for n in names],
        Step(name="last", service="last", request=_reading(*names), after=names, compensation="undo"),
        *([Step(name="tell", service="tell", request=_reading("last"), after=["last"], after_commit=True)] if perform else []),
    ])


def world_of(
    steps: int = 2, refusing: str = "", order: RollbackOrder = RollbackOrder.PARALLEL, *, perform: bool = True,
) -> World:
    services = {name: ServiceModel() for name in [*(f"s{i}" for i in range(steps)), "last", "tell"]}
    if refusing:
        services[refusing].refuse = lambda _: True
    return World(saga_of(steps, order, perform=perform), services)


def finish(world: World) -> None:
    world.heal()
    world.check()


def test_happy_path_commits_everywhere_once() -> None:
    world = world_of()
    world.submit(1, "k")
    finish(world)
    (outcome,) = world.told["k"]
    assert outcome.status is OutcomeStatus.COMMITTED
    assert {r.step for r in outcome.results} == {"s0", "s1", "last"}
    assert sorted(e for s in world.services.values() for _, _, e in s.effects) == ["commit"] * 3 + ["hold"] * 3 + ["perform"]


@pytest.mark.parametrize("refusing", ["s0", "s1", "last"])
@pytest.mark.parametrize("order", list(RollbackOrder))
def test_a_refusal_aborts_everywhere(refusing: str, order: RollbackOrder) -> None:
    world = world_of(refusing=refusing, order=order)
    world.submit(1, "k")
    finish(world)
    (outcome,) = world.told["k"]
    assert (outcome.status, outcome.code, outcome.step) == (OutcomeStatus.ABORTED, "REFUSED", refusing)


def _fault(world: World, what: str) -> None:
    if what == "crash":
        world.crash()
    elif what == "lose" and world.network:
        world.lose(0)
    elif what == "double" and world.network:
        world.deliver(0, keep=True)
    elif what == "late" and world.network:
        world.network.append(world.network.pop(0))
        world.advance(1_500)
    elif what == "deadline":
        world.advance(60_000)
    elif what == "cancel":
        world.cancel(99, "k")


FAULTS = ["crash", "lose", "double", "late", "deadline", "cancel"]


def _run_with(faults: dict[int, list[str]], steps: int, refusing: str) -> int:
    world = world_of(steps, refusing)
    world.submit(1, "k")
    point = 0
    while world.network or world.core.open_count:
        for what in faults.pop(point, []):
            _fault(world, what)
        point += 1
        if world.network:
            world.deliver(0)
        else:
            world.advance(500)
        assert point < 2_000, "not live"
    finish(world)
    return point


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("refusing", ["", "s0", "last"])
def test_every_single_fault_at_every_point(steps: int, refusing: str) -> None:
    points = _run_with({}, steps, refusing)
    for point, what in itertools.product(range(points + 1), FAULTS):
        _run_with({point: [what]}, steps, refusing)


@pytest.mark.parametrize("refusing", ["", "last"])
def test_every_pair_of_faults(refusing: str) -> None:
    points = _run_with({}, 1, refusing)
    for (first, a), (second, b) in itertools.product(itertools.product(range(points), FAULTS), repeat=2):
        if second < first:
            continue  # the same two faults the other way round are the same schedule
        faults: dict[int, list[str]] = {first: [a]}
        faults.setdefault(second, []).append(b)
        _run_with(faults, 1, refusing)


def _orders(steps: int, refusing: str, *, perform: bool) -> int:
    """Run every order in which the network can deliver what is under way; returns how many there are."""
    count, path = 0, []  # path: (chosen, how many there were) at each delivery
    while True:
        world = world_of(steps, refusing, perform=perform)
        world.submit(1, "k")
        at = 0
        while world.network:
            if at == len(path):
                path.append((0, len(world.network)))
            world.deliver(path[at][0])
            at += 1
        finish(world)
        assert len(world.told["k"]) == 1
        count += 1
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return count
        path[-1] = (path[-1][0] + 1, path[-1][1])


@pytest.mark.parametrize(("steps", "refusing", "perform", "at_least"), [
    (1, "", True, 800), (1, "s0", True, 5), (1, "last", True, 40),  # two participants
    (2, "", False, 3_000), (2, "s0", True, 3_000), (2, "last", True, 4_000),  # three
])
def test_every_order_of_delivery(steps: int, refusing: str, perform: bool, at_least: int) -> None:
    assert _orders(steps, refusing, perform=perform) >= at_least


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 2), refusing=st.sampled_from(["", "", "s0", "last"]),
       order=st.sampled_from(list(RollbackOrder)))
def test_random_schedules(seed: int, steps: int, refusing: str, order: RollbackOrder) -> None:
    rng = random.Random(seed)
    world = world_of(steps, refusing, order)
    for number in range(1, 5):
        world.submit(number, f"k{rng.randrange(3)}", deadline_ms=rng.choice([0, 800]))
        shuffle_run(world, rng, rng.randrange(40))
        if rng.random() < 0.2:
            world.cancel(100 + number, f"k{rng.randrange(4)}")
    shuffle_run(world, rng, 60)
    finish(world)


def test_a_core_that_sends_before_the_decision_is_durable_is_caught() -> None:
    world = world_of(1)
    world.submit(1, "k")
    while not any(m.to == "log" and type(m.body[1]).__name__ == "Decided" for m in world.network):
        world.deliver(0)
    txn = next(iter(world.log.begun))
    command = world.core.settling(Inquiry(txn, "s0", 1), Decision.COMMIT)
    world.services["s0"].handle(command)  # the mistake: a commit leaves while the decision is on its way
    world.network.clear()
    world.now_ms += 60_000
    world.crash()  # the decision was lost with the log's queue: the recovery aborts at the deadline
    with pytest.raises(AssertionError):
        finish(world)
