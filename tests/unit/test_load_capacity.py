"""The search for the capacity against deployments whose capacity is known."""

from __future__ import annotations

import io
from array import array
from pathlib import Path

import pytest
from rich.console import Console

from loadgen.capacity import find_capacity
from loadgen.load import LoadPlan
from loadgen.place import Placed
from loadgen.tally import Tally
from loadgen.workload import Told
from orchestrator.errors import DefiniteError


class Deployment:
    """Answers in 10 ms up to its knee, in a second beyond it; `worse_after` runs it has `slower` of its speed."""

    def __init__(self, knee, *, closed=None, refuses=False, keeps_up=True, worse_after=1_000, stalls=False):
        self.knee, self.closed, self.refuses, self.keeps_up = knee, closed or knee, refuses, keeps_up
        self.worse_after, self.stalls, self.plans = worse_after, stalls, []
        self.slower = 0.9

    def run(self, plan):
        self.plans.append(plan)
        if len(self.plans) == self.worse_after:
            self.knee *= self.slower
        offered = self.closed if plan.arrivals is None else plan.arrivals.rate_per_s
        window_s = (plan.duration_s or 0) if plan.arrivals is None else plan.arrivals.duration_s - plan.warm_up_s
        beyond = offered > self.knee
        told = int(offered * window_s * (0.8 if beyond and not self.keeps_up else 1))
        stalled = self.stalls and plan.arrivals is None
        tally = Tally(window_s=window_s, told_in_window=0 if stalled else told, wall_s=window_s * 2 if stalled else window_s)
        tally.of("place_order").add(Told.COMMITTED, "", told)
        if beyond and self.refuses:
            tally.of("place_order").add(Told.REJECTED, "E_OVERLOADED", 5)
        late = beyond and not self.refuses and self.keeps_up
        tally.record(array("q", [1_000_000 if late else 10_000] * 100), 0, warm=True)
        return Placed(tally)


def search(deployment, bound=50.0, **values):
    plan = LoadPlan(data=Path("data"), app="a:b", capacity_p99_ms=bound, **values)
    return find_capacity(plan, bound, deployment.run, Console(file=io.StringIO()))


@pytest.mark.parametrize("deployment", [
    Deployment(1_000), Deployment(1_000, refuses=True), Deployment(1_000, keeps_up=False), Deployment(1_000, closed=9_000),
    Deployment(1_000, closed=700), Deployment(40, closed=9_000), Deployment(1_000, stalls=True)])
def test_the_knee_is_found_from_below(deployment):
    found = search(deployment)
    assert deployment.knee / 1.06 <= found.rate_per_s <= deployment.knee
    last = found.steps[-1]
    assert last.holds
    assert last.rate_per_s == found.rate_per_s  # the last run is the one that is reported
    assert found.to_json()["steps"][0]["rate_per_s"] == 0.0
    assert found.to_json()["steps"][-1]["holds"] is True


@pytest.mark.parametrize("closed", [2, 30])
def test_the_knee_is_found_however_low_the_concurrency_kept_the_closed_loop(closed):
    found = search(Deployment(20_000, closed=closed))
    assert 20_000 / 1.06 <= found.rate_per_s <= 20_000
    assert len(found.steps) <= 24


def test_a_search_that_no_rate_ends_is_refused():
    with pytest.raises(DefiniteError, match="--p99-ms: more than 1,000,000 orders a second"):
        search(Deployment(10_000_000, closed=1_000))


def test_what_does_not_hold_twice_is_lowered():
    known = Deployment(1_000)
    steps = len(search(known).steps)
    found = search(Deployment(1_000, worse_after=steps))  # the second run of the rate that was found
    assert found.steps[-2].holds is False
    assert found.rate_per_s <= 900


def test_steps_last_as_long_as_was_said():
    deployment = Deployment(100)
    search(deployment, duration_s=3.0, warm_up_s=2.0)
    closed, *opened = deployment.plans
    assert (closed.duration_s, closed.warm_up_s, closed.arrivals) == (3.0, 2.0, None)
    assert {plan.arrivals.duration_s for plan in opened} == {5.0}
    assert len({plan.arrivals.seed for plan in opened}) == len(opened)
    for plan in deployment.plans:
        plan.check()


def test_steps_have_no_warm_up_where_none_was_asked_for():
    deployment = Deployment(100)
    search(deployment, warm_up_s=0.0)
    assert {plan.warm_up_s for plan in deployment.plans} == {0.0}


def test_a_rate_at_which_nothing_came_does_not_hold():
    deployment = Deployment(1_000)
    deployment.run = lambda plan: Placed(Tally(window_s=1.0, wall_s=1.0))
    with pytest.raises(DefiniteError, match="not even 2 orders"):
        search(deployment)


def test_a_step_is_long_enough_to_have_a_p99():
    deployment = Deployment(10, closed=20)
    found = search(deployment)
    assert 9 < found.rate_per_s <= 10
    assert min(plan.arrivals.expected for plan in deployment.plans[1:]) >= 100


def test_a_bound_that_nothing_keeps_is_refused():
    with pytest.raises(DefiniteError, match="not even 2 orders"):
        search(Deployment(1_000), bound=5.0)


def test_a_rate_that_held_once_and_never_again_is_not_reported():
    steps = len(search(Deployment(4)).steps)
    deployment = Deployment(4, worse_after=steps)
    deployment.slower = 0.1
    with pytest.raises(DefiniteError, match="not even 2 orders"):
        search(deployment)
    assert deployment.plans[-1].arrivals.rate_per_s >= 2
