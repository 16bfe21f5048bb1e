"""Definition of a service, what a handler sees of its state, and a batch of messages through a real store."""

from typing import Any

import pytest
from pydantic import BaseModel

from actors.runner import BatchRunner, Work
from actors.service import NotYet, Refused, Service, State
from actors.state import BatchState, OperationState
from actors.store import Retention, Store, SupersededError
from orchestrator.app import App, Participant
from orchestrator.errors import DefiniteError
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind, Status
from orchestrator.saga import encode_plain

P, C, R, F = Kind.PREPARE, Kind.COMMIT, Kind.ROLLBACK, Kind.PERFORM


class Hold(BaseModel):
    amount: int


class Held(BaseModel):
    left: int


class Vault(Service):
    """Holds an amount at prepare and takes it at commit."""

    name = "vault"

    def prepare_hold(self, state: State, request: Hold) -> Held | Refused | NotYet:
        state["tried"] = state.get("tried", 0) + 1
        if request.amount == 13:
            raise RuntimeError("the card number is 4111111111111111")
        if request.amount == 0:
            return NotYet("later")
        free = state.get("balance", 100) - state.get("held", 0)
        if request.amount > free:
            return Refused("SHORT", f"{request.amount - free} short")
        state["held"] = state.get("held", 0) + request.amount
        return Held(left=free - request.amount)

    def commit_hold(self, state: State, request: Hold, result: Held) -> None:
        assert result.left >= 0
        state["held"] -= request.amount
        state["balance"] = state.get("balance", 100) - request.amount

    def rollback_hold(self, state: State, request: Hold, result: Held) -> None:
        assert result.left >= 0
        state["held"] -= request.amount

    def perform_tell(self, state: State, request: Hold) -> Held | Refused | NotYet:
        if request.amount < 0:
            return Refused("NOBODY", "nobody to tell")
        state["told"] = state.get("told", 0) + 1
        return Held(left=request.amount)

    async def ask_slow(self, request: Hold) -> int:
        return request.amount * 2

    def prepare_slow(self, state: State, request: Hold, answer: int) -> Held:
        assert answer == request.amount * 2
        state["answer"] = answer
        return Held(left=answer)

    def commit_slow(self, state: State, request: Hold, result: Held) -> None: ...

    def rollback_slow(self, state: State, request: Hold, result: Held) -> None: ...


class Rig:
    def __init__(self, path):
        self.path = path
        service = Vault()
        service.create(path)
        self.service = service
        self.open()

    def open(self):
        self.store = Store(self.path, "vault", "run")
        self.runner = BatchRunner("vault", self.service.bound, self.store)

    def run(self, *works, retention=Retention(), now_ms=50):  # noqa: B008
        given = [work if isinstance(work, Work) else Work(work, "peer") for work in works]
        return [outcome.reply for outcome in self.runner.run(given, retention, now_ms)]

    def state(self):
        return OperationState(BatchState(self.store.value, self.store.keys))

    def rows(self):
        reader = self.service.reader(self.path)
        try:
            return {(row.transaction, row.step): row for row in reader.rows()}
        finally:
            reader.close()


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path / "vault.sqlite")
    yield made
    made.store.close()


def txn(number, *, partition=3):
    return make_id(1_000 + number, partition, 1, number)


def message(kind, number=1, amount=10, *, operation="hold", epoch=1, attempt=1, step="pay"):
    request = encode_plain({"amount": amount}) if kind in (P, F) else b""
    return Command(txn(number), step, kind, attempt, epoch, operation, request)


# definition


def test_operations_are_found_by_their_methods():
    vault = Vault()
    assert isinstance(vault, Participant)
    assert vault.operations() == {"hold": True, "slow": True, "tell": False}
    assert repr(vault) == "Vault(hold, slow, tell)"
    assert App([vault], []).by_service["vault"] is vault


def _prepare(self: Any, state: State, request: Hold) -> Held: ...


def _finish(self: Any, state: State, request: Hold, result: Held) -> None: ...


def _no_model(self: Any, state: State, request: dict) -> Held: ...


def _no_result(self: Any, state: State, request: Hold) -> Refused | NotYet: ...


def _two_results(self: Any, state: State, request: Hold) -> Held | Hold: ...


def _other_models(self: Any, state: State, request: Held, result: Held) -> None: ...


def _too_few(self: Any, state: State) -> Held: ...


def _plain_ask(self: Any, request: Hold) -> int: ...


async def _other_ask(self: Any, request: Held) -> int: ...


def _unresolved(self: Any, state: State, request: "Nowhere") -> Held: ...  # noqa: F821


GOOD = {"prepare_x": _prepare, "commit_x": _finish, "rollback_x": _finish}


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ({"prepare_x": _prepare, "commit_x": _finish}, "rollback_x is missing"),
        ({"prepare_x": _prepare, "rollback_x": _finish}, "commit_x is missing"),
        ({"commit_x": _finish}, "commit_x has neither prepare_x nor perform_x"),
        ({"ask_x": _other_ask}, "ask_x has neither"),
        ({"perform_x": _prepare, "rollback_x": _finish}, "rollback_x stands beside perform_x"),
        ({**GOOD, "perform_x": _prepare}, "an operation either votes or performs"),
        ({**GOOD, "prepare_x": _no_model}, "prepare_x must annotate its request"),
        ({**GOOD, "prepare_x": _no_result}, "prepare_x must annotate one result"),
        ({**GOOD, "prepare_x": _two_results}, "prepare_x must annotate one result"),
        ({**GOOD, "commit_x": _other_models}, "commit_x must take (state, request: Hold, result: Held)"),
        ({**GOOD, "prepare_x": _too_few}, "prepare_x takes 1 arguments after self, must take 2"),
        ({**GOOD, "ask_x": _plain_ask}, "prepare_x takes 2 arguments after self, must take 3"),
        ({**GOOD, "prepare_x": Vault.prepare_slow, "ask_x": _plain_ask}, "ask_x must be `async def`"),
        ({**GOOD, "prepare_x": Vault.prepare_slow, "ask_x": _other_ask}, "ask_x must take the request Hold"),
        ({**GOOD, "prepare_x": _unresolved}, "prepare_x has an annotation that cannot be resolved"),
        ({**GOOD, "prepare_x": staticmethod(_prepare)}, "prepare_x must be a plain method"),
        ({**GOOD, "name": ""}, "name must be lower-case"),
        ({**GOOD, "name": "Bad Name"}, "name must be lower-case"),
    ],
)
def test_a_wrong_definition_names_class_and_method(methods, told):
    with pytest.raises(DefiniteError) as caught:
        type("Wrong", (Service,), {"name": "wrong", **methods})()
    assert caught.value.code == "E_SERVICE_DEFINITION"
    assert "Wrong" in caught.value.message
    assert told in caught.value.message


# state


def test_a_value_read_is_a_copy():
    batch = BatchState(lambda _: None, lambda: ())
    state = OperationState(batch)
    given = [1]
    state["a"] = given
    given.append(2)
    state["a"].append(3)
    assert state["a"] == [1]


def test_writes_count_only_when_merged():
    batch = BatchState({"kept": b"\x01", "gone": b"\x02"}.get, lambda: ("kept", "gone"))
    dropped = OperationState(batch)
    dropped["new"] = 5
    del dropped["kept"]
    assert "kept" not in dropped
    merged = OperationState(batch)
    assert merged["kept"] == 1
    assert "new" not in merged
    del merged["gone"]
    merged["new"] = None
    merged.merge()
    after = OperationState(batch)
    assert dict(after) == {"kept": 1, "new": None}
    assert len(after) == 2
    assert batch.writes == {"gone": None, "new": b"\xc0"}


def test_absent_keys_and_wrong_keys():
    state = OperationState(BatchState(lambda _: None, lambda: ()))
    assert state.get("no") is None
    assert state.get("no", 7) == 7
    with pytest.raises(KeyError):
        state["no"]
    with pytest.raises(KeyError):
        del state["no"]
    with pytest.raises(TypeError, match="must be text"):
        state[1] = 1  # type: ignore[index]


# batches


def test_prepare_commit(rig):
    (vote,) = rig.run(message(P))
    assert (vote.status, vote.result) == (Status.YES, encode_plain({"left": 90}))
    (ack,) = rig.run(message(C), now_ms=60)
    assert (ack.status, ack.result) == (Status.ACK, vote.result)
    assert dict(rig.state()) == {"balance": 90, "held": 0, "tried": 1}
    row = rig.rows()[txn(1), "pay"]
    assert (row.state, row.request, row.result) == ("COMMITTED", {"amount": 10}, {"left": 90})
    assert (row.prepared_ms, row.finished_ms) == (50, 60)


def test_prepare_rollback_and_a_late_prepare(rig):
    rig.run(message(P))
    assert rig.run(message(R))[0].status is Status.ACK
    assert rig.state()["held"] == 0
    late = rig.run(message(P, attempt=2))[0]
    assert (late.status, late.code) == (Status.NO, "E_LATE_PREPARE")


def test_an_empty_rollback_leaves_a_tombstone(rig):
    assert rig.run(message(R))[0].status is Status.ACK
    assert rig.run(message(P))[0].code == "E_LATE_PREPARE"
    assert dict(rig.state()) == {}


def test_repeats_have_one_effect(rig):
    votes = rig.run(message(P), message(P, attempt=2), message(P, attempt=3))
    assert [v.status for v in votes] == [Status.YES] * 3
    rig.run(message(C), message(C))
    rig.run(message(C))
    assert dict(rig.state()) == {"balance": 90, "held": 0, "tried": 1}


def test_one_batch_sees_its_own_rows_in_order(rig):
    replies = {(r.kind, r.attempt): r for r in rig.run(message(P), message(R), message(P, attempt=2))}
    assert replies[P, 1].status is Status.YES
    assert replies[R, 1].status is Status.ACK
    assert replies[P, 2].code == "E_LATE_PREPARE"
    assert rig.state()["held"] == 0


def test_a_refusal_is_stored_and_writes_nothing_else(rig):
    no = rig.run(message(P, amount=500))[0]
    assert (no.status, no.code, no.message) == (Status.NO, "SHORT", "400 short")
    assert dict(rig.state()) == {}
    assert rig.run(message(P, amount=500, attempt=2))[0].code == "SHORT"
    assert rig.run(message(R))[0].status is Status.ACK


def test_not_yet_writes_no_row(rig):
    reply = rig.run(message(P, amount=0))[0]
    assert (reply.status, reply.message) == (Status.NOT_YET, "later")
    assert rig.rows() == {}
    assert dict(rig.state()) == {}


def test_an_invalid_request_is_a_recorded_no_that_names_the_field(rig):
    bad = Command(txn(1), "pay", P, 1, 1, "hold", encode_plain({"amount": "lots"}))
    junk = Command(txn(2), "pay", P, 1, 1, "hold", b"\xc1")
    replies = rig.run(bad, junk)
    assert [r.code for r in replies] == ["E_INVALID_INPUT", "E_INVALID_INPUT"]
    assert "amount" in replies[0].message
    assert {row.state for row in rig.rows().values()} == {"REFUSED"}


def test_an_unknown_operation_is_a_no_and_a_perform_is_asked_again(rig):
    no, again = rig.run(message(P, operation="gone"), message(F, 2, operation="hold"))
    assert (no.status, no.code) == (Status.NO, "E_SERVICE_DEFINITION")
    assert again.status is Status.ERROR


def test_a_poisonous_item_is_alone(rig, occurred):
    replies = {r.transaction: r for r in rig.run(message(P, 1), message(P, 2, 13), message(P, 3))}
    assert [replies[txn(n)].status for n in (1, 2, 3)] == [Status.YES, Status.ERROR, Status.YES]
    poison = replies[txn(2)]
    assert poison.code == "E_SERVICE_ERROR"
    assert "4111" not in poison.message
    assert rig.state()["held"] == 20
    assert rig.state()["tried"] == 2
    assert (txn(2), "pay") not in rig.rows()
    occurred("23")


def test_commit_and_rollback_cross_is_a_violation_without_effect(rig, occurred):
    rig.run(message(P, 1), message(P, 2))
    rig.run(message(C, 1), message(R, 2))
    before = dict(rig.state())
    assert [r.status for r in rig.run(message(R, 1), message(C, 2), message(C, 3))] == [Status.VIOLATION] * 3
    assert dict(rig.state()) == before
    occurred("34", "35")


def test_perform_once(rig):
    tell = message(F, operation="tell")
    assert [r.status for r in rig.run(tell, tell)] == [Status.ACK] * 2
    assert rig.state()["told"] == 1
    refused = rig.run(message(F, 2, -1, operation="tell"))[0]
    assert (refused.status, refused.code) == (Status.NO, "NOBODY")
    assert (txn(2), "pay") not in rig.rows()


def test_the_asynchronous_part_is_asked_first_and_only_if_needed(rig):
    command = message(P, operation="slow")
    assert rig.run(command) == [None]
    vote = rig.run(Work(command, "peer", 20))[0]
    assert vote.result == encode_plain({"left": 20})
    assert rig.run(command)[0].status is Status.YES


def test_a_rollback_that_came_meanwhile_is_found(rig):
    command = message(P, operation="slow")
    assert rig.run(command) == [None]
    rig.run(message(R, operation="slow"))
    assert rig.run(Work(command, "peer", 20))[0].code == "E_LATE_PREPARE"


def test_fenced_whatever_the_order_in_the_batch(rig):
    replies = {r.transaction: r for r in rig.run(message(P, 1, epoch=4), message(P, 2, epoch=5))}
    assert replies[txn(1)].status is Status.FENCED
    assert replies[txn(2)].status is Status.YES
    assert rig.run(message(R, 2, epoch=4))[0].status is Status.FENCED


def test_the_epoch_is_durable_even_if_the_operation_fails(rig):
    assert rig.run(message(P, 1, 13, epoch=9))[0].status is Status.ERROR
    rig.store.close()
    rig.open()
    assert rig.run(message(P, 2, epoch=8))[0].status is Status.FENCED


def test_a_malformed_id_harms_nobody(rig):
    bad = Command("", "pay", P, 1, 1, "hold", b"")
    replies = {r.transaction: r for r in rig.run(bad, message(P))}
    assert replies[""].status is Status.VIOLATION
    assert replies[txn(1)].status is Status.YES


def test_reopened_it_is_the_same(rig, occurred):
    rig.run(message(P, 1), message(P, 2), message(P, 3, 500))
    rig.run(message(C, 1))
    before, rows = dict(rig.state()), rig.rows()
    rig.store.close()
    rig.open()
    assert dict(rig.state()) == before
    assert rig.rows() == rows
    assert rig.store.prepared_keys() == [(txn(2), "pay")]
    assert rig.run(message(C, 2))[0].status is Status.ACK
    assert rig.state()["balance"] == 80
    occurred("24")


def test_a_result_of_the_wrong_type_is_an_error(tmp_path):
    class Sloppy(Vault):
        name = "vault"

        def prepare_hold(self, state: State, request: Hold) -> Held | Refused | NotYet:
            state["held"] = request.amount
            return {"left": 1}  # type: ignore[return-value]

    service = Sloppy()
    service.create(tmp_path / "s.sqlite")
    store = Store(tmp_path / "s.sqlite", "vault", "run")
    reply = BatchRunner("vault", service.bound, store).run([Work(message(P), "p")], Retention(), 1)[0].reply
    assert (reply.status, reply.code) == (Status.ERROR, "E_SERVICE_ERROR")
    assert store.value("held") is None
    store.close()


def test_a_superseded_store_does_nothing(rig):
    rig.store.database.connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
    with pytest.raises(SupersededError):
        rig.run(message(P))
    assert rig.rows() == {}


def test_an_operation_that_was_removed_keeps_what_it_holds(rig, occurred):
    rig.run(message(P))
    remaining = {name: operation for name, operation in rig.service.bound.items() if name != "hold"}
    rig.runner = BatchRunner("vault", remaining, rig.store)
    for kind in (C, R):
        reply = rig.run(message(kind))[0]
        assert (reply.status, reply.code) == (Status.ERROR, "E_SERVICE_ERROR")
        assert "no longer has the operation 'hold': deploy one that has" in reply.message
    assert [row.state for row in rig.rows().values()] == ["PREPARED"]
    rig.runner = BatchRunner("vault", rig.service.bound, rig.store)
    assert rig.run(message(C))[0].status is Status.ACK
    occurred("88")
