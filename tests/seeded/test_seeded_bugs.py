"""Every seeded bug is caught by the seed that is known to catch it, and that seed finds nothing in the product as it is."""

from __future__ import annotations

import json
from itertools import chain

import pytest

from actors.ledger import Action, RowState, decide
from orchestrator.protocol.messages import Command, Kind
from orchestrator.testing.simulation.chance import Chance
from orchestrator.testing.simulation.options import draw
from seeded.bugs import BUGS, SEEDS
from seeded.catch import SCHEDULES, blackout, hunt, simulator
from seeded.patching import Bug, Cell, Edit

FURTHER = 300  # seeds that are tried, with the same mixture of faults, where some change has moved the known one
OF_THE_REAL_LOG = "real log: the second decision wins"  # one of them stands for all; the hunt takes seconds for each
SHORT = [bug for bug in BUGS if bug.workload != "log" or bug.name == OF_THE_REAL_LOG]
KNOWN: dict[str, int] = json.loads(SEEDS.read_text())


@pytest.mark.parametrize("bug", SHORT, ids=lambda bug: bug.name)
def test_a_seeded_bug_is_caught(bug: Bug) -> None:
    known = KNOWN.get(bug.name, 0)
    options = draw(Chance(known)) if bug.workload in SCHEDULES else None
    caught = hunt(bug, chain([known], range(FURTHER)), options)
    assert caught.by, f"not caught: find another seed (python -m tests.seeded.hunt --save --only '{bug.name}')"
    if bug.workload in SCHEDULES:
        assert simulator(bug.workload).run(caught.seed, options).violation is None


@pytest.mark.parametrize(("workload", "seed"), [
    ("order", 3692),  # an append answered twice, by the log before and after it forgot the key
    ("trip", 961),  # an append that was repeated, with a parking and the resolution after it
    ("trip", 6040),  # an outcome told without the result of a step that was parked by a shard that died of it
])
def test_a_schedule_that_once_gave_a_false_alarm_gives_none(workload: str, seed: int) -> None:
    assert simulator(workload).run(seed).violation is None


def test_there_are_enough_and_each_is_named_once() -> None:
    assert len(BUGS) >= 40
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert set(KNOWN) == {bug.name for bug in BUGS if bug.workload in SCHEDULES}


def test_an_edit_is_taken_back() -> None:
    command = Command("0" * 32, "pay", Kind.PREPARE, 1, 1, "pay")
    edit = Edit("actors.ledger:decide", "if row is None:", "if row is None and command.attempt > 1:")
    before = decide.__code__
    with edit.applied(), pytest.raises(AttributeError):
        decide(None, command, watermark_ms=0, exempt=())
    assert decide.__code__ is before
    assert decide(None, command, watermark_ms=0, exempt=()) is Action.RUN_PREPARE


def test_a_second_edit_of_one_function_adds_to_the_first() -> None:
    edits = (Edit("actors.ledger:decide", "if row is None:", "if row is None or True:"),
             Edit("actors.ledger:decide", "return TABLE[None, command.kind]", "return Action.ACK"))
    with Bug("both", "", "", edits).applied():
        assert decide(None, Command("0" * 32, "pay", Kind.PREPARE, 1, 1, "pay"), watermark_ms=0, exempt=()) is Action.ACK


def test_an_edit_that_does_not_fit_is_an_error() -> None:
    for old in ("no such text", "row"):
        with pytest.raises(LookupError, match="write the seeded bug anew"), Edit("actors.ledger:decide", old, "").applied():
            pass


def test_an_edit_with_a_name_that_is_not_there_is_an_error() -> None:
    for new in ("Nothing()", "[Nothing for _ in ()]"):
        edit = Edit("actors.ledger:decide", "return TABLE[None, command.kind]", f"return {new}")
        with pytest.raises(LookupError, match="Nothing"), edit.applied():
            pass


def test_a_cell_that_changes_nothing_is_an_error() -> None:
    with pytest.raises(AssertionError), Cell(RowState.DONE, Kind.PERFORM, Action.ACK).applied():
        pass


def test_an_unchanged_product_is_not_caught() -> None:
    assert hunt(Bug("none", "", "", ()), range(20)).by == ""
    blackout().expect("COMMITTED")
