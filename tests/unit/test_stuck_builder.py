"""A request builder that never returns: its shard is ended again and again, until it is known which transaction does it."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.messages import OutcomeMessage, SubmitRequest
from orchestrator.protocol.records import AppendRequest, EpochRecord, TakeRequest
from orchestrator.saga import Context, Saga, Step
from simulation.world import ServiceModel

if TYPE_CHECKING:
    from pathlib import Path

ALL = list(range(256))
STUCK_MS = 60_000  # the watchdog ends a life after so long
DEADLINE_MS = 3_600_000
QUARANTINE_AFTER = 3
INNOCENT = [f"innocent-{n}" for n in range(5)]


class EndedError(BaseException):
    """The process is ended within user code: nothing that was under way comes out of it."""


class Input(BaseModel):
    loops_in: str = ""


def build(step: str):
    def built(context: Context) -> dict[str, str]:
        if context.input.loops_in == step:
            raise EndedError
        return {}

    return built


SAGA = Saga(name="order", input=Input, steps=[
    Step(name="stock", service="stock", request=build("stock"), compensation="undo"),
    Step(name="pay", service="pay", request=build("pay"), after=["stock"], compensation="undo"),
    Step(name="tell", service="tell", request=build("tell"), after=["pay"], after_commit=True)])


class Deployment:
    """A real log and the production core, life after life; participants with the production ledger."""

    def __init__(self, path: Path) -> None:
        self.now_ms = 1_700_000_000_000
        self.services = {name: ServiceModel() for name in ("stock", "pay", "tell")}
        create_log(path)
        self.log = LogStore(path, "run", 7 * 24 * 3_600_000, clock=lambda: self.now_ms)
        self.told: dict[int, OutcomeMessage] = {}
        self.lives = 0
        self.sequence = count(1)

    def live(self, submits: list[tuple[Waiter, SubmitRequest]]) -> bool:
        """One life of the shard; returns whether it survived to the end of all that can end."""
        self.lives += 1
        self.core = Coordinator({("order", 1): SAGA}, open_max=100, quarantine_after=QUARANTINE_AFTER)
        taken = self.log.take(TakeRequest(1, 0, f"life-{self.lives}", ALL, 1, "run"), self.now_ms)
        try:
            self.run(self.core.adopt(dict(zip(ALL, taken.epochs, strict=True)), taken.open, self.now_ms))
            self.run(self.core.submit(submits, self.now_ms))
            for _ in range(200):
                if (due_ms := self.core.next_due_ms) is not None:
                    self.now_ms = max(self.now_ms, due_ms)
                    self.run(self.core.tick(self.now_ms))
        except EndedError:
            self.now_ms += STUCK_MS
            return False
        return True

    def run(self, effects: Effects) -> None:
        waiting = [effects]
        while waiting:
            now = waiting.pop(0)
            self.now_ms += 1
            self.told.update((waiter.number, outcome) for waiter, outcome in now.outcomes)
            assert not now.lookups
            if now.records:
                waiting.append(self.append(now))
            waiting += [
                self.core.receive([self.services[name].handle(command) for command in commands], self.now_ms)
                for name, commands in now.commands.items()]

    def append(self, effects: Effects) -> Effects:
        records = [EpochRecord(self.core.epochs[int(record.transaction[12:14], 16)], record) for record in effects.records]
        request = AppendRequest(1, 0, f"life-{self.lives}", next(self.sequence), records)
        (reply,) = self.log.append([request], self.now_ms)
        return self.core.appended(list(zip(effects.records, reply.results, strict=True)), self.now_ms)


def submit(number: int, key: str, loops_in: str = "") -> tuple[Waiter, SubmitRequest]:
    return Waiter("client", number), SubmitRequest(
        number, key, "order", SAGA.encode_input(Input(loops_in=loops_in)), DEADLINE_MS)


@pytest.fixture
def deployment(tmp_path: Path):
    made = Deployment(tmp_path / "log.sqlite")
    yield made
    made.log.close()


@pytest.mark.parametrize(("loops_in", "status", "code"), [
    ("stock", "ABORTED", "E_QUARANTINED"),
    ("pay", "ABORTED", "E_QUARANTINED"),
    ("tell", "COMMITTED", ""),  # it is decided: what is left of it is parked
])
def test_the_transaction_that_it_is_is_found_and_the_others_commit(
    deployment: Deployment, loops_in: str, status: str, code: str, occurred,
) -> None:
    submits = [submit(0, "stuck", loops_in), *(submit(n, key) for n, key in enumerate(INNOCENT, 1))]
    assert not deployment.live(submits)
    while not deployment.live([]):
        assert deployment.lives < 20
    assert QUARANTINE_AFTER < deployment.lives <= QUARANTINE_AFTER + 3
    assert deployment.live(submits), "asked again under the same keys"
    assert {deployment.told[n].status.name for n in range(1, 6)} == {"COMMITTED"}
    assert (deployment.told[0].status.name, deployment.told[0].code) == (status, code)
    assert deployment.log.open_count == (loops_in == "tell")
    occurred("71", "75")
