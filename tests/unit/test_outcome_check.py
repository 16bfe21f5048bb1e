from __future__ import annotations

from dataclasses import dataclass

import pytest

from loadgen.baskets import Baskets, Line
from loadgen.check import EXAMPLES_MAX, check_outcomes
from loadgen.workload import Told, Workload


@dataclass
class Logged:
    key: str
    state: str


def workload(orders=1):
    made = Baskets()
    made.add("1", "17850", "France", [Line("22423", 4, 1_275)])
    return Workload(made, orders=orders, run="run")


@pytest.mark.parametrize(("told", "state", "wrong"), [
    (Told.COMMITTED, "committed", 0), (Told.COMMITTED, "committing", 0), (Told.COMMITTED, "aborted", 1),
    (Told.COMMITTED, "preparing", 1), (Told.ABORTED, "aborted", 0), (Told.ABORTED, "aborting", 0),
    (Told.ABORTED, "committed", 1), (Told.REJECTED, "committed", 1), (Told.SKIPPED, "committed", 1),
    (Told.UNKNOWN, "committed", 0), (Told.UNKNOWN, "preparing", 0),
])
def test_what_was_told_must_be_what_the_log_says(told, state, wrong):
    assert check_outcomes(workload(), bytes([told]), [Logged("run-1-0", state)]).wrong == wrong


@pytest.mark.parametrize(("told", "wrong"), [
    (Told.COMMITTED, 1), (Told.ABORTED, 1), (Told.REJECTED, 0), (Told.UNKNOWN, 0), (Told.SKIPPED, 0)])
def test_an_outcome_that_the_log_does_not_know_is_wrong(told, wrong):
    verdict = check_outcomes(workload(), bytes([told]), [Logged("other-1-0", "committed")])
    assert verdict.wrong == wrong
    assert verdict.unknown_absent == (told is Told.UNKNOWN)


def test_unknown_outcomes_are_resolved_by_the_log():
    logged = [Logged("run-1-0", "committed"), Logged("run-1-1", "aborting"), Logged("run-1-2", "preparing")]
    verdict = check_outcomes(workload(4), bytes([Told.UNKNOWN] * 4), logged)
    assert (verdict.unknown_committed, verdict.unknown_aborted, verdict.unknown_open, verdict.unknown_absent) == (1, 1, 1, 1)


def test_all_are_counted_and_the_first_few_told():
    verdict = check_outcomes(workload(50), bytes([Told.COMMITTED] * 50), [])
    assert verdict.wrong == 50
    assert len(verdict.examples) == EXAMPLES_MAX
    assert verdict.examples[0] == "run-1-0: told COMMITTED, the log does not know it"
