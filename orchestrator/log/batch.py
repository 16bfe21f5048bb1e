"""One group of appends: what each record becomes, and the rows to be written for all of them at once.

The rules of the log stand here: a stale epoch stores nothing, a key is bound once, the first decision wins, later
records of the batch see the earlier ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from orchestrator.errors import ErrorCode
from orchestrator.log.acts import INSERT_ACT, act_row, is_stored
from orchestrator.log.facets import ABORTED, COMMITTED, Facets, code_facet, saga_facet, service_facet
from orchestrator.log.rows import as_decided, load_stored
from orchestrator.log.schema import digest_of_key, encode_record
from orchestrator.protocol.identifiers import epoch_of, partition_of
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import (
    Act,
    AppendRequest,
    AppendResult,
    AppendStatus,
    Begun,
    CancelledKey,
    Decided,
    Decision,
    Ended,
    Parked,
    Record,
    Resolved,
    State,
    StoredTransaction,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

STORED = AppendResult(AppendStatus.STORED)
FENCED = AppendResult(AppendStatus.FENCED)
UNKNOWN = AppendResult(AppendStatus.UNKNOWN)
FULL = AppendResult(AppendStatus.FULL)
REFUSED = AppendResult(AppendStatus.REFUSED)

_INSERT_RECORD = "INSERT INTO records VALUES (?, ?, ?)"
_INSERT_TRANSACTION = (
    "INSERT INTO transactions (txn, key, saga, version, business_key, partition, began_ms, deadline_ms, begun_sequence) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
# a commit names no column of an index, so that only the table is touched
_COMMIT = "UPDATE transactions SET state = ?, decided_sequence = ?, decided_ms = ?, attempts = ? WHERE txn = ?"
_ABORT = (
    "UPDATE transactions SET state = ?, decided_sequence = ?, decided_ms = ?, attempts = ?, "
    "code = ?, message = ?, service = ?, step = ? WHERE txn = ?")
_END = "UPDATE transactions SET state = ?, ended_sequence = ?, ended_ms = ? WHERE txn = ?"
_PARK = "UPDATE transactions SET parked = ? WHERE txn = ?"
_INSERT_KEY = "INSERT INTO keys VALUES (?, ?)"
_INSERT_PARKING = "INSERT INTO parkings VALUES (?, ?)"
_INSERT_RESOLUTION = "INSERT INTO resolutions VALUES (?, ?, ?, ?)"
_DELETE_RESOLUTION = "DELETE FROM resolutions WHERE txn = ? AND step = ?"


LAG_MS_MAX = 60_000  # by which a shard's clock may be behind the log's


def ended_at_ms(record: Ended, now_ms: int) -> int:
    """When a transaction ended, Unix ms: what its shard says, unless that clock is far behind.

    Retention counts from then, by the log's clock: a key must not be forgotten as soon as it has ended.
    """
    return record.at_ms if record.at_ms >= now_ms - LAG_MS_MAX else now_ms


class Owner(NamedTuple):
    """Who owns a partition."""

    shard: int
    epoch: int
    incarnation: str


class OpenTransaction:
    """What the log keeps in memory of a transaction that has not ended."""

    __slots__ = ("decided", "last_sequence", "parked", "partition", "recoveries", "resolved", "taken_sequence")

    def __init__(self, partition: int, last_sequence: int) -> None:
        self.partition = partition
        self.last_sequence = last_sequence  # of its newest record
        self.decided: Decided | None = None
        self.parked: dict[str, Parked] = {}
        self.resolved: dict[str, bool] | None = None  # steps: whether their ledgers are still to agree
        self.recoveries = 0
        self.taken_sequence = 0

    @property
    def unsettled(self) -> bool:
        """Whether a ledger is still to agree with what an operator asserted."""
        return self.resolved is not None and any(self.resolved.values())


class Batch:
    """Applies requests in order and stages their rows; `flush` writes them inside the caller's SQLite transaction.

    Args:
        connection: of the log, within a write transaction.
        open_transactions: by id; changed in place.
        unsettled: those that have ended while a ledger is still to agree with what an operator asserted; likewise.
        owners: of the partitions.
        bound: key to id, for every key of the batch that the log knows.
        facets: by which lists find transactions.
        last_record: sequence of the newest record in the log.
        now_ms: Unix ms.

    Attributes:
        last_record: sequence of the newest record, those of the batch included.
        oldest_begun: the lowest id that the batch has begun.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        open_transactions: dict[str, OpenTransaction],
        owners: dict[int, Owner],
        *,
        unsettled: dict[str, OpenTransaction],
        bound: dict[str, str],
        facets: Facets,
        last_record: int,
        now_ms: int,
    ) -> None:
        self._connection, self._open, self._owners, self._bound = connection, open_transactions, owners, bound
        self._unsettled = unsettled
        self._facets = facets
        self.last_record = last_record
        self.oldest_begun: str | None = None
        self._now_ms = now_ms
        self._admitting = True
        self._ended: dict[str, Decided] = {}  # in this batch
        self._rows: dict[str, list[tuple[Any, ...]]] = {sql: [] for sql in (
            _INSERT_RECORD, _INSERT_TRANSACTION, _INSERT_KEY, _COMMIT, _ABORT, _PARK, _END, _INSERT_PARKING,
            _INSERT_RESOLUTION, _DELETE_RESOLUTION)}

    def apply(self, request: AppendRequest, *, admitting: bool = True) -> list[AppendResult]:
        """What becomes of each record of one request; without `admitting` nothing new is begun."""
        self._admitting = admitting
        owners, incarnation = self._owners, request.incarnation
        results = []
        for epoch, record in [(item.epoch, item.record) for item in request.records]:
            owner = owners.get(partition_of(record.transaction))
            if owner is None or owner.epoch != epoch or owner.incarnation != incarnation:
                results.append(FENCED)
            else:
                results.append(_HANDLERS[type(record)](self, record))
        return results

    def flush(self) -> None:
        """Write what is staged."""
        for sql, rows in self._rows.items():
            if rows:
                self._connection.executemany(sql, rows)
                rows.clear()
        self._facets.flush(self._connection)

    def _begun(self, record: Begun) -> AppendResult:
        bound = self._bound.get(record.key)
        if bound == record.transaction:
            return STORED
        if bound is not None:
            return self._bound_elsewhere(bound, record.fingerprint)
        if not self._begins_now(record.transaction):
            return FENCED
        if not self._admitting:
            return FULL
        self._store_begun(record)
        return STORED

    def _cancel_key(self, record: CancelledKey) -> AppendResult:
        bound = self._bound.get(record.key)
        if bound is not None and bound != record.transaction:
            return AppendResult(AppendStatus.BOUND, stored=self._load(bound))
        if bound is None:
            if not self._begins_now(record.transaction):
                return FENCED
            if not self._admitting:
                return FULL
            at_ms = record.at_ms
            self._store_begun(Begun(record.transaction, record.key, b"", "", 0, b"", at_ms, at_ms, 0))
            self._decided(Decided(
                record.transaction, Decision.ABORT, at_ms, ErrorCode.CANCELLED, "cancelled before it was submitted"))
            self._end(Ended(record.transaction, at_ms))
        return AppendResult(AppendStatus.STORED, decided=self._ended_decision(record.transaction))

    def _decided(self, record: Decided) -> AppendResult:
        transaction = self._open.get(record.transaction)
        if transaction is None:
            stored = self._ended_decision(record.transaction)
            return UNKNOWN if stored is None else AppendResult(AppendStatus.STORED, decided=stored)
        if transaction.decided is None:
            self._store_decided(transaction, record)
        return AppendResult(AppendStatus.STORED, decided=transaction.decided)

    def _end(self, record: Ended) -> AppendResult:
        transaction = self._open.get(record.transaction)
        if transaction is None:
            return UNKNOWN if self._ended_decision(record.transaction) is None else STORED
        if transaction.decided is None:
            return UNKNOWN  # it cannot have ended: the sender speaks of another transaction
        if transaction.parked:
            self._rows[_PARK].append((0, record.transaction))
        committed = transaction.decided.decision is Decision.COMMIT
        state = State.COMMITTED if committed else State.ABORTED
        self._rows[_END].append((state.value, self._store(record), ended_at_ms(record, self._now_ms), record.transaction))
        self._ended[record.transaction] = transaction.decided
        del self._open[record.transaction]
        if transaction.unsettled:
            self._unsettled[record.transaction] = transaction
        return STORED

    def _park(self, record: Parked) -> AppendResult:
        transaction = self._open.get(record.transaction)
        unsettled = transaction or self._unsettled.get(record.transaction)
        if unsettled is not None and unsettled.resolved is not None and record.step in unsettled.resolved:
            return self._resolved_step(unsettled, record)
        if transaction is None:
            return UNKNOWN if self._ended_decision(record.transaction) is None else STORED
        current = transaction.parked.get(record.step)
        if record.code == (current.code if current else ""):
            return STORED  # said again at every slow retry: a record each time would grow the log for ever
        transaction.parked.pop(record.step, None)
        if record.code:
            transaction.parked[record.step] = record
        self._store_parking(transaction, record)
        self._rows[_PARK].append((len(transaction.parked), record.transaction))
        return STORED

    def _resolve(self, record: Resolved) -> AppendResult:
        """Store what an operator asserts, if it is what the stored decision requires of a step that is parked."""
        transaction = self._open.get(record.transaction)
        known = transaction or self._unsettled.get(record.transaction)
        if known is None:
            return UNKNOWN if self._ended_decision(record.transaction) is None else REFUSED
        if known.resolved is not None and record.step in known.resolved:
            return STORED  # the first one stands
        required = transaction is not None and transaction.decided is not None and (
            transaction.decided.decision is record.decision)
        if transaction is None or not required or not record.step or record.step not in transaction.parked:
            return REFUSED
        del transaction.parked[record.step]
        transaction.resolved = {**(transaction.resolved or {}), record.step: record.awaited}
        sequence = self._store_parking(transaction, record)
        self._rows[_PARK].append((len(transaction.parked), record.transaction))
        self._rows[_INSERT_RESOLUTION].append((record.transaction, record.step, sequence, record.awaited))
        self._store_act(Act(
            record.transaction, ActKind.RESOLVE, record.who, record.reason, record.at_ms, record.step))
        return STORED

    def _resolved_step(self, transaction: OpenTransaction, record: Parked) -> AppendResult:
        """What was resolved is never parked again; an empty code says that its ledger agrees by now."""
        assert transaction.resolved is not None
        if record.code:
            return STORED
        del transaction.resolved[record.step]
        self._store_parking(transaction, record)
        self._rows[_DELETE_RESOLUTION].append((record.transaction, record.step))
        if not transaction.unsettled:
            self._unsettled.pop(record.transaction, None)
        return STORED

    def _act(self, record: Act) -> AppendResult:
        """An act is stored where there is something to act on, and once, however often its append is repeated."""
        transaction = self._open.get(record.transaction) or self._unsettled.get(record.transaction)
        if transaction is None:
            return UNKNOWN if self._ended_decision(record.transaction) is None else REFUSED
        self.flush()
        if not is_stored(self._connection, record):
            self._store_parking(transaction, record)
            self._store_act(record)
        return STORED

    def _store_parking(self, transaction: OpenTransaction, record: Parked | Resolved | Act) -> int:
        sequence = transaction.last_sequence = self._store(record)
        self._rows[_INSERT_PARKING].append((record.transaction, sequence))
        return sequence

    def _store_act(self, act: Act) -> None:
        self.flush()  # acts are rare, and each one's number follows from the one before
        self._connection.execute(INSERT_ACT, act_row(self._connection, act, self._now_ms))

    def _store(self, record: Record) -> int:
        self.last_record += 1
        self._rows[_INSERT_RECORD].append(encode_record(self.last_record, self._now_ms, record))
        return self.last_record

    def _store_begun(self, record: Begun) -> None:
        txn, partition, sequence = record.transaction, partition_of(record.transaction), self._store(record)
        if self.oldest_begun is None or txn < self.oldest_begun:
            self.oldest_begun = txn
        self._bound[record.key] = txn
        self._open[txn] = OpenTransaction(partition, sequence)
        self._facets.note(saga_facet(record.saga), txn)
        self._rows[_INSERT_KEY].append((digest_of_key(record.key), sequence))
        self._rows[_INSERT_TRANSACTION].append((
            txn, record.key, record.saga, record.version, record.business_key, partition, record.began_ms,
            record.deadline_ms, sequence))

    def _store_decided(self, transaction: OpenTransaction, record: Decided) -> None:
        sequence = transaction.last_sequence = self._store(record)
        transaction.decided = record
        if record.decision is Decision.COMMIT:
            self._rows[_COMMIT].append(
                (State.COMMITTING.value, sequence, record.at_ms, record.attempts, record.transaction))
            self._facets.note(COMMITTED, record.transaction)
        else:
            self._rows[_ABORT].append((
                State.ABORTING.value, sequence, record.at_ms, record.attempts, record.code, record.message,
                record.service, record.step, record.transaction))
            for facet in (ABORTED, code_facet(record.code), service_facet(record.service)):
                self._facets.note(facet, record.transaction)

    def _begins_now(self, transaction: str) -> bool:
        """Whether the id was allocated under the partition's present epoch: a late Begun of an earlier one is refused."""
        return epoch_of(transaction) == self._owners[partition_of(transaction)].epoch

    def _bound_elsewhere(self, bound: str, fingerprint: bytes) -> AppendResult:
        stored = self._load(bound)
        fits = not fingerprint or not stored.begun.fingerprint or fingerprint == stored.begun.fingerprint
        return AppendResult(AppendStatus.BOUND if fits else AppendStatus.CONFLICT, stored=stored)

    def _ended_decision(self, transaction: str) -> Decided | None:
        if transaction in self._ended:
            return self._ended[transaction]
        row = self._connection.execute(
            "SELECT r.data FROM transactions t JOIN records r ON r.sequence = t.decided_sequence WHERE t.txn = ?",
            (transaction,)).fetchone()
        return None if row is None else as_decided(row[0])

    def _load(self, transaction: str) -> StoredTransaction:
        self.flush()
        (stored,) = load_stored(self._connection, [transaction])
        return stored


# by functions, not by methods of one batch: those would keep it, and all its rows, until the collector comes by
_HANDLERS: Final[Mapping[type, Callable[[Batch, Any], AppendResult]]] = {
    Begun: Batch._begun, Decided: Batch._decided, Ended: Batch._end, Parked: Batch._park,  # noqa: SLF001 - its own
    CancelledKey: Batch._cancel_key, Resolved: Batch._resolve, Act: Batch._act}  # noqa: SLF001
