"""A batch in which something goes wrong: whose fault it is decides whether one message fails, or all of them do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from pydantic import BaseModel

from actors.ledger import RowState
from actors.runner import BatchRunner, Work
from actors.service import NotYet, Refused, Service, State
from actors.store import Retention, Store, create_store
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind, Reply, Status
from orchestrator.saga import encode_plain

P, C, R, F = Kind.PREPARE, Kind.COMMIT, Kind.ROLLBACK, Kind.PERFORM
NOW_MS = 1_000


class Order(BaseModel):
    what: str


class Done(BaseModel):
    what: str


RAISED = {
    "disk": sqlite3.OperationalError("disk I/O error"),
    "damage": DefiniteError(ErrorCode.STORE_REFUSED, "a value is damaged"),
    "remote": IndefiniteError(ErrorCode.UNREACHABLE, "the carrier is away"),
    "bug": RuntimeError("boom"),
}


class Desk(Service):
    """Does as it is told, and counts what it did."""

    name = "desk"

    def prepare_hold(self, state: State, request: Order) -> Done | Refused | NotYet:
        return self._do(state, request)

    def commit_hold(self, state: State, request: Order, result: Done) -> None:
        state["committed"] = [*state.get("committed", []), request.what + result.what]

    def rollback_hold(self, state: State, request: Order, result: Done) -> None:
        state["rolled back"] = request.what + result.what

    def perform_send(self, state: State, request: Order) -> Done | Refused | NotYet:
        return self._do(state, request)

    async def ask_call(self, request: Order) -> str:
        return request.what

    def perform_call(self, state: State, request: Order, answer: str) -> Done | Refused | NotYet:
        return self._do(state, Order(what=request.what + answer))

    async def ask_book(self, request: Order) -> str:
        return request.what

    def prepare_book(self, state: State, request: Order, answer: str) -> Done | Refused | NotYet:
        return self._do(state, Order(what=request.what + answer))

    def commit_book(self, state: State, request: Order, result: Done) -> None: ...

    def rollback_book(self, state: State, request: Order, result: Done) -> None: ...

    def _do(self, state: State, request: Order) -> Done | Refused | NotYet:
        state["done"] = [*state.get("done", []), request.what]
        if request.what in RAISED:
            raise RAISED[request.what]
        if request.what == "no":
            return Refused("NO", "not today")
        return NotYet("later") if request.what == "later" else Done(what=request.what)


class Rig:
    def __init__(self, path: Path) -> None:
        create_store(path, "desk")
        self.store = Store(path, "desk", "run")
        self.runner = BatchRunner("desk", Desk().bound, self.store)

    def run(self, *works: Work, **more: bool) -> list[Reply | None]:
        return [outcome.reply for outcome in self.runner.run(works, Retention(), NOW_MS, **more)]

    def one(self, kind: Kind, what: str = "pen", **more: object) -> Reply | None:
        (reply,) = self.run(work(kind, what, **more))
        return reply

    @property
    def done(self) -> list[str] | None:
        value = self.store.value("done")
        return None if value is None else msgspec.msgpack.decode(value)

    def row(self, number: int = 1):
        key = (txn(number), "s")
        return self.store.load([key]).get(key)


def txn(number: int) -> str:
    return make_id(NOW_MS, 7, 1, number)


def work(kind: Kind, what: str = "pen", *, number: int = 1, operation: str = "", epoch: int = 1, **more: object) -> Work:
    operation = operation or ("send" if kind is F else "hold")
    request = encode_plain({"what": what}) if kind in (P, F) else b""
    return Work(Command(txn(number), "s", kind, 1, epoch, operation, request), "peer", **more)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "desk.sqlite")
    yield made
    made.store.close()


@pytest.mark.parametrize("what", ["disk", "damage"])
def test_a_failure_of_the_store_fails_the_batch_and_leaves_nothing(rig: Rig, what: str) -> None:
    with pytest.raises(type(RAISED[what])):
        rig.run(work(P, number=2), work(P, what))
    assert (rig.done, rig.row(1), rig.row(2)) == (None, None, None)
    assert not rig.store.database.connection.in_transaction
    assert rig.one(P, number=2).status is Status.YES


@pytest.mark.parametrize(("what", "code", "told"), [
    ("remote", "E_UNREACHABLE", "the carrier is away"), ("bug", "E_SERVICE_ERROR", "RuntimeError: boom")])
def test_a_handler_that_raises_fails_alone_and_writes_nothing(rig: Rig, what: str, code: str, told: str) -> None:
    bad, good = rig.run(work(P, what), work(P, number=2))
    assert (bad.status, bad.code, bad.message) == (Status.ERROR, code, told)
    assert (good.status, rig.done, rig.row(1)) == (Status.YES, ["pen"], None)


def test_a_perform_that_cannot_be_read_is_refused_without_a_row(rig: Rig) -> None:
    command = Command(txn(1), "s", F, 1, 1, "send", encode_plain({"what": 7}))
    (reply,) = rig.run(Work(command, "peer"))
    assert (reply.status, reply.code, rig.row(), rig.done) == (Status.NO, "E_INVALID_INPUT", None, None)
    assert "what" in reply.message


def test_a_performs_answers_other_than_done_leave_no_row(rig: Rig) -> None:
    refused, later = rig.one(F, "no"), rig.one(F, "later")
    assert (refused.status, refused.code, refused.message) == (Status.NO, "NO", "not today")
    assert (later.status, later.message) == (Status.NOT_YET, "later")
    assert (rig.row(), rig.done) == (None, None)
    done = rig.one(F, "pen")
    assert (done.status, done.result, rig.row().state, rig.done) == (
        Status.ACK, encode_plain({"what": "pen"}), RowState.DONE, ["pen"])
    assert rig.one(F, "pen").result == done.result
    assert rig.done == ["pen"]


def test_a_prepares_answers(rig: Rig) -> None:
    later, refused = rig.one(P, "later"), rig.one(P, "no")
    assert (later.status, later.message) == (Status.NOT_YET, "later")
    assert (refused.status, refused.code, refused.message, rig.row().state) == (
        Status.NO, "NO", "not today", RowState.REFUSED)
    assert (rig.row().prepared_ms, rig.row().finished_ms, rig.done) == (NOW_MS, NOW_MS, None)
    again = rig.one(P, "no")
    assert (again.status, again.code) == (Status.NO, "NO")


@pytest.mark.parametrize(("kind", "operation", "status"), [(P, "book", Status.YES), (F, "call", Status.ACK)])
def test_the_asynchronous_part_is_asked_first(rig: Rig, kind: Kind, operation: str, status: Status) -> None:
    assert rig.one(kind, operation=operation) is None
    assert (rig.row(), rig.done) == (None, None)
    reply = rig.one(kind, operation=operation, answer="!")
    assert (reply.status, rig.done) == (status, ["pen!"])
    assert rig.one(kind, operation=operation).status is status  # the row answers: nobody is asked again


def test_an_operation_that_is_gone_is_a_no_before_and_an_error_after(rig: Rig) -> None:
    assert rig.one(P).status is Status.YES
    rig.runner = BatchRunner("desk", {}, rig.store)
    refused = rig.one(P, number=2)
    assert (refused.status, refused.code, rig.row(2).state) == (Status.NO, "E_SERVICE_DEFINITION", RowState.REFUSED)
    for kind in (C, R):
        reply = rig.one(kind)
        assert (reply.status, reply.code, rig.row().state) == (Status.ERROR, "E_SERVICE_ERROR", RowState.PREPARED)
        assert "deploy one that has" in reply.message
    assert rig.one(F, number=3).status is Status.ERROR
    rig.runner = BatchRunner("desk", Desk().bound, rig.store)
    assert rig.one(C).status is Status.ACK


@pytest.mark.parametrize(("kind", "operation"), [(P, "send"), (F, "hold")])
def test_an_operation_of_the_other_sort_is_none(rig: Rig, kind: Kind, operation: str) -> None:
    reply = rig.one(kind, operation=operation)
    assert reply.status is (Status.NO if kind is P else Status.ERROR)
    assert f"no operation {operation!r} to {kind.name.lower()}" in reply.message
    assert rig.done is None


def test_commit_and_rollback_get_request_and_vote_from_the_row(rig: Rig) -> None:
    rig.run(work(P, number=1), work(P, "cup", number=2))
    commit, rollback = rig.run(work(C, number=1), work(R, number=2))
    assert (commit.status, commit.result, rollback.status, rollback.result) == (
        Status.ACK, encode_plain({"what": "pen"}), Status.ACK, b"")
    decode = msgspec.msgpack.decode
    assert decode(rig.store.value("committed")) == ["penpen"]
    assert decode(rig.store.value("rolled back")) == "cupcup"
    assert (rig.row(1).state, rig.row(2).state) == (RowState.COMMITTED, RowState.ROLLED_BACK)
    assert (rig.row(1).prepared_ms, rig.row(1).finished_ms) == (NOW_MS, NOW_MS)


def test_one_batch_holds_a_step_from_prepare_to_end(rig: Rig) -> None:
    replies = rig.run(work(P), work(C), work(C), work(P))
    assert [r.status for r in replies] == [Status.YES, Status.ACK, Status.ACK, Status.YES]
    assert rig.row().state is RowState.COMMITTED
    rollback, late = rig.run(work(R, number=2), work(P, number=2))
    assert (rollback.status, late.status, late.code) == (Status.ACK, Status.NO, "E_LATE_PREPARE")


def test_the_highest_epoch_of_a_batch_counts_for_all_of_it(rig: Rig) -> None:
    both = rig.run(work(P, number=1, epoch=1), work(P, number=2, epoch=2))
    replies = {reply.transaction: (reply.status, reply.code) for reply in both}
    assert replies == {txn(1): (Status.FENCED, "E_FENCED"), txn(2): (Status.YES, "")}
    assert rig.store.epochs() == {7: 2}
    assert rig.one(P, number=3, epoch=1).status is Status.FENCED


def test_what_is_no_id_is_a_violation_and_raises_no_epoch(rig: Rig) -> None:
    command = Command("not an id", "s", P, 1, 9, "hold", b"")
    (reply,) = rig.run(Work(command, "peer"))
    assert (reply.status, reply.code, rig.store.epochs()) == (Status.VIOLATION, "E_INVALID_INPUT", {})
    assert "not the id" in reply.message


def test_an_epoch_alone_is_made_durable(rig: Rig) -> None:
    assert rig.one(C, epoch=4).status is Status.VIOLATION
    assert rig.store.epochs() == {7: 4}
    sequence = rig.store.database.sequence
    assert rig.one(C, epoch=4).status is Status.VIOLATION  # nothing to write: no commit, no sync
    assert rig.store.database.sequence == sequence


def test_a_raised_epoch_that_was_not_stored_is_raised_again(rig: Rig) -> None:
    with pytest.raises(sqlite3.OperationalError):
        rig.run(work(P, "disk", epoch=3))
    rig.runner.reread()
    assert rig.store.epochs() == {}
    rig.one(P, epoch=3)
    assert rig.store.epochs() == {7: 3}


def test_how_far_a_batch_is_can_be_asked_while_it_runs(rig: Rig) -> None:
    seen: list[int] = []

    class Watched(Desk):
        def _do(self, state: State, request: Order) -> Done | Refused | NotYet:
            seen.append(rig.runner.handled)
            return super()._do(state, request)

    rig.runner = BatchRunner("desk", Watched().bound, rig.store)
    assert rig.runner.handled == 0
    rig.run(*(work(P, number=number) for number in (1, 2, 3)))
    assert (seen, rig.runner.handled) == ([0, 1, 2], 3)
    rig.run(work(P, number=4))
    assert (seen[3:], rig.runner.handled) == ([0], 1)


def test_without_room_nothing_begins_and_everything_ends(rig: Rig) -> None:
    rig.run(work(P, number=1), work(P, number=2))
    replies = rig.run(work(P, number=3), work(F, number=4), work(C, number=1), work(R, number=2), work(R, number=5),
                      work(P, number=1), admitting=False)
    assert {r.transaction[-1] + r.kind.name: (r.status.name, r.code) for r in replies} == {
        "3PREPARE": ("NO", "E_DISK_FULL"), "4PERFORM": ("ERROR", "E_DISK_FULL"), "1COMMIT": ("ACK", ""),
        "2ROLLBACK": ("ACK", ""), "5ROLLBACK": ("ACK", ""), "1PREPARE": ("YES", "")}
    assert (rig.row(3), rig.row(4), rig.row(5).state) == (None, None, RowState.ROLLED_BACK)


def test_a_result_of_another_type_is_a_mistake_of_the_service(rig: Rig) -> None:
    class Wrong(Desk):
        def _do(self, state: State, request: Order) -> Done | Refused | NotYet:
            return Order(what="x")  # type: ignore[return-value]

    rig.runner = BatchRunner("desk", Wrong().bound, rig.store)
    reply = rig.one(P)
    assert (reply.status, reply.message, rig.row()) == (Status.ERROR, "TypeError: hold returned a Order, not a Done", None)


@pytest.mark.parametrize("request_", [b"\xc1", b"\xa1\xff"])
def test_a_request_that_is_not_msgpack_is_a_durable_no(rig: Rig, request_: bytes) -> None:
    (reply,) = rig.run(Work(Command(txn(1), "s", P, 1, 1, "hold", request_), "peer"))
    assert (reply.status, reply.code, rig.row().state) == (Status.NO, "E_INVALID_INPUT", RowState.REFUSED)
    assert "not msgpack" in reply.message


def test_a_request_that_was_kept_is_not_taken_for_another_rows(rig: Rig) -> None:
    """The row was written anew since: what is decoded is what it says."""
    rig.one(P)
    row = rig.row()
    other = msgspec.structs.replace(row, request=encode_plain({"what": "ink"}))
    operation, key = rig.runner._operations["hold"], (row.transaction, row.step)
    rig.runner._held.put(key, (row, Order(what="pen")))
    assert rig.runner._request_of(operation, key, other).what == "ink"
