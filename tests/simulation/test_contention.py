"""Two transactions that take the same things in opposite order never wait for each other: a prepare refuses, it never waits."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from pydantic import BaseModel

from actors import ledger
from actors.ledger import Row
from orchestrator.protocol.messages import OutcomeStatus
from orchestrator.saga import Saga, Step
from simulation.world import ServiceModel, World


class Input(BaseModel):
    first: str


class OneUnit(ServiceModel):
    """A service that has one unit of everything: who comes second is refused."""

    def __init__(self) -> None:
        super().__init__(refuse=lambda command: self.held(command.transaction))

    def held(self, transaction: str) -> bool:
        return any(holds(row) for (txn, _), row in self.rows.items() if txn != transaction)


def holds(row: Row) -> bool:
    return row.state in {ledger.RowState.PREPARED, ledger.RowState.COMMITTED}


def order(*services: str) -> Saga:
    """Takes one unit of each, one after the other."""
    steps = [Step(name=name, service=name, request=lambda _: {}, compensation="undo", after=list(services[:n][-1:]))
             for n, name in enumerate(services)]
    return Saga(name="_".join(services), input=Input, steps=steps)


def worlds() -> tuple[World, dict[str, ServiceModel]]:
    services: dict[str, ServiceModel] = {"a": OneUnit(), "b": OneUnit()}
    return World(order("a", "b"), services), services


@pytest.mark.parametrize("turns", list(product("12", repeat=8))[::5])
def test_opposite_orders_end_without_waiting_for_each_other(turns, occurred) -> None:
    """Both directions share the services; whichever interleaving of their messages, both end at once."""
    one, services = worlds()
    other = World(order("b", "a"), services)
    other.log.epoch = 10  # ids of its own
    other.start()
    one.submit(1, "one", {"first": "a"})
    other.submit(1, "other", {"first": "b"})
    for turn in turns:
        world = one if turn == "1" else other
        if world.network:
            world.deliver(0)
    began_ms = one.now_ms, other.now_ms
    one.heal()
    other.heal()
    assert (one.now_ms, other.now_ms) == began_ms, "somebody waited for time to pass"
    told = [world.told[key][0].status for world, key in ((one, "one"), (other, "other"))]
    assert Counter(told)[OutcomeStatus.COMMITTED] <= 1
    for service in services.values():
        assert sum(holds(row) for row in service.rows.values()) == Counter(told)[OutcomeStatus.COMMITTED]
    occurred("79")
