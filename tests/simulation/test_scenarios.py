"""The given/expect style, on the tests' own app: single mishaps, and what must come of them."""

from __future__ import annotations

import pytest

from orchestrator.errors import DefiniteError
from orchestrator.testing import given
from simulation.trips import app

TRIP = {"name": "north", "people": 2}


def test_nothing_happens() -> None:
    ended = given(app).submitted("book_trip", TRIP).expect(
        "COMMITTED", flight="COMMITTED", hotel="COMMITTED", car="COMMITTED", pay="COMMITTED", tell="DONE")
    assert ended.totals("flights") == {"taken": 2}
    assert ended.results("transaction-0")["hotel"] == {"price": 6}


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("role", ["log", "purse", "flights"])
def test_a_death_between_write_and_sync(role: str, power: bool) -> None:
    given(app).submitted("book_trip", TRIP).crash(role, "between write and sync", power=power).expect("COMMITTED", tell="DONE")


def test_a_shard_that_dies_before_it_tells() -> None:
    ended = given(app).submitted("book_trip", TRIP).crash("shard-0", "before sending", what="outcomes").expect("COMMITTED")
    assert "dies: shard-0/1 before sending (outcomes)" in ended.story


def test_a_refusal_rolls_everything_back() -> None:
    ended = given(app).submitted("book_trip", TRIP).refused_by("cars").expect(
        "ABORTED", "SIMULATED_DECLINE", car="REFUSED", flight="ROLLED_BACK", tell="")
    assert ended.totals("flights") == {"taken": 0}


def test_a_cancel_competes() -> None:
    given(app).submitted("book_trip", TRIP, cancelled_ms=5).expect("ABORTED", "E_CANCELLED", flight="ROLLED_BACK")


@pytest.mark.parametrize("fault", ["lose", "double", "swap", "late"])
def test_a_mishandled_reply(fault: str) -> None:
    given(app).submitted("book_trip", TRIP).message(fault, "replies", nth=2).expect("COMMITTED")


def test_two_under_one_key_are_one() -> None:
    ended = given(app).submitted("book_trip", TRIP, key="k").submitted("book_trip", TRIP, key="k").run()
    ended.expect("k", "COMMITTED")
    assert ended.totals("flights") == {"taken": 2}


def test_what_never_happens_is_said() -> None:
    with pytest.raises(AssertionError, match="never happened: Crash"):
        given(app).submitted("book_trip", TRIP).crash("log", "after the sync", nth=100).run()


def test_another_outcome_than_expected_is_told_with_its_story() -> None:
    with pytest.raises(AssertionError, match=r"transaction-0: COMMITTED .*expected ABORTED(.|\n)*gets commands"):
        given(app).submitted("book_trip", TRIP).expect("ABORTED")


def test_a_role_that_does_not_exist() -> None:
    with pytest.raises(DefiniteError, match="role: there is no 'ships'; choose among log, flights"):
        given(app).submitted("book_trip", TRIP).crash("ships", "before the write")
