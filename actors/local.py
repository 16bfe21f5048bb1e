"""A service's shell without actor, thread and network: what `orchestrator.testing` drives, and what reads it afterwards."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from actors.doubt import Doubts
from actors.faults import FaultyService
from actors.ledger import RowState, answer
from actors.memory import MemoryStore, history
from actors.patience import ImpatientLoop
from actors.runner import UNASKED, BatchRunner, Outcome, Work, request_of
from actors.store import Retention, Store
from actors.watched import watched
from orchestrator.app import LedgerRow, ServiceAudit, StepState
from orchestrator.errors import ErrorCode
from orchestrator.local import Mail, StorePlace
from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.messages import SCHEMA_VERSION, CommandBatch, Inquiry, Kind, Reply, ReplyBatch, Status
from orchestrator.protocol.records import encode
from orchestrator.saga import decode_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from actors.ledger import Key
    from actors.service import Service
    from orchestrator.config import FaultSettings
    from orchestrator.local import Journal, Watch
    from orchestrator.protocol.messages import Command

INQUIRIES_MAX = 256  # at a time

_COMMANDS = msgspec.msgpack.Decoder(CommandBatch)


class LocalService:
    """One life of a service over its journal, or over its real store.

    Args:
        service: the service.
        place: what is durable.
        now_ms: monotonic ms.
        in_doubt_after_ms: a prepared row unheard of for so long is asked about.
        faults: simulated failures of the service, none by default.
        watch: sees every call of a handler.
    """

    def __init__(
        self, service: Service, place: Journal | StorePlace, now_ms: int, in_doubt_after_ms: int,
        faults: FaultSettings | None = None, *, watch: Watch | None = None,
    ) -> None:
        self.store, opening = _opened(service.name, place)
        self._operations = service.bound
        if watch is not None:
            self._operations = watched(self._operations, watch)
        if faults is not None:
            self._operations = FaultyService(self._operations, faults, opening).bound
        self._runner = BatchRunner(service.name, self._operations, self.store)
        self._doubts = Doubts(in_doubt_after_ms)
        self._doubts.recovered(self.store.prepared_keys(), now_ms)
        self._retention = Retention()
        self._pending: list[Work] = []
        self._failed: list[Outcome] = []
        self._waiting: dict[Key, list[Work]] = {}
        self.asked: list[Key] = []

    @property
    def busy(self) -> bool:
        """Whether messages wait for a turn."""
        return bool(self._pending or self._failed)

    @property
    def values(self) -> Mapping[str, bytes]:
        """The state: the encoded value of every key."""
        found = {key: self.store.value(key) for key in self.store.keys()}  # noqa: SIM118 - a store is no mapping
        return {key: value for key, value in found.items() if value is not None}

    def arrive(self, payload: bytes) -> None:
        """Take in an encoded `CommandBatch`."""
        batch = _COMMANDS.decode(payload)
        self._retention = self._retention.joined(batch.watermark_ms, batch.exempt)
        peer = f"{batch.sender}/{batch.incarnation}"
        self._pending.extend([Work(command, peer) for command in batch.commands])

    def settle(self, commands: Sequence[Command]) -> None:
        """Take in what an owner answered to inquiries."""
        self._pending.extend([Work(c, "") for c in commands if c.kind in (Kind.COMMIT, Kind.ROLLBACK)])

    def turn(self, now_ms: int) -> list[Mail]:
        """Work off what waits as one batch."""
        works, self._pending = self._pending, []
        outcomes, self._failed = self._failed, []
        if works:
            outcomes.extend(self._runner.run(works, self._retention, now_ms))
        return self._mail(outcomes, now_ms)

    def answer(self, key: Key) -> None:
        """Have the asynchronous part of a key answer; nothing where a rollback came first."""
        works = self._waiting.pop(key, [])
        if not works:
            return
        self.asked.remove(key)
        command = works[0].command
        operation = self._operations[command.operation]
        try:
            found = _loop().finish(operation.inquire(command, request_of(operation, command)))
        except Exception as error:  # noqa: BLE001 - user code: the attempt counts as transient
            told = f"{type(error).__name__}: {error}"
            self._failed.extend([
                Outcome(w, answer(w.command, Status.ERROR, ErrorCode.SERVICE_ERROR, told)) for w in works])
            return
        self._pending.extend([
            work._replace(answer=found if work.command.request == command.request else UNASKED) for work in works])

    @property
    def holds(self) -> bool:
        """Whether there may be something to inquire about."""
        return len(self._doubts) > 0

    def inquiries(self, now_ms: int) -> list[Inquiry]:
        """What has been in doubt for too long."""
        due = self._doubts.due(now_ms, INQUIRIES_MAX)
        if not due:
            return []
        held = self.store.still_prepared(due)
        for key in set(due).difference(held):
            self._doubts.settled(key)
        epochs = self._runner.fence.epochs
        return [Inquiry(txn, step, epochs.get(partition_of(txn), 0)) for txn, step in held]

    def _mail(self, outcomes: list[Outcome], now_ms: int) -> list[Mail]:
        by_peer: dict[str, list[Reply]] = {}
        for work, reply in outcomes:
            if reply is None:
                self._ask(work)
                continue
            self._follow(reply, now_ms)
            if work.peer:
                by_peer.setdefault(work.peer, []).append(reply)
        return [Mail(peer, encode(ReplyBatch(SCHEMA_VERSION, replies))) for peer, replies in by_peer.items()]

    def _ask(self, work: Work) -> None:
        key = (work.command.transaction, work.command.step)
        if key in self._waiting:
            self._waiting[key].append(work)
        else:
            self._waiting[key] = [work]
            self.asked.append(key)

    def _follow(self, reply: Reply, now_ms: int) -> None:
        key = (reply.transaction, reply.step)
        if reply.status is Status.YES:
            self._doubts.heard(key, now_ms)
        elif reply.status is Status.ACK:
            self._doubts.settled(key)
            if reply.kind is Kind.ROLLBACK and key in self._waiting:
                self.asked.remove(key)
                self._pending.extend(self._waiting.pop(key))  # meets the tombstone


def _opened(service: str, place: Journal | StorePlace) -> tuple[MemoryStore | Store, int]:
    """The store, and a number that no other opening of it has."""
    if isinstance(place, StorePlace):
        store = Store(place.path, service, place.run, files=place.files)
        return store, store.database.epoch
    return MemoryStore(place), place.owner


class JournalReader:
    """A `LedgerReader` over a journal.

    Args:
        service: whose it is.
        journal: what is durable.
    """

    def __init__(self, service: Service, journal: Journal) -> None:
        self._service = service
        self._store = MemoryStore(journal, read_only=True)

    def rows(self, transaction: str | None = None) -> Iterator[LedgerRow]:
        """All rows, or one transaction's, in id order."""
        for key, row in sorted(self._store.rows.items()):
            if transaction is None or key[0] == transaction:
                yield LedgerRow(
                    row.transaction, row.step, row.operation, RowState(row.state).name, _plain(row.request),
                    _plain(row.result), row.code, row.message, row.attempts, row.prepared_ms, row.finished_ms)

    def states(self) -> Iterator[StepState]:
        """Where every step stands, in id order."""
        for (transaction, step), row in sorted(self._store.rows.items()):
            yield StepState(transaction, step, row.operation, _STATE_NAMES[row.state])

    def audit(self) -> ServiceAudit:
        """The service's own checks."""
        state = {key: decode_plain(value) for key, value in sorted(self._store.values.items())}
        return self._service.audit(state, self.rows(), purged=self._store.was_purged)

    def close(self) -> None:
        """Nothing is held."""


def row_history(journal: Journal) -> Iterator[StepState]:
    """Every state that any step ever had, in the order of writing."""
    for (transaction, step), row in history(journal.entries):
        yield StepState(transaction, step, row.operation, _STATE_NAMES[row.state])


_STATE_NAMES = [state.name for state in RowState]  # quicker than asking each


@cache
def _loop() -> ImpatientLoop:
    return ImpatientLoop()


def _plain(payload: bytes) -> Any:
    """Plain data; a request that was refused because it is not msgpack stands as its bytes."""
    try:
        return decode_plain(payload)
    except msgspec.DecodeError:
        return payload
