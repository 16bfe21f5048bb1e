"""Two asynchronous prepares that both wait for somebody outside, and one unit of stock."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

from actors.ledger import RowState
from actors.memory import MemoryStore
from actors.runner import BatchRunner, Work
from actors.service import Refused, Service, State
from actors.store import Retention
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind, Status
from orchestrator.saga import encode_plain
from orchestrator.testing.simulation.journal import Journal


class Take(BaseModel):
    """One unit."""


class Taken(BaseModel):
    """What is left."""

    left: int


class Seats(Service):
    """Has one seat, and asks somebody outside before it is given away."""

    name = "seats"

    async def ask_take(self, request: Take) -> bool:
        return True

    def prepare_take(self, state: State, request: Take, answer: bool) -> Taken | Refused:
        left = state.get("left", 1)
        if not left:
            return Refused("GONE", "no seat is left")
        state["left"] = left - 1
        return Taken(left=left - 1)

    def commit_take(self, state: State, request: Take, result: Taken) -> None: ...

    def rollback_take(self, state: State, request: Take, result: Taken) -> None:
        state["left"] += 1


def test_the_synchronous_part_decides_on_the_state_of_now(occurred: Callable[..., None]) -> None:
    store = MemoryStore(Journal("seats"))
    runner = BatchRunner("seats", Seats().bound, store)
    both = [Command(make_id(5, 3, 1, n), "seat", Kind.PREPARE, 1, 1, "take", encode_plain({})) for n in (1, 2)]
    waiting = runner.run([Work(command, "peer") for command in both], Retention(), 10)
    assert [outcome.reply for outcome in waiting] == [None, None]  # both wait, and both saw the seat
    outcomes = [runner.run([Work(command, "peer", True)], Retention(), 20)[0].reply for command in both]
    assert [(reply.status, reply.code) for reply in outcomes] == [(Status.YES, ""), (Status.NO, "GONE")]
    assert sorted(row.state for row in store.rows.values()) == [RowState.PREPARED, RowState.REFUSED]
    occurred("50b")
