"""An operator's acts where they meet something else: ids that are none, a drain, a message on its way, a recovery."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.messages import ActKind, ActRequest, Command, Kind, OutcomeStatus, Reply, Status, SubmitRequest
from orchestrator.protocol.records import (
    AppendResult,
    AppendStatus,
    Begun,
    Decided,
    Decision,
    Ended,
    Parked,
    Record,
    Resolved,
    State,
    StoredTransaction,
)
from orchestrator.protocol.retry import RetryPolicy
from orchestrator.saga import Saga, Step, encode_plain

ONCE = RetryPolicy(attempts_max=1, backoff_ms=10, backoff_ms_max=20)


class Order(BaseModel):
    """No input."""


SAGA = Saga(name="order", input=Order, steps=[
    Step(name="hold", service="stock", request=lambda _: {}, compensation="release", finish_retry=ONCE),
    Step(name="tell", service="mail", after=("hold",), after_commit=True, request=lambda _: {}, finish_retry=ONCE)])


class Shard:
    """A core whose records are durable at once; what it sends waits in `sent`."""

    def __init__(self, *stored: StoredTransaction, epoch: int = 1) -> None:
        self.core = Coordinator({("order", 1): SAGA}, open_max=10)
        self.log: list[Record] = []
        self.sent: dict[str, Command] = {}
        self.told: list = []
        self.withdrawn: list = []
        self.now_ms = 1_000
        self.apply(self.core.adopt(dict.fromkeys(range(256), epoch), stored, self.now_ms))

    def apply(self, effects: Effects) -> None:
        self.told += [outcome for _, outcome in effects.outcomes]
        self.withdrawn += effects.withdrawn
        for commands in effects.commands.values():
            self.sent.update({command.step: command for command in commands})
        if effects.records:
            self.log += effects.records
            self.apply(self.core.appended([(record, AppendResult(
                AppendStatus.STORED, record if isinstance(record, Decided) else None)) for record in effects.records],
                self.now_ms))

    def submit(self) -> str:
        request = SubmitRequest(1, "k", "order", encode_plain({}), 0)
        self.apply(self.core.submit([(Waiter("c", 1), request)], self.now_ms))
        return self.log[0].transaction

    def answer(self, step: str, status: Status, code: str = "") -> None:
        command = self.sent.pop(step)
        self.now_ms += 1
        self.apply(self.core.receive([Reply(
            command.transaction, step, command.kind, command.attempt, status, code, "", encode_plain({}))], self.now_ms))

    def resolve(self, transaction: str, step: str) -> None:
        self.apply(self.core.act(Waiter("op", 7), ActRequest(
            7, ActKind.RESOLVE, transaction, "ada", "seen with my own eyes", 5, step), self.now_ms))


def parked_perform() -> tuple[Shard, str]:
    """A committed order whose mail cannot be sent: parked, and repeated slowly."""
    shard = Shard()
    transaction = shard.submit()
    shard.answer("hold", Status.YES)
    shard.answer("hold", Status.ACK)
    shard.answer("tell", Status.ERROR, "E_SERVICE_ERROR")
    assert isinstance(shard.log[-1], Parked)
    shard.now_ms += 10_000
    shard.apply(shard.core.tick(shard.now_ms))
    assert shard.sent["tell"].attempt == 2
    return shard, transaction


def parked_commit() -> tuple[Shard, str]:
    """A committed order whose hold the service refuses to commit."""
    shard = Shard()
    transaction = shard.submit()
    shard.answer("hold", Status.YES)
    shard.answer("hold", Status.ERROR, "E_SERVICE_ERROR")
    assert isinstance(shard.log[-1], Parked)
    return shard, transaction


@pytest.mark.parametrize("transaction", ["", "nonsense", "z" * 32, "0" * 31, "0" * 14])
@pytest.mark.parametrize("kind", list(ActKind))
def test_an_act_on_what_is_no_id_is_refused(transaction: str, kind: ActKind) -> None:
    core = Coordinator({("order", 1): SAGA}, open_max=10)
    core.adopt(dict.fromkeys(range(256), 1), [], 1_000)
    effects = core.act(Waiter("op", 1), ActRequest(1, kind, transaction, "ada", "", 1), 1_000)
    (_, outcome), = effects.outcomes
    assert (outcome.status, outcome.code) == (OutcomeStatus.REJECTED, "E_INVALID_INPUT")
    assert not effects.records


def test_what_has_ended_and_waits_for_a_ledger_only_is_not_open() -> None:
    """A drain compares what the shards hold open with what the log has open: they must mean the same."""
    shard, transaction = parked_commit()
    shard.resolve(transaction, "hold")
    shard.answer("tell", Status.ACK) if "tell" in shard.sent else None
    if not isinstance(shard.log[-1], Ended):  # the mail reads what only the commit's ack can tell: resolved, too
        shard.resolve(transaction, "tell")
    assert any(isinstance(record, Ended) for record in shard.log)
    assert shard.core.open_count == 0


def test_a_perform_that_is_resolved_is_not_sent_any_more() -> None:
    """Its last message may lie at the shell still, to be sent again with the next connection: it is taken back."""
    shard, transaction = parked_perform()
    shard.resolve(transaction, "tell")
    assert [type(record) for record in shard.log][-2:] == [Resolved, Ended]
    assert shard.withdrawn == [("mail", transaction, "tell")]


def test_a_commit_that_is_resolved_is_sent_until_its_ledger_agrees() -> None:
    shard, transaction = parked_commit()
    shard.resolve(transaction, "hold")
    assert shard.withdrawn == []
    shard.now_ms += 10_000
    shard.apply(shard.core.tick(shard.now_ms))
    assert shard.sent["hold"].kind is Kind.COMMIT


def test_a_successor_goes_on_with_what_is_unsettled_and_does_not_count_it_as_open() -> None:
    shard, transaction = parked_commit()
    begun, decided = shard.log[:2]
    assert isinstance(begun, Begun)
    assert isinstance(decided, Decided)
    resolved = Resolved(transaction, "hold", Decision.COMMIT, "ada", "", 5)
    later = Shard(StoredTransaction(begun, State.COMMITTED, decided, 9, [], 0, [resolved]), epoch=2)
    assert later.core.open_count == 0
    assert later.sent["hold"].kind is Kind.COMMIT
    later.answer("hold", Status.ACK)
    assert [type(record) for record in later.log] == [Parked]  # its ledger agrees
    assert not later.core._table.by_id
