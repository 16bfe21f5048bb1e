"""The transaction log's rules written naively: dictionaries, one record at a time, nothing batched, nothing cached.

A property test holds it against the real log; the simulator uses it where the disk is not what is being tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.local import SupersededError
from orchestrator.protocol.identifiers import began_ms_of, epoch_of, oldest_id, partition_of
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import (
    NOTHING_PAUSED,
    RECORD_SCHEMA,
    Act,
    AppendReply,
    AppendRequest,
    AppendResult,
    AppendStatus,
    Begun,
    CancelledKey,
    Decided,
    Decision,
    Ended,
    Parked,
    Pause,
    Pauses,
    Record,
    Resolved,
    State,
    StoredTransaction,
    TakeReply,
    TakeRequest,
)
from orchestrator.testing.simulation.journal import Journal


@dataclass(slots=True)
class Entry:
    """What the log knows of one transaction."""

    begun: Begun
    decided: Decided | None = None
    ended: int = 0
    parked: dict[str, Parked] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)  # by step, as said last
    recoveries: int = 0
    progress: bool = True
    resolved: dict[str, Resolved] = field(default_factory=dict)

    @property
    def unsettled(self) -> bool:
        """Whether a ledger is still to agree with what an operator asserted."""
        return any(one.awaited for one in self.resolved.values())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a log at rest holds, every transaction ended: nothing of it changes any more, so that copies may share it."""

    owners: Mapping[int, tuple[int, int, str]]
    transactions: Mapping[str, Entry]
    keys: Mapping[str, str]


class LogModel:
    """What the log should hold."""

    def __init__(self) -> None:
        self.owners: dict[int, tuple[int, int, str]] = {}  # partition: shard, epoch, incarnation
        self.transactions: dict[str, Entry] = {}
        self.keys: dict[str, str] = {}
        self.newest: dict[int, tuple[str, int]] = {}  # shard: incarnation, sequence
        self.watermark_ms = 0
        self._now_ms = 0
        self.acts: list[Act] = []
        self.pauses = NOTHING_PAUSED

    def pause(self, act: Act) -> None:
        """Pause or resume a saga or a service."""
        others = [one for one in self.pauses.paused if (one.saga, one.service) != (act.saga, act.service)]
        was_paused = len(others) < len(self.pauses.paused)
        if was_paused is (act.kind is ActKind.PAUSE):
            return
        mine = [] if was_paused else [Pause(act.saga, act.service, act.who, act.reason, act.at_ms)]
        self.pauses = Pauses(self.pauses.version + 1, others + mine)
        self.acts.append(act)

    def take(self, shard: int, incarnation: str, partitions: Sequence[int]) -> list[StoredTransaction]:
        """Give partitions to an incarnation; returns what is open in them."""
        if self.newest.get(shard, ("", 0))[0] != incarnation:
            self.newest[shard] = (incarnation, 0)
        taken = {p for p in partitions if self.owners.get(p, (-1, 0, ""))[::2] != (shard, incarnation)}
        for partition in taken:
            self.owners[partition] = (shard, self.owners.get(partition, (0, 0, ""))[1] + 1, incarnation)
        found = []
        for txn, entry in sorted(self.transactions.items()):
            if (entry.ended and not entry.unsettled) or partition_of(txn) not in partitions:
                continue
            if partition_of(txn) in taken and not entry.ended:
                entry.recoveries = 1 if entry.progress else entry.recoveries + 1
                entry.progress = False
            found.append(self.stored(txn))
        return found

    def append(self, request: AppendRequest) -> list[AppendResult] | None:
        """Store a batch; None if its sequence is stale."""
        incarnation, sequence = self.newest.get(request.shard, ("", 0))
        if incarnation == request.incarnation:
            if request.sequence <= sequence:
                return None
            self.newest[request.shard] = (incarnation, request.sequence)
        return [self._record(request.incarnation, item.epoch, item.record) for item in request.records]

    def retain(self, now_ms: int, retention_ms: int) -> None:
        """Raise the watermark and forget what ended before it."""
        self._now_ms = now_ms
        candidate = now_ms - retention_ms
        if candidate <= self.watermark_ms:
            return
        holding = [txn for txn, entry in self.transactions.items() if not entry.ended and not entry.parked]
        candidate = min([candidate, *(began_ms_of(txn) for txn in holding)])
        self.watermark_ms = max(self.watermark_ms, candidate)
        oldest = oldest_id(self.watermark_ms)
        gone = [t for t, e in self.transactions.items() if t < oldest and e.ended and e.ended < self.watermark_ms
                and not e.unsettled]
        for txn in gone:
            del self.keys[self.transactions.pop(txn).begun.key]

    def find(self, key: str, transaction: str) -> StoredTransaction | None:
        """A transaction by id, or by key where that is empty."""
        txn = transaction or self.keys.get(key, "")
        return self.stored(txn) if txn in self.transactions else None

    def snapshot(self) -> Snapshot:
        """All of a log at rest."""
        assert all(entry.ended and not entry.unsettled for entry in self.transactions.values())
        return Snapshot(self.owners, self.transactions, self.keys)

    def exempt(self) -> list[str]:
        """Open transactions below the watermark."""
        oldest = oldest_id(self.watermark_ms)
        return sorted(
            txn for txn, entry in self.transactions.items() if (not entry.ended or entry.unsettled) and txn < oldest)

    def stored(self, txn: str) -> StoredTransaction:
        """A transaction as it is told."""
        entry = self.transactions[txn]
        return StoredTransaction(
            entry.begun, self._state(entry), entry.decided, entry.ended, list(entry.parked.values()), entry.recoveries,
            list(entry.resolved.values()))

    def _record(self, incarnation: str, epoch: int, record: Record) -> AppendResult:
        if self.owners.get(partition_of(record.transaction), (0, 0, ""))[1:] != (epoch, incarnation):
            return AppendResult(AppendStatus.FENCED)
        if isinstance(record, Begun):
            return self._begun(record)
        if isinstance(record, CancelledKey):
            return self._cancelled(record)
        entry = self.transactions.get(record.transaction)
        if entry is None or (isinstance(record, Ended) and entry.decided is None):
            return AppendResult(AppendStatus.UNKNOWN)
        if isinstance(record, (Resolved, Act)):
            return self._resolved(entry, record) if isinstance(record, Resolved) else self._acted(entry, record)
        if isinstance(record, Parked) and record.step in entry.resolved and (not entry.ended or entry.unsettled):
            if not record.code:
                del entry.resolved[record.step]
                entry.progress = True
        elif not entry.ended:
            self._progress(entry, record)
        return AppendResult(AppendStatus.STORED, entry.decided if isinstance(record, Decided) else None)

    def _progress(self, entry: Entry, record: Decided | Ended | Parked) -> None:
        if isinstance(record, Decided):
            if entry.decided is None:
                entry.decided, entry.progress = record, True
        elif isinstance(record, Ended):
            entry.ended, entry.parked = self._end_ms(record.at_ms), {}
        elif record.code != entry.codes.get(record.step, ""):
            entry.codes[record.step], entry.progress = record.code, True
            entry.parked.pop(record.step, None)
            if record.code:
                entry.parked[record.step] = record

    def _resolved(self, entry: Entry, record: Resolved) -> AppendResult:
        if record.step in entry.resolved and (not entry.ended or entry.unsettled):
            return AppendResult(AppendStatus.STORED)
        required = entry.decided is not None and entry.decided.decision is record.decision
        if entry.ended or not required or not record.step or record.step not in entry.parked:
            return AppendResult(AppendStatus.REFUSED)
        del entry.parked[record.step]
        entry.codes.pop(record.step, None)
        entry.resolved[record.step], entry.progress = record, True
        self.acts.append(Act(
            record.transaction, ActKind.RESOLVE, record.who, record.reason, record.at_ms, record.step))
        return AppendResult(AppendStatus.STORED)

    def _acted(self, entry: Entry, record: Act) -> AppendResult:
        if entry.ended and not entry.unsettled:
            return AppendResult(AppendStatus.REFUSED)
        if record not in self.acts:
            self.acts.append(record)
            entry.progress = True
        return AppendResult(AppendStatus.STORED)

    def _begun(self, record: Begun) -> AppendResult:
        bound = self.keys.get(record.key)
        if bound == record.transaction:
            return AppendResult(AppendStatus.STORED)
        if bound is not None:
            stored = self.stored(bound)
            fits = not record.fingerprint or stored.begun.fingerprint in {b"", record.fingerprint}
            return AppendResult(AppendStatus.BOUND if fits else AppendStatus.CONFLICT, stored=stored)
        if epoch_of(record.transaction) != self.owners[partition_of(record.transaction)][1]:
            return AppendResult(AppendStatus.FENCED)
        self.keys[record.key] = record.transaction
        self.transactions[record.transaction] = Entry(record)
        return AppendResult(AppendStatus.STORED)

    def _cancelled(self, record: CancelledKey) -> AppendResult:
        bound = self.keys.get(record.key)
        if bound is not None and bound != record.transaction:
            return AppendResult(AppendStatus.BOUND, stored=self.stored(bound))
        begun = Begun(record.transaction, record.key, b"", "", 0, b"", record.at_ms, record.at_ms, 0)
        if bound is None and self._begun(begun).status is AppendStatus.FENCED:
            return AppendResult(AppendStatus.FENCED)
        entry = self.transactions[record.transaction]
        if bound is None:
            entry.decided = Decided(
                record.transaction, Decision.ABORT, record.at_ms, "E_CANCELLED", "cancelled before it was submitted")
            entry.ended = self._end_ms(record.at_ms)
        return AppendResult(AppendStatus.STORED, entry.decided)

    def _end_ms(self, at_ms: int) -> int:
        """Retention counts from the end, by the log's clock: what is more than a minute behind it is taken for now."""
        return self._now_ms if at_ms < self._now_ms - 60_000 else at_ms

    def _state(self, entry: Entry) -> State:
        if entry.decided is None:
            return State.PREPARING
        if entry.decided.decision is Decision.COMMIT:
            return State.COMMITTED if entry.ended else State.COMMITTING
        return State.ABORTED if entry.ended else State.ABORTING


class MemoryLog:
    """The model over a journal: what the simulator's log is where the disk is not what is being tried.

    Args:
        journal: what is durable.
        retention_ms: how long what has ended is remembered.
        run: a shard of another run takes nothing.
        read_only: look at it beside its owner.
    """

    def __init__(self, journal: Journal, retention_ms: int, run: str = "", *, read_only: bool = False) -> None:
        self.model, self._run = LogModel(), run
        self._journal, self._retention_ms = journal, retention_ms
        for operation, argument, now_ms in journal.entries:
            if operation != "_opened":
                getattr(self, operation)(argument, now_ms)
        if not read_only:
            journal.owner += 1
            journal.commit(("_opened", None, 0))  # nothing is answered from what was never synced
        self._owner = journal.owner

    @property
    def superseded(self) -> bool:
        """Whether a successor has opened the journal."""
        return self._journal.owner != self._owner

    def append(self, requests: Sequence[AppendRequest], now_ms: int) -> list[AppendReply]:
        """Append a group; when this returns, it is durable.

        Raises:
            OSError: of unknown outcome; this life must end.
            SupersededError: nothing was stored.
        """
        answers = self._commit("_append", requests, now_ms)
        exempt = self.model.exempt()
        return [
            AppendReply(
                RECORD_SCHEMA, results or [], self.model.watermark_ms, exempt, results is None, self.model.pauses.version)
            for results in answers]

    def take(self, request: TakeRequest, now_ms: int) -> TakeReply:
        """Give partitions to a shard's incarnation."""
        if request.deployment_run != self._run:
            return TakeReply(RECORD_SCHEMA, [], [], self.model.watermark_ms, 0, self.model.exempt())
        found = self._commit("_take", request, now_ms)
        epochs = [self.model.owners[partition][1] for partition in request.partitions]
        return TakeReply(
            RECORD_SCHEMA, epochs, found, self.model.watermark_ms, 0, self.model.exempt(), self.model.pauses)

    def pause(self, act: Act, now_ms: int) -> None:
        """Pause or resume a saga or a service, durably."""
        self._commit("_pause", act, now_ms)

    def owner(self, partition: int) -> tuple[int, int, str]:
        """Shard, epoch and incarnation."""
        return self.model.owners.get(partition, (-1, 0, ""))

    def _commit(self, operation: str, argument: Any, now_ms: int) -> Any:
        if self.superseded:
            raise SupersededError("a successor owns the journal")
        answer = getattr(self, operation)(argument, now_ms)
        self._journal.commit((operation, argument, now_ms))
        return answer

    def _append(self, requests: Sequence[AppendRequest], now_ms: int) -> list[list[AppendResult] | None]:
        self.model.retain(now_ms, self._retention_ms)
        return [self.model.append(request) for request in requests]

    def _take(self, request: TakeRequest, _now_ms: int) -> list[StoredTransaction]:
        return self.model.take(request.shard, request.incarnation, request.partitions)

    def _pause(self, act: Act, _now_ms: int) -> None:
        self.model.pause(act)

    def _restored(self, snapshot: Snapshot, _now_ms: int) -> None:
        self.model.owners = dict(snapshot.owners)
        self.model.transactions = dict(snapshot.transactions)
        self.model.keys = dict(snapshot.keys)
