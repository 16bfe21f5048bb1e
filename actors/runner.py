"""Runs one batch of messages against a service: one local transaction, whatever is in it; no Ray, no clock, no waiting."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec
from pydantic import BaseModel, ValidationError

from actors import ledger
from actors.cache import RecentMap
from actors.ledger import Action, Fence, Key, Row, RowState, decide, finish_first, reply_for
from actors.operation import NotYet, Operation, Refused
from actors.state import BatchState, OperationState
from orchestrator.errors import ErrorCode, RaytxError
from orchestrator.logs import log_event, redact
from orchestrator.protocol.bounds import RESULT_BYTES_MAX, clipped
from orchestrator.protocol.identifiers import is_id, partition_of
from orchestrator.protocol.messages import Command, Kind, Reply, Status
from orchestrator.saga import decode_plain, describe, encode_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from actors.store import Retention

HELD_REQUESTS_MAX = 4_096  # requests of prepared steps that are kept as they were read
UNASKED: Final = object()  # no answer of an asynchronous part is at hand


class BatchStore(Protocol):
    """What a runner needs of a store; see `actors.store.Store`."""

    retention: Retention

    def epochs(self) -> dict[int, int]: ...  # noqa: D102 - see Store
    def begin(self) -> None: ...  # noqa: D102
    def rollback(self) -> None: ...  # noqa: D102
    def retain(self, retention: Retention) -> bool: ...  # noqa: D102
    def load(self, keys: Iterable[Key]) -> dict[Key, Row]: ...  # noqa: D102
    def value(self, key: str) -> bytes | None: ...  # noqa: D102
    def keys(self) -> Iterator[str]: ...  # noqa: D102
    def commit(self, rows: Mapping[Key, Row], values: Mapping[str, bytes | None]) -> None: ...  # noqa: D102
    def write(  # noqa: D102
        self, rows: Mapping[Key, Row], was: Mapping[Key, Row], values: Mapping[str, bytes | None],
        epochs: Mapping[int, int],
    ) -> None: ...


class Work(NamedTuple):
    """One message to be worked off.

    Attributes:
        command: the message.
        peer: who gets the reply; "" = nobody.
        answer: of the operation's asynchronous part.
    """

    command: Command
    peer: str
    answer: Any = UNASKED


class Outcome(NamedTuple):
    """What became of one work; no reply means that the asynchronous part has to be asked first."""

    work: Work
    reply: Reply | None


class _RefusedRequest(Exception):  # noqa: N818 - a vote, caught within this module
    """The request cannot be prepared or performed: a definite no."""


class _Unrunnable(Exception):  # noqa: N818 - a reply, caught within this module
    """No handler fits the message: asked again after a deployment that has it."""


class BatchRunner:
    """Decides by the ledger, runs handlers and commits; belongs to one thread.

    Args:
        service: the service's name, for logs.
        operations: by name.
        store: open.
    """

    def __init__(self, service: str, operations: Mapping[str, Operation], store: BatchStore) -> None:
        self.fence = Fence(store.epochs())
        self._service, self._operations, self._store = service, operations, store
        self._outcomes: list[Outcome] = []
        self._held: RecentMap[Key, tuple[Row, BaseModel] | None] = RecentMap(HELD_REQUESTS_MAX)

    @property
    def handled(self) -> int:
        """How many messages of the newest batch are done; may be asked from any thread."""
        return len(self._outcomes)

    def run(
        self, works: Iterable[Work], retention: Retention, now_ms: int, *, admitting: bool = True,
    ) -> list[Outcome]:
        """Work off a batch; when this returns, everything it tells is durable.

        Args:
            works: messages; commits and rollbacks go first, those of one (transaction, step) keep their order.
            retention: the newest one known.
            now_ms: wall clock, Unix ms.
            admitting: whether there is room for new work; otherwise prepares are refused, and performs told to come again.

        Raises:
            SupersededError: a successor owns the store; nothing was done.
            DefiniteError: E_STORE_REFUSED; the store is damaged, nothing was done.
            sqlite3.Error, OSError: outcome unknown; this process must end without answering.
        """
        self._store.begin()
        try:
            retained = self._store.retain(retention)
            outcomes, batch = self._run(works, now_ms, _RUNS if admitting else _FINISHES)
            epochs = self.fence.take_raised()
            self._store.write(batch.changed, batch.loaded, batch.state.writes, epochs)
        except BaseException:
            self._store.rollback()
            raise
        if retained or batch.changed or epochs:
            self._store.commit(batch.changed, batch.state.writes)
        else:
            self._store.rollback()
        return outcomes

    def reread(self) -> None:
        """Know of the epochs what is durable: the raised ones of a batch that failed are raised again with it."""
        self.fence = Fence(self._store.epochs())

    def _run(
        self, works: Iterable[Work], now_ms: int, runs: Mapping[Action, _Run],
    ) -> tuple[list[Outcome], _Batch]:
        admitted, outcomes = self._admit(works)
        self._outcomes = outcomes
        batch = _Batch(self._store, {(w.command.transaction, w.command.step) for w in admitted}, now_ms)
        outcomes.extend(Outcome(work, self._handle(work, batch, runs)) for work in finish_first(admitted))
        return outcomes, batch

    def _admit(self, works: Iterable[Work]) -> tuple[list[Work], list[Outcome]]:
        """Every epoch of the batch counts before anything is done for any of its senders."""
        sane, outcomes = [], []
        for work in works:
            transaction = work.command.transaction
            if is_id(transaction):
                partition = partition_of(transaction)
                self.fence.see(partition, work.command.epoch)
                sane.append((partition, work))
            else:
                told = "this is not the id of a transaction"
                outcomes.append(Outcome(work, _reply(work, Status.VIOLATION, ErrorCode.INVALID_INPUT, told)))
        admitted = []
        for partition, work in sane:
            if self.fence.admits(partition, work.command.epoch):
                admitted.append(work)
            else:
                told = "a successor of the sender was heard before"
                outcomes.append(Outcome(work, _reply(work, Status.FENCED, ErrorCode.FENCED, told)))
        return admitted, outcomes

    def _handle(self, work: Work, batch: _Batch, runs: Mapping[Action, _Run]) -> Reply | None:
        command = work.command
        row = batch.row(command)
        retention = self._store.retention
        action = decide(row, command, watermark_ms=retention.watermark_ms, exempt=retention.exempt)
        run = runs.get(action)
        if run is None:
            return reply_for(action, row, command)
        try:
            return run(self, work, row, batch)
        except _Unrunnable as error:
            return _reply(work, Status.ERROR, ErrorCode.SERVICE_ERROR, str(error))
        except sqlite3.Error:
            raise
        except _RefusedRequest as error:  # its result is too long, and would be again
            return self._refuse(command, batch, *error.args)
        except RaytxError as error:  # a handler's own statement: no traceback
            if error.code == ErrorCode.STORE_REFUSED:
                raise
            return _reply(work, Status.ERROR, error.code, clipped(redact(error.message)))
        except Exception as error:  # noqa: BLE001 - one poisonous operation must not take its batch along
            return self._failed(work, error)

    def _prepare(self, work: Work, _row: Row | None, batch: _Batch) -> Reply | None:
        command = work.command
        try:
            operation, request = self._starting(command)
        except _RefusedRequest as error:
            code, message = error.args
            return batch.vote(command, ledger.refused(command, code, message, batch.now_ms))
        if operation.asks and work.answer is UNASKED:
            return None
        state = OperationState(batch.state)
        result = operation.start(command, state, request, work.answer)
        if isinstance(result, NotYet):
            return ledger.answer(command, Status.NOT_YET, "", result.reason)
        if isinstance(result, Refused):
            return batch.vote(command, ledger.refused(command, result.code, result.message, batch.now_ms))
        row = ledger.prepared(command, _encoded(operation, result), batch.now_ms)
        state.merge()
        if operation.request_keeps:
            self._held.put((row.transaction, row.step), (row, request))
        return batch.vote(command, row)

    def _perform(self, work: Work, _row: Row | None, batch: _Batch) -> Reply | None:
        command = work.command
        try:
            operation, request = self._starting(command)
        except _RefusedRequest as error:
            return ledger.answer(command, Status.NO, *error.args)
        if operation.asks and work.answer is UNASKED:
            return None
        state = OperationState(batch.state)
        result = operation.start(command, state, request, work.answer)
        if isinstance(result, NotYet):
            return ledger.answer(command, Status.NOT_YET, "", result.reason)
        if isinstance(result, Refused):
            return ledger.answer(command, Status.NO, result.code, result.message)
        row = ledger.performed(command, _encoded(operation, result), batch.now_ms)
        state.merge()
        return batch.acknowledge(command, row)

    def _finish(self, work: Work, row: Row | None, batch: _Batch) -> Reply:
        assert row is not None
        assert row.state is RowState.PREPARED, row.state
        operation = self._operations.get(row.operation)
        if operation is None or not operation.prepares:
            raise _Unrunnable(f"service {self._service!r} no longer has the operation {row.operation!r}: deploy one that has")
        state = OperationState(batch.state)
        request = self._request_of(operation, (row.transaction, row.step), row)
        result = operation.result.model_validate(decode_plain(row.result))
        operation.finish(work.command, state, request, result)
        state.merge()
        return batch.acknowledge(work.command, ledger.finished(row, work.command, batch.now_ms))

    def _request_of(self, operation: Operation, key: Key, row: Row) -> BaseModel:
        """What was prepared: as its prepare read it, if that was here and of this very row."""
        held = self._held.get(key, None)
        if held is not None:
            self._held.forget(key)
            if held[0] is row:
                return held[1]
        return operation.request.model_validate(decode_plain(row.request))

    def _bury(self, work: Work, _row: Row | None, batch: _Batch) -> Reply:
        return batch.acknowledge(work.command, ledger.tombstone(work.command, batch.now_ms))

    def _no_room(self, work: Work, _row: Row | None, _batch: _Batch) -> Reply:
        """A no without a row (it would take room, too): nothing is held, and the rollback leaves a tombstone."""
        status = Status.NO if work.command.kind is Kind.PREPARE else Status.ERROR
        return _reply(work, status, ErrorCode.DISK_FULL, f"the disk of service {self._service!r} is full: make room")

    def _starting(self, command: Command) -> tuple[Operation, BaseModel]:
        operation = self._operations.get(command.operation)
        if operation is None or operation.prepares is not (command.kind is Kind.PREPARE):
            told = f"service {self._service!r} has no operation {command.operation!r} to {command.kind.name.lower()}"
            if command.kind is Kind.PERFORM:
                raise _Unrunnable(told)
            raise _RefusedRequest(ErrorCode.SERVICE_DEFINITION, told)
        return operation, request_of(operation, command)

    def _refuse(self, command: Command, batch: _Batch, code: str, message: str) -> Reply:
        if command.kind is Kind.PREPARE:
            return batch.vote(command, ledger.refused(command, code, message, batch.now_ms))
        return ledger.answer(command, Status.NO, code, message)

    def _failed(self, work: Work, error: Exception) -> Reply:
        told = clipped(redact(f"{type(error).__name__}: {error}"))
        command = work.command
        log_event(
            "handler_failed", level="ERROR", transaction=command.transaction, service=self._service, step=command.step,
            status=command.kind.name, attempt=command.attempt, code=ErrorCode.SERVICE_ERROR, message=told,
            traceback="".join(traceback.format_exception(error)))
        return _reply(work, Status.ERROR, ErrorCode.SERVICE_ERROR, told)


def request_of(operation: Operation, command: Command) -> BaseModel:
    """The request's model; `_RefusedRequest(code, message)` names the field that is wrong."""
    try:
        return operation.request.model_validate(decode_plain(command.request))
    except ValidationError as error:
        raise _RefusedRequest(ErrorCode.INVALID_INPUT, f"{operation.name}: {describe(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        told = f"{operation.name}: the request is not msgpack: {error}"
        raise _RefusedRequest(ErrorCode.INVALID_INPUT, told) from None


class _Batch:
    """The rows and the state as the batch leaves them."""

    __slots__ = ("changed", "loaded", "now_ms", "state")

    def __init__(self, store: BatchStore, keys: set[Key], now_ms: int) -> None:
        self.loaded = store.load(keys)
        self.changed: dict[Key, Row] = {}
        self.state = BatchState(store.value, store.keys)
        self.now_ms = now_ms

    def row(self, command: Command) -> Row | None:
        key = (command.transaction, command.step)
        return self.changed.get(key) or self.loaded.get(key)

    def vote(self, command: Command, row: Row) -> Reply:
        self.changed[row.transaction, row.step] = row
        return ledger.vote(command, row)

    def acknowledge(self, command: Command, row: Row) -> Reply:
        self.changed[row.transaction, row.step] = row
        return ledger.ack(command, row)


_Run = Callable[[BatchRunner, Work, "Row | None", _Batch], "Reply | None"]
_RUNS: Final[Mapping[Action, _Run]] = {
    Action.RUN_PREPARE: BatchRunner._prepare,  # noqa: SLF001 - the table of this class's own methods
    Action.RUN_PERFORM: BatchRunner._perform,  # noqa: SLF001
    Action.RUN_COMMIT: BatchRunner._finish,  # noqa: SLF001
    Action.RUN_ROLLBACK: BatchRunner._finish,  # noqa: SLF001
    Action.TOMBSTONE: BatchRunner._bury,  # noqa: SLF001
}
_FINISHES: Final[Mapping[Action, _Run]] = {  # while the disk is full
    **_RUNS,
    Action.RUN_PREPARE: BatchRunner._no_room,  # noqa: SLF001
    Action.RUN_PERFORM: BatchRunner._no_room,  # noqa: SLF001
}


def _encoded(operation: Operation, result: Any) -> bytes:
    if not isinstance(result, operation.result):
        raise TypeError(f"{operation.name} returned a {type(result).__name__}, not a {operation.result.__name__}")
    encoded = encode_plain(result)
    if len(encoded) > RESULT_BYTES_MAX:
        told = f"{operation.name} returned {len(encoded)} bytes, at most {RESULT_BYTES_MAX}"
        raise _RefusedRequest(ErrorCode.TOO_LARGE, told)
    return encoded


def _reply(work: Work, status: Status, code: str, message: str) -> Reply:
    return ledger.answer(work.command, status, code, message)
