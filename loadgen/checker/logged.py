"""The transaction log read in the order of its records: legal transitions, one decision, rising epochs.

Independent of the log's own index and of its verification: only the records count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from loadgen.checker.report import CheckReport, Invariant
from loadgen.checker.stores import LedgerView, LogView, Stores
from orchestrator.log.reader import StoredRecord
from orchestrator.protocol.identifiers import epoch_of, oldest_id, partition_of, partition_of_key
from orchestrator.protocol.records import Act, Begun, CancelledKey, Decided, Decision, Ended, Parked, Resolved

OnDecided = Callable[[Begun, Decision], None]


class Logged(msgspec.Struct, gc=False):
    """One transaction as its records tell it; times are the log's own, Unix ms, 0 = not yet."""

    transaction: str
    key: str
    saga: str
    business_key: str
    begun_ms: int
    decision: Decision | None = None
    decided_ms: int = 0
    ended_ms: int = 0
    parked: bool = False
    resolved: frozenset[str] = frozenset()  # steps of which an operator says so, and no ledger yet
    moving: bool = False  # it ended while the stores were being opened

    @property
    def committed(self) -> bool:
        """Whether COMMIT was decided."""
        return self.decision is Decision.COMMIT

    @property
    def aborted(self) -> bool:
        """Whether ABORT was decided."""
        return self.decision is Decision.ABORT

    def __str__(self) -> str:
        if self.decision is None:
            return "PREPARING"
        if self.committed:
            return "COMMITTED" if self.ended_ms else "COMMITTING"
        return "ABORTED" if self.ended_ms else "ABORTING"


class Transactions:
    """What the log holds.

    Attributes:
        by_id: transactions in the order in which they were begun.
        by_key: the one that each key was bound to first.
        open: inputs of those that are not ended, or ended while the stores were being opened.
        whole: whether the log begins with its first record, so that nothing was purged.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Logged] = {}
        self.by_key: dict[str, Logged] = {}
        self.open: dict[str, Begun] = {}
        self.whole = True


def read_log(stores: Stores, report: CheckReport, on_decided: OnDecided) -> Transactions:
    """All transactions of a log.

    Args:
        stores: snapshots, of which the log's is read.
        report: told what is not legal (M), decided twice (D), bound twice (X) or of a wrong epoch (F).
        on_decided: told each Begun with the decision, in the order of the decisions; what is undecided, at no time.
    """
    reading = _Reading(stores, report, on_decided)
    for stored in stores.log.records():
        reading.take(stored)
    report.counts["transactions"] = len(reading.found.by_id)
    report.counts["records"] = reading.records
    return reading.found


def check_epochs(log: LogView, ledgers: Mapping[str, LedgerView], report: CheckReport) -> None:
    """F: no service has heard an epoch that the log never gave out."""
    given = log.epochs()
    for service, ledger in ledgers.items():
        for partition, epoch in ledger.epochs().items():
            if epoch > given.get(partition, 0):
                report.add(
                    Invariant.FENCED, service,
                    f"it heard epoch {epoch} of partition {partition}, the log gave out {given.get(partition, 0)} at most")


class _Reading:
    def __init__(self, stores: Stores, report: CheckReport, on_decided: OnDecided) -> None:
        log = stores.log
        self._settled_sequence = stores.settled_sequence
        self.found = Transactions()
        self.records = 0
        self._report, self._on_decided = report, on_decided
        self._given = log.epochs()
        self._highest: dict[int, int] = {}
        self._purged_below = oldest_id(log.watermark_ms)
        self._undecided: dict[str, Begun] = {}
        self._sagas: dict[str, str] = {}

    def take(self, stored: StoredRecord) -> None:
        if not self.records and stored.sequence != 1:
            self.found.whole = False
        self.records += 1
        record = stored.record
        if isinstance(record, Begun):
            self._begun(record, stored)
            return
        known = self.found.by_id.get(record.transaction)
        if known is None:
            if record.transaction >= self._purged_below:
                self._illegal(record.transaction, stored, "its transaction was never begun")
        elif known.ended_ms and not (known.resolved and isinstance(record, (Parked, Act))):
            self._illegal(record.transaction, stored, "its transaction has ended before")
        elif isinstance(record, Decided):
            self._decided(known, record, stored)
        elif isinstance(record, Ended):
            self._ended(known, stored)
        elif isinstance(record, (Parked, Resolved)):
            self._parked(known, record, stored)
        elif isinstance(record, CancelledKey):
            self._illegal(record.transaction, stored, "it is stored as the group that it asks for, never as itself")

    def _begun(self, record: Begun, stored: StoredRecord) -> None:
        transaction = record.transaction
        if transaction in self.found.by_id:
            self._illegal(transaction, stored, "its transaction was begun before")
            return
        self._check_identity(record)
        saga = self._sagas.setdefault(record.saga, record.saga)  # one text for all, and for both keys where they are alike
        business_key = record.key if record.business_key == record.key else record.business_key
        logged = Logged(transaction, record.key, saga, business_key, stored.at_ms)
        other = self.found.by_key.setdefault(record.key, logged)
        if other is not logged:
            text = f"key {record.key!r} is bound to {other.transaction} and to {transaction}"
            self._report.add(Invariant.EXACTLY_ONCE, record.key, text)
        self.found.by_id[transaction] = logged
        self.found.open[transaction] = self._undecided[transaction] = record

    def _check_identity(self, record: Begun) -> None:
        transaction = record.transaction
        partition, epoch = partition_of(transaction), epoch_of(transaction)
        if partition != partition_of_key(record.key):
            self._report.add(
                Invariant.FENCED, transaction, f"it is of partition {partition}, its key of {partition_of_key(record.key)}")
        highest = self._highest.get(partition, 0)
        if epoch < highest:
            text = f"it was begun in epoch {epoch} of partition {partition} after one in epoch {highest}"
            self._report.add(Invariant.FENCED, transaction, text, weight=highest - epoch)
        if epoch > self._given.get(partition, 0):
            text = f"it was begun in epoch {epoch} of partition {partition}, which the log never gave out"
            self._report.add(Invariant.FENCED, transaction, text)
        self._highest[partition] = max(highest, epoch)

    def _decided(self, known: Logged, record: Decided, stored: StoredRecord) -> None:
        if known.decision is not None:
            text = f"record {stored.sequence} decides {record.decision.name}, it was decided {known.decision.name} before"
            self._report.add(Invariant.DECIDED, known.transaction, text)
            return
        known.decision, known.decided_ms = record.decision, stored.at_ms
        self._on_decided(self._undecided.pop(known.transaction), record.decision)

    def _parked(self, known: Logged, record: Parked | Resolved, stored: StoredRecord) -> None:
        """An operator may assert only what was decided before."""
        if isinstance(record, Parked):
            known.parked = bool(record.code)
            known.resolved -= {record.step}
            return
        if record.decision is not known.decision:
            self._illegal(known.transaction, stored, f"it asserts {record.decision.name}, its transaction is {known}")
        known.parked = False
        known.resolved |= {record.step}

    def _ended(self, known: Logged, stored: StoredRecord) -> None:
        if known.decision is None:
            self._illegal(known.transaction, stored, "it ends before a decision")
        known.ended_ms, known.moving = stored.at_ms, stored.sequence > self._settled_sequence
        if not known.moving:
            self.found.open.pop(known.transaction, None)

    def _illegal(self, transaction: str, stored: StoredRecord, text: str) -> None:
        kind = type(stored.record).__name__
        self._report.add(Invariant.LEGAL, transaction, f"record {stored.sequence} ({kind}): {text}")
