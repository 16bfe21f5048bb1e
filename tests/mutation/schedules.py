"""A short form of the simulator, to kill mutants with: collected only where it is named."""

from __future__ import annotations

import pytest

from actors.orders import app as shop
from orchestrator.app import App
from orchestrator.testing import Simulator, Workload, explore
from simulation.trips import app as trips

SEEDS = 50


@pytest.mark.parametrize(("app", "saga"), [(trips, "book_trip"), (shop, "place_order"), (trips, "book_in_order")])
def test_schedules(app: App, saga: str) -> None:
    explored = explore(Simulator(Workload(app, saga)), range(SEEDS))
    assert explored.violation is None
    assert min(explored.committed, explored.aborted) > 0.2 * SEEDS
