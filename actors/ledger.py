"""The participant's ledger, pure: one row per (transaction, step), one table that says what each message does to it.

`TABLE` owns every transition; a row is looked up first, and what the table does not allow changes nothing. The same
table generates the one in docs/protocol.md.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from orchestrator.errors import ErrorCode
from orchestrator.protocol.identifiers import began_ms_of, fingerprint_of
from orchestrator.protocol.messages import Command, Kind, Reply, Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Key = tuple[str, str]  # (transaction, step)


class RowState(IntEnum):
    """Where a step stands at its participant."""

    PREPARED = 0  # held: waits for the decision, however long
    REFUSED = 1
    COMMITTED = 2
    ROLLED_BACK = 3  # also the tombstone of a prepare that never came
    DONE = 4  # performed


class Action(Enum):
    """What a message asks for, given the row it meets."""

    RUN_PREPARE = "hold: PREPARED and yes, or REFUSED and no, or NotYet (no row)"
    RUN_COMMIT = "commit: COMMITTED, ack"
    RUN_ROLLBACK = "compensate: ROLLED_BACK, ack"
    RUN_PERFORM = "effect: DONE, ack"
    TOMBSTONE = "record ROLLED_BACK, ack"
    STORED_VOTE = "the stored vote"
    OTHER_REQUEST = "no, E_FINGERPRINT"
    ACK = "ack"
    LATE_PREPARE = "no, E_LATE_PREPARE"
    EXPIRED = "no, E_EXPIRED; never run"
    VIOLATION = "violation"


TABLE: Final[dict[tuple[RowState | None, Kind], Action]] = {
    (None, Kind.PREPARE): Action.RUN_PREPARE,
    (None, Kind.COMMIT): Action.VIOLATION,
    (None, Kind.ROLLBACK): Action.TOMBSTONE,
    (None, Kind.PERFORM): Action.RUN_PERFORM,
    (RowState.PREPARED, Kind.PREPARE): Action.STORED_VOTE,
    (RowState.PREPARED, Kind.COMMIT): Action.RUN_COMMIT,
    (RowState.PREPARED, Kind.ROLLBACK): Action.RUN_ROLLBACK,
    (RowState.PREPARED, Kind.PERFORM): Action.VIOLATION,
    (RowState.REFUSED, Kind.PREPARE): Action.STORED_VOTE,
    (RowState.REFUSED, Kind.COMMIT): Action.VIOLATION,
    (RowState.REFUSED, Kind.ROLLBACK): Action.ACK,
    (RowState.REFUSED, Kind.PERFORM): Action.VIOLATION,
    (RowState.COMMITTED, Kind.PREPARE): Action.STORED_VOTE,
    (RowState.COMMITTED, Kind.COMMIT): Action.ACK,
    (RowState.COMMITTED, Kind.ROLLBACK): Action.VIOLATION,
    (RowState.COMMITTED, Kind.PERFORM): Action.VIOLATION,
    (RowState.ROLLED_BACK, Kind.PREPARE): Action.LATE_PREPARE,
    (RowState.ROLLED_BACK, Kind.COMMIT): Action.VIOLATION,
    (RowState.ROLLED_BACK, Kind.ROLLBACK): Action.ACK,
    (RowState.ROLLED_BACK, Kind.PERFORM): Action.VIOLATION,
    (RowState.DONE, Kind.PREPARE): Action.VIOLATION,
    (RowState.DONE, Kind.COMMIT): Action.VIOLATION,
    (RowState.DONE, Kind.ROLLBACK): Action.VIOLATION,
    (RowState.DONE, Kind.PERFORM): Action.ACK,
}

# a row that is absent because it may have been purged: the transaction is older than the watermark, and so has ended
EXPIRED_TABLE: Final[dict[Kind, Action]] = {
    Kind.PREPARE: Action.EXPIRED,
    Kind.COMMIT: Action.ACK,
    Kind.ROLLBACK: Action.ACK,
    Kind.PERFORM: Action.ACK,
}


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One step of one transaction at this participant; times in Unix ms."""

    transaction: str
    step: str
    operation: str
    state: RowState
    fingerprint: bytes  # of operation and request
    request: bytes  # msgpack; commit and rollback get it from here
    result: bytes  # msgpack of the stored vote
    code: str  # of a refusal
    message: str
    attempts: int  # the highest attempt that wrote
    prepared_ms: int  # of the first write
    finished_ms: int  # of the last transition, 0 while PREPARED


def decide(row: Row | None, command: Command, *, watermark_ms: int, exempt: Collection[str]) -> Action:
    """What the message does.

    Args:
        row: the row found for (transaction, step).
        command: the message.
        watermark_ms: rows of transactions that began before it may have been purged, Unix ms.
        exempt: transactions older than the watermark of which no row was purged.
    """
    if row is None:
        if began_ms_of(command.transaction) < watermark_ms and command.transaction not in exempt:
            return EXPIRED_TABLE[command.kind]
        return TABLE[None, command.kind]
    action = TABLE[row.state, command.kind]
    if action is Action.STORED_VOTE and row.fingerprint != fingerprint_of(command.operation, command.request):
        return Action.OTHER_REQUEST
    return action


def reply_for(action: Action, row: Row | None, command: Command) -> Reply:
    """The answer where nothing runs: it follows from the row alone."""
    if action is Action.ACK:
        return ack(command, row)
    if action is Action.STORED_VOTE:
        assert row is not None
        return vote(command, row)
    if action is Action.LATE_PREPARE:
        return answer(command, Status.NO, ErrorCode.LATE_PREPARE, "the step was rolled back before this prepare came")
    if action is Action.EXPIRED:
        return answer(command, Status.NO, ErrorCode.EXPIRED, "the transaction is older than the retention period")
    if action is Action.OTHER_REQUEST:
        return answer(command, Status.NO, ErrorCode.FINGERPRINT, "the step was prepared with another request")
    assert action is Action.VIOLATION, action
    found = "no row" if row is None else f"a row {row.state.name}"
    told = f"{command.kind.name} met {found}; nothing was changed"
    return answer(command, Status.VIOLATION, ErrorCode.VIOLATION, told)


def vote(command: Command, row: Row) -> Reply:
    """The vote that the row stores."""
    status = Status.NO if row.state is RowState.REFUSED else Status.YES
    return Reply(
        command.transaction, command.step, command.kind, command.attempt, status, row.code, row.message, row.result)


def ack(command: Command, row: Row | None) -> Reply:
    """Done; the ack of a commit or perform carries the stored result."""
    result = row.result if row is not None and command.kind is not Kind.ROLLBACK else b""
    return Reply(command.transaction, command.step, command.kind, command.attempt, Status.ACK, "", "", result)


def answer(command: Command, status: Status, code: str = "", message: str = "") -> Reply:
    """Any other reply to the command."""
    return Reply(command.transaction, command.step, command.kind, command.attempt, status, str(code), message)


def prepared(command: Command, result: bytes, now_ms: int) -> Row:
    """The row of a yes."""
    return _first(command, RowState.PREPARED, result, now_ms)


def performed(command: Command, result: bytes, now_ms: int) -> Row:
    """The row of an effect after the commit."""
    return _first(command, RowState.DONE, result, now_ms)


def refused(command: Command, code: str, message: str, now_ms: int) -> Row:
    """The row of a no: a repeated prepare gets the same, whatever has changed since."""
    return _first(command, RowState.REFUSED, b"", now_ms, code=code, message=message)


def tombstone(command: Command, now_ms: int) -> Row:
    """The row that refuses a prepare that comes after its rollback."""
    return Row(command.transaction, command.step, command.operation, RowState.ROLLED_BACK, b"", b"", b"", "", "",
               command.attempt, now_ms, now_ms)


def finished(row: Row, command: Command, now_ms: int) -> Row:
    """The row after its commit or rollback."""
    state = RowState.COMMITTED if command.kind is Kind.COMMIT else RowState.ROLLED_BACK
    return Row(row.transaction, row.step, row.operation, state, row.fingerprint, row.request, row.result, row.code,
               row.message, max(row.attempts, command.attempt), row.prepared_ms, now_ms)


def _first(
    command: Command, state: RowState, result: bytes, now_ms: int, *, code: str = "", message: str = "",
) -> Row:
    return Row(
        command.transaction, command.step, command.operation, state,
        fingerprint_of(command.operation, command.request), command.request, result, code, message,
        command.attempt, now_ms, 0 if state is RowState.PREPARED else now_ms)


class Fence:
    """The highest epoch seen per partition: what a fenced sender still says is refused.

    Args:
        epochs: what the participant's database holds.
    """

    def __init__(self, epochs: dict[int, int]) -> None:
        self.epochs = epochs
        self._raised: dict[int, int] = {}

    def see(self, partition: int, epoch: int) -> None:
        """Raise the partition's epoch; it belongs into the local transaction of the batch, before any reply."""
        if epoch > self.epochs.get(partition, 0):
            self.epochs[partition] = self._raised[partition] = epoch

    def admits(self, partition: int, epoch: int) -> bool:
        """Whether a sender of that epoch may still be heard."""
        return epoch >= self.epochs.get(partition, 0)

    def take_raised(self) -> dict[int, int]:
        """What was raised since the last call, to be made durable."""
        raised, self._raised = self._raised, {}
        return raised


class Carrier(Protocol):
    """What carries a command."""

    @property
    def command(self) -> Command:
        """The command."""


Item = TypeVar("Item", bound=Carrier)


def finish_first(items: Iterable[Item]) -> list[Item]:
    """Commits and rollbacks before what starts new work; messages of one (transaction, step) keep their order."""
    first: list[Item] = []
    later: list[Item] = []
    waiting: set[Key] = set()
    for item in items:
        command = item.command
        kind = command.kind
        key = (command.transaction, command.step)
        if kind is Kind.PREPARE or kind is Kind.PERFORM or key in waiting:
            waiting.add(key)
            later.append(item)
        else:
            first.append(item)
    return first + later
