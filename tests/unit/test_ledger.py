"""Every cell of the ledger's table, the answers that follow from a row, fencing and the order within a batch."""

from typing import NamedTuple

import pytest

from actors.ledger import (
    EXPIRED_TABLE,
    TABLE,
    Action,
    Fence,
    Row,
    RowState,
    decide,
    finish_first,
    finished,
    prepared,
    refused,
    reply_for,
    tombstone,
)
from orchestrator.protocol.identifiers import fingerprint_of, make_id
from orchestrator.protocol.messages import Command, Kind, Status

BEGAN_MS = 1_000_000
TXN = make_id(BEGAN_MS, 7, 1, 1)
P, C, R, F = Kind.PREPARE, Kind.COMMIT, Kind.ROLLBACK, Kind.PERFORM
V = Action.VIOLATION

CELLS = {
    None: (Action.RUN_PREPARE, V, Action.TOMBSTONE, Action.RUN_PERFORM),
    RowState.PREPARED: (Action.STORED_VOTE, Action.RUN_COMMIT, Action.RUN_ROLLBACK, V),
    RowState.REFUSED: (Action.STORED_VOTE, V, Action.ACK, V),
    RowState.COMMITTED: (Action.STORED_VOTE, Action.ACK, V, V),
    RowState.ROLLED_BACK: (Action.LATE_PREPARE, V, Action.ACK, V),
    RowState.DONE: (V, V, V, Action.ACK),
}


class Carried(NamedTuple):
    command: Command
    name: str


def command(kind, *, request=b"r", attempt=1, transaction=TXN, step="reserve"):
    return Command(transaction, step, kind, attempt, 1, "hold", request)


def row_in(state, *, request=b"r"):
    return Row(TXN, "reserve", "hold", state, fingerprint_of("hold", request), request, b"vote", "", "", 1, 5, 6)


@pytest.mark.parametrize("state", list(CELLS))
@pytest.mark.parametrize("kind", [P, C, R, F])
def test_every_cell(state, kind):
    row = None if state is None else row_in(state)
    assert decide(row, command(kind), watermark_ms=0, exempt=()) is CELLS[state][kind]


def test_the_table_is_complete():
    assert set(TABLE) == {(state, kind) for state in (None, *RowState) for kind in Kind}
    assert set(EXPIRED_TABLE) == set(Kind)


@pytest.mark.parametrize(("kind", "action"), [(P, Action.EXPIRED), (C, Action.ACK), (R, Action.ACK), (F, Action.ACK)])
def test_absent_and_older_than_the_watermark(kind, action):
    assert decide(None, command(kind), watermark_ms=BEGAN_MS + 1, exempt=()) is action
    assert decide(None, command(kind), watermark_ms=BEGAN_MS, exempt=()) is CELLS[None][kind]


@pytest.mark.parametrize("kind", [P, C, R, F])
def test_an_exempt_transaction_never_expires(kind):
    assert decide(None, command(kind), watermark_ms=BEGAN_MS + 1, exempt={TXN}) is CELLS[None][kind]


@pytest.mark.parametrize("kind", [P, C, R, F])
def test_a_row_that_exists_never_expires(kind):
    row = row_in(RowState.PREPARED)
    assert decide(row, command(kind), watermark_ms=BEGAN_MS + 1, exempt=()) is CELLS[RowState.PREPARED][kind]


@pytest.mark.parametrize("state", [RowState.PREPARED, RowState.REFUSED, RowState.COMMITTED])
def test_a_repeat_with_another_request_is_a_no(state):
    action = decide(row_in(state), command(P, request=b"other"), watermark_ms=0, exempt=())
    reply = reply_for(action, row_in(state), command(P, request=b"other"))
    assert (action, reply.status, reply.code) == (Action.OTHER_REQUEST, Status.NO, "E_FINGERPRINT")


def test_the_operation_is_part_of_the_fingerprint():
    other = Command(TXN, "reserve", P, 1, 1, "take", b"r")
    assert decide(row_in(RowState.PREPARED), other, watermark_ms=0, exempt=()) is Action.OTHER_REQUEST


@pytest.mark.parametrize(
    ("action", "kind", "state", "status", "code", "result"),
    [
        (Action.STORED_VOTE, P, RowState.PREPARED, Status.YES, "", b"vote"),
        (Action.STORED_VOTE, P, RowState.COMMITTED, Status.YES, "", b"vote"),
        (Action.ACK, C, RowState.COMMITTED, Status.ACK, "", b"vote"),
        (Action.ACK, F, RowState.DONE, Status.ACK, "", b"vote"),
        (Action.ACK, R, RowState.ROLLED_BACK, Status.ACK, "", b""),
        (Action.ACK, C, None, Status.ACK, "", b""),
        (Action.LATE_PREPARE, P, RowState.ROLLED_BACK, Status.NO, "E_LATE_PREPARE", b""),
        (Action.EXPIRED, P, None, Status.NO, "E_EXPIRED", b""),
        (Action.VIOLATION, C, None, Status.VIOLATION, "E_VIOLATION", b""),
    ],
)
def test_answers_that_follow_from_the_row(action, kind, state, status, code, result):  # noqa: PLR0917 - a table
    row = None if state is None else row_in(state)
    reply = reply_for(action, row, command(kind, attempt=4))
    assert (reply.status, reply.code, reply.result) == (status, code, result)
    assert (reply.transaction, reply.step, reply.kind, reply.attempt) == (TXN, "reserve", kind, 4)


def test_a_stored_no_keeps_its_code_and_message():
    row = refused(command(P), "OUT_OF_STOCK", "2 short", 10)
    reply = reply_for(Action.STORED_VOTE, row, command(P, attempt=2))
    assert (reply.status, reply.code, reply.message) == (Status.NO, "OUT_OF_STOCK", "2 short")


def test_rows_along_their_way():
    first = prepared(command(P, attempt=3), b"v", 10)
    assert (first.state, first.prepared_ms, first.finished_ms, first.attempts) == (RowState.PREPARED, 10, 0, 3)
    last = finished(first, command(C, attempt=1), 20)
    assert (last.state, last.prepared_ms, last.finished_ms, last.attempts) == (RowState.COMMITTED, 10, 20, 3)
    assert last.result == b"v"
    assert finished(first, command(R), 20).state is RowState.ROLLED_BACK
    grave = tombstone(command(R), 30)
    assert grave == Row(TXN, "reserve", "hold", RowState.ROLLED_BACK, b"", b"", b"", "", "", 1, 30, 30)


def test_fence_raises_and_refuses():
    fence = Fence({7: 3})
    fence.see(7, 2)
    assert not fence.admits(7, 2)
    assert fence.take_raised() == {}
    fence.see(7, 4)
    assert fence.admits(7, 4)
    assert not fence.admits(7, 3)
    assert fence.admits(8, 1)
    assert fence.take_raised() == {7: 4}
    assert fence.take_raised() == {}


def test_finishing_goes_first_but_a_step_keeps_its_order(occurred):
    other = make_id(BEGAN_MS, 7, 1, 2)
    arrived = [command(P), command(R), command(C, transaction=other), command(F, transaction=other, step="send")]
    ordered = finish_first(map(Carried, arrived, "abcd"))
    assert [item.name for item in ordered] == ["c", "a", "b", "d"]
    occurred("74")
