"""Failures that random schedules meet seldom, made on purpose, and seen to have happened."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from orchestrator.protocol.identifiers import epoch_of, partition_of_key
from orchestrator.protocol.messages import Inquiry, OutcomeStatus
from orchestrator.protocol.records import RECORD_SCHEMA, TakeRequest, encode
from orchestrator.testing import given
from orchestrator.testing.simulation.chance import Chance
from orchestrator.testing.simulation.life import Message
from orchestrator.testing.simulation.options import Options
from orchestrator.testing.simulation.schedule import BOOT_MS, settle
from orchestrator.testing.simulation.simulator import opened
from orchestrator.testing.simulation.world import World
from simulation.trips import PLACES, app

TRIP = {"name": "north", "people": 2}
Occurred = Callable[..., None]


def running(*, shards: int = 1) -> World:
    """A world in which all serve."""
    world = World(opened(app), Options(shards=shards, in_doubt_after_ms=2_000), Chance(1))
    world.start_all()
    world.run_until(BOOT_MS)
    return world


def submit(world: World, key: str) -> None:
    payload = app.saga("book_trip").encode_input(TRIP)
    world.run_as(world.client, lambda: world.client.submit("book_trip", key, payload, 0))


def marked(world: World) -> set[str]:
    return set(world.witness.marks.counts)


def only_transaction(world: World) -> str:
    (found,) = (txn for txn, entry in world.roles["log"].model.transactions.items() if not entry.ended)
    return found


def test_everything_is_stopped_for_long_and_wakes_up_beside_its_successors(occurred: Occurred) -> None:
    world = running()
    submit(world, "k")
    world.run_until(world.now_ms + 8)  # prepares are on their way, none is decided
    stopped = [life for life in world.lives.values() if life.role != "client"]
    for life in stopped:
        world.freeze(life)
    world.run_until(world.now_ms + 120_000)
    for life in stopped:
        world.start(life.role)
    world.run_until(world.now_ms + 500)
    for life in stopped:
        world.thaw(life)
    settle(world)
    assert {"12", "66"} <= marked(world)  # the old shard was refused and ended, and so were log and services
    assert not any(life.alive for life in stopped if life.role in ("log", "shard-0"))
    (told,) = world.answers
    assert told.outcome.status is OutcomeStatus.ABORTED
    occurred("53")


def test_power_fails_after_a_decision_was_written_and_found_but_not_synced_by_its_writer(occurred: Occurred) -> None:
    ended = (given(app).submitted("book_trip", TRIP).crash("log", "between write and sync", nth=2)
             .crash("log", "before the write", nth=4, power=True).expect("COMMITTED", tell="DONE"))
    assert "56b" in marked(ended._world)
    occurred("56b")


def test_the_wrong_shard_sends_its_caller_away(occurred: Occurred) -> None:
    world = running(shards=2)
    key = next(f"k{n}" for n in range(9) if partition_of_key(f"k{n}") % 2)
    world.shards = 1  # as a caller sees it that has not heard of the second shard
    submit(world, key)
    world.run_until(world.now_ms + 50)
    assert not world.answers
    assert "15" in marked(world)
    world.shards = 2
    settle(world)
    assert [told.outcome.status for told in world.answers] == [OutcomeStatus.COMMITTED]
    occurred("15")


def test_a_repeated_taking_adopts_nothing_that_the_shard_began_itself(occurred: Occurred) -> None:
    world = running()
    submit(world, "k")
    world.run_until(world.now_ms + 6)
    shard, log = world.roles["shard-0"], world.roles["log"]
    transaction = only_transaction(world)
    take = encode(TakeRequest(RECORD_SCHEMA, 0, shard.name, shard.partitions, 1, shard.world.run))
    world.send(Message(shard, "log", "take", world.next_call(), take))
    settle(world)
    assert "11" in marked(world)
    assert log.model.owners[partition_of_key("k")][1] == epoch_of(transaction)
    assert log.model.transactions[transaction].recoveries == 0
    assert [told.outcome.status for told in world.answers] == [OutcomeStatus.COMMITTED]
    occurred("11")


def test_a_superseded_shard_does_not_answer_above_its_epoch(occurred: Occurred) -> None:
    world = running()
    zombie = world.roles["shard-0"]
    world.start("shard-0")
    world.run_until(world.now_ms + 10)
    submit(world, "k")
    world.run_until(world.now_ms + 6)
    transaction = only_transaction(world)
    inquiry = msgspec.msgpack.encode([Inquiry(transaction, "flight", epoch_of(transaction))])
    asked = Message(world.roles["flights"], zombie, "inquire", world.next_call(), inquiry)
    sent = world.messages
    world.run_as(zombie, lambda: zombie.handle(asked))
    assert world.messages == sent + 1  # it asks the log who owns the partition, and answers nothing
    settle(world)
    assert {"10c", "12"} <= marked(world)
    assert not zombie.alive
    assert [told.outcome.status for told in world.answers] == [OutcomeStatus.COMMITTED]
    occurred("10c", "12")


def test_everybody_wants_the_same_seats(occurred: Occurred) -> None:
    scenario = given(app, shards=2)
    for number in range(30):
        scenario = scenario.submitted("book_trip", {"name": f"trip-{number}", "people": 2}, key=f"k{number}")
    ended = scenario.run()
    told = [ended._told[f"k{number}"] for number in range(30)]
    assert [outcome.status for outcome in told].count(OutcomeStatus.COMMITTED) == PLACES // 2
    assert {outcome.code for outcome in told if outcome.status is OutcomeStatus.ABORTED} == {"FULL"}
    assert ended.totals("flights") == {"taken": PLACES}
    occurred("78")


# ---- the witness ------------------------------------------------------------------------------------------------------


def test_nothing_is_marked_where_nothing_goes_wrong() -> None:
    world = given(app).submitted("book_trip", TRIP).expect("COMMITTED")._world
    assert marked(world) == set()


@pytest.mark.parametrize(("role", "when", "what", "rows"), [
    ("log", "between write and sync", "", {"65"}),
    ("shard-0", "before sending", "outcomes", {"6"}),
    ("shard-0", "before sending", "append", {"1"}),
    ("shard-0", "before sending", "commands", {"2"}),
    ("flights", "before the write", "", {"17"}),
    ("flights", "between write and sync", "", {"19"}),
    ("flights", "after the sync", "", {"18", "24"}),
])
def test_a_death_is_marked_as_what_it_was(role: str, when: str, what: str, rows: set[str]) -> None:
    world = given(app).submitted("book_trip", TRIP).crash(role, when, what=what).expect("COMMITTED")._world
    assert rows <= marked(world)
    deaths = {"1", "2", "3", "4", "5", "6", "7", "8", "17", "18", "19", "65"}
    assert marked(world) & deaths == rows & deaths


@pytest.mark.parametrize(("fault", "method", "rows"), [
    ("lose", "commands", {"26"}), ("lose", "replies", {"27"}), ("late", "commands", {"37"}), ("double", "commands", {"28"})])
def test_a_mishap_is_marked_as_what_it_was(fault: str, method: str, rows: set[str]) -> None:
    world = given(app).submitted("book_trip", TRIP).message(fault, method).expect("COMMITTED")._world
    assert rows <= marked(world)
    assert marked(world) & {"26", "27", "37"} == rows - {"28"}
