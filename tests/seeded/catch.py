"""What catches seeded bugs: schedules of the simulator, a scenario, or the test that holds the real log to its model."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from hypothesis import Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from orchestrator.app import load_app
from orchestrator.testing import Options, Scenario, Simulator, Workload, given
from property.test_log_model import LogAgainstModel
from seeded.patching import Bug
from seeded.trips import app as trips

EXAMPLES_MAX = 200
SCHEDULES = ("order", "trip")


@dataclass(frozen=True)
class Caught:
    """What became of the hunt for one bug.

    Attributes:
        seed: that caught it, -1 where none did.
        tried: how many seeds (examples, where the log's property test hunts).
        by: the guarantee's letter and what was found; empty where it escaped.
    """

    bug: Bug
    seed: int
    tried: int
    by: str
    seconds: float


@cache
def simulator(workload: str) -> Simulator:
    """Of a workload by its name in `Bug.workload`; its books are opened by the unchanged product."""
    if workload == "trip":
        return Simulator(Workload(trips, "trip"))
    return Simulator(Workload(load_app("actors.orders:app"), "place_order"))


def hunt(bug: Bug, seeds: Iterable[int], options: Options | None = None) -> Caught:
    """Run the changed product until something catches it.

    Args:
        bug: the change.
        seeds: schedules to be tried.
        options: what may happen in them, instead of what each seed draws.
    """
    if bug.workload == "log":
        return _hunt_log(bug)
    if bug.workload == "blackout":
        return _hunt_blackout(bug)
    tried, count = simulator(bug.workload), 0
    began = time.perf_counter()
    with bug.applied():
        for seed in seeds:
            count += 1
            violation = tried.run(seed, options).violation
            if violation is not None:
                by = f"{violation[0]}: {violation[1].splitlines()[0]}"
                return Caught(bug, seed, count, by, time.perf_counter() - began)
    return Caught(bug, -1, count, "", time.perf_counter() - began)


def blackout() -> Scenario:
    """A service dies between writing and syncing a hold, answers from it after its restart, then power fails."""
    app = load_app("actors.orders:app")
    order = given(app).submitted("place_order", app.saga("place_order").sample(0))
    dies = order.crash("inventory", "between write and sync")
    return dies.crash("inventory", "on receiving", what="commands", nth=3, power=True)


def _hunt_blackout(bug: Bug) -> Caught:
    began = time.perf_counter()
    by = ""
    with bug.applied():
        try:
            blackout().run()
        except AssertionError as error:
            by = f"scenario: {str(error).splitlines()[0]}"
    return Caught(bug, 0 if by else -1, 1, by, time.perf_counter() - began)


def _hunt_log(bug: Bug) -> Caught:
    class Counted(LogAgainstModel):
        runs = 0

        def __init__(self) -> None:
            super().__init__()
            Counted.runs += 1

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                self.directory.cleanup()

    began = time.perf_counter()
    by = ""
    with bug.applied():
        try:
            run_state_machine_as_test(Counted, settings=settings(
                max_examples=EXAMPLES_MAX, stateful_step_count=30, deadline=None, database=None, derandomize=True,
                phases=[Phase.generate], verbosity=Verbosity.quiet))
        except Exception as error:  # noqa: BLE001 - whatever fails has caught it
            by = f"property test of the log: {type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}"
    return Caught(bug, -1 if not by else 0, Counted.runs, by, time.perf_counter() - began)
