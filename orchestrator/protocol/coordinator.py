"""The coordinator of one shard's partitions: plain events and the time in, `Effects` out.

No clock, randomness, I/O or logging. `now_ms` is Unix time that never runs backwards within the process: the shell adds
monotonic time to the wall clock read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol import admission
from orchestrator.protocol.drive import Drive, outcome_of
from orchestrator.protocol.effects import Effects, Lookup, Notice, Waiter
from orchestrator.protocol.identifiers import fingerprint_of, make_id, partition_of, partition_of_key
from orchestrator.protocol.messages import Command, Inquiry, Kind, OutcomeMessage, OutcomeStatus, Reply, SubmitRequest
from orchestrator.protocol.records import (
    AppendResult,
    AppendStatus,
    Begun,
    CancelledKey,
    Decided,
    Decision,
    Parked,
    Record,
    State,
    StoredTransaction,
)
from orchestrator.protocol.timers import Timers
from orchestrator.protocol.transaction import Transaction
from orchestrator.saga import Saga


class Coordinator:
    """All open transactions of the partitions that a shard owns.

    Args:
        sagas: definitions by (name, version).
        open_max: admission limit, transactions.
        quarantine_after: recoveries in a row without progress after which no user code runs for a transaction.
    """

    def __init__(self, sagas: Mapping[tuple[str, int], Saga], *, open_max: int, quarantine_after: int = 5) -> None:
        self._sagas = sagas
        self._newest = admission.newest(sagas.values())
        self._open_max = open_max
        self._quarantine_after = quarantine_after
        self._epochs: dict[int, int] = {}
        self._open: dict[str, Transaction] = {}
        self._by_key: dict[str, Transaction] = {}
        self._cancelling: dict[str, list[Waiter]] = {}  # by id of a CancelledKey on its way to the log
        self._counter = 0
        self._last_ms = 0
        self.watermark_ms = 0
        self._timers = Timers()
        self._drive = Drive(self._timers, self._forget)

    # ---- what the shell calls -------------------------------------------------------------------------------------

    @property
    def open_count(self) -> int:
        """Transactions that have not ended."""
        return len(self._open)

    @property
    def epochs(self) -> Mapping[int, int]:
        """Epoch by partition owned."""
        return self._epochs

    @property
    def next_due_ms(self) -> int | None:
        """When `tick` has something to do."""
        return self._timers.next_ms

    def adopt(self, epochs: Mapping[int, int], stored: Iterable[StoredTransaction], now_ms: int) -> Effects:
        """Take partitions with their new epochs and drive on what is open in them."""
        self._begin(now_ms)
        self._epochs.update(epochs)
        count = 0
        for transaction in stored:
            count += 1
            self._resume(transaction)
        self._notice("recovered", "INFO", f"{len(epochs)} partitions, {count} open transactions")
        return self._drive.effects

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget partitions that another shard has taken; what was open there is that shard's now."""
        gone = set(partitions)
        for partition in gone:
            self._epochs.pop(partition, None)
        for txn in [t for t in self._open.values() if t.partition in gone]:
            self._forget(txn)

    def submit(self, requests: Sequence[tuple[Waiter, SubmitRequest]], now_ms: int) -> Effects:
        """Begin transactions, or join those that already run under their keys."""
        self._begin(now_ms)
        for waiter, request in requests:
            self._submit(waiter, request)
        return self._drive.effects

    def cancel(self, waiter: Waiter, key: str, transaction: str, now_ms: int) -> Effects:
        """Compete with the decision of a transaction, by id or (where that is empty) by key."""
        self._begin(now_ms)
        txn = self._open.get(transaction) if transaction else self._by_key.get(key)
        if txn is not None:
            self._cancel(txn, waiter)
        elif transaction:
            self._drive.effects.lookups.append(Lookup(waiter, "", transaction, cancel=True))
        elif (problem := admission.check_key(key)) is not None:
            self._reject(waiter, ErrorCode.INVALID_KEY, problem)
        elif (partition := partition_of_key(key)) not in self._epochs:
            self._not_ready(waiter)
        else:
            identity = self._allocate(partition)
            self._cancelling[identity] = [waiter]
            self._drive.effects.records.append(CancelledKey(identity, key, self._drive.now_ms))
        return self._drive.effects

    def lookup(self, waiter: Waiter, key: str, transaction: str, now_ms: int) -> Effects:
        """Tell an outcome, when there is one, to somebody who asks by id or by key."""
        self._begin(now_ms)
        txn = self._open.get(transaction) if transaction else self._by_key.get(key)
        if txn is not None:
            self._join(txn, waiter)
        else:
            self._drive.effects.lookups.append(Lookup(waiter, key, transaction, cancel=False))
        return self._drive.effects

    def loaded(self, lookup: Lookup, stored: StoredTransaction | None, now_ms: int) -> Effects:
        """The log has answered a `Lookup`."""
        self._begin(now_ms)
        if stored is None:
            what = f"transaction {lookup.transaction}" if lookup.transaction else f"key {lookup.key!r}"
            self._reject(lookup.waiter, ErrorCode.UNKNOWN, f"no {what} in the log")
        else:
            self._answer_stored(stored, [lookup.waiter], cancel=lookup.cancel)
        return self._drive.effects

    def receive(self, replies: Iterable[Reply], now_ms: int) -> Effects:
        """Votes and acknowledgements of a participant; those of transactions not open here are stale and ignored."""
        self._begin(now_ms)
        for reply in replies:
            txn = self._open.get(reply.transaction)
            if txn is not None:
                self._drive.reply(txn, reply)
        return self._drive.effects

    def appended(self, results: Iterable[tuple[Record, AppendResult]], now_ms: int) -> Effects:
        """The log's answers: what is durable now, and what was durable already."""
        self._begin(now_ms)
        for record, result in results:
            if result.status is AppendStatus.FENCED:
                self._fenced(record)
            elif isinstance(record, Begun):
                self._begun(record, result)
            elif isinstance(record, Decided):
                self._decided(record, result)
            elif isinstance(record, CancelledKey):
                self._key_cancelled(record, result)
        return self._drive.effects

    def tick(self, now_ms: int) -> Effects:
        """Deadlines and repeats that are due."""
        self._begin(now_ms)
        for identity in self._timers.due(now_ms):
            txn = self._open.get(identity)
            if txn is not None and txn.armed_ms <= now_ms:
                self._drive.due(txn)
        return self._drive.effects

    def inquire(self, inquiries: Iterable[Inquiry]) -> tuple[list[Command], list[Inquiry]]:
        """What participants in doubt should do: ordinary commands for decided transactions, nothing for undecided ones.

        Returns:
            The commands, and the inquiries about transactions that are not open here (to be looked up in the log).
        """
        commands: list[Command] = []
        absent: list[Inquiry] = []
        for inquiry in inquiries:
            txn = self._open.get(inquiry.transaction)
            if txn is None:
                absent.append(inquiry)
            elif txn.decided is not None:
                commands.append(self.settling(inquiry, txn.decided.decision))
        return commands, absent

    def settling(self, inquiry: Inquiry, decision: Decision) -> Command:
        """The command that settles an inquired row."""
        kind = Kind.COMMIT if decision is Decision.COMMIT else Kind.ROLLBACK
        epoch = self._epochs.get(partition_of(inquiry.transaction), 0)
        return Command(inquiry.transaction, inquiry.step, kind, 0, epoch, "")

    # ---- submits ------------------------------------------------------------------------------------------------

    def _submit(self, waiter: Waiter, request: SubmitRequest) -> None:
        running = self._by_key.get(request.key)
        if running is not None:
            self._join_checked(running, waiter, fingerprint_of(request.saga, request.input))
            return
        try:
            saga, data, business_key = admission.check(self._newest, request)
        except DefiniteError as error:
            self._reject(waiter, error.code, error.message)
            return
        partition = partition_of_key(request.key)
        if partition not in self._epochs:
            self._not_ready(waiter)
        elif len(self._open) >= self._open_max:
            retry_after_ms = admission.retry_after_ms(len(self._open))
            self._reject(waiter, ErrorCode.OVERLOADED,
                         f"{len(self._open)} transactions are open, the limit of this shard", retry_after_ms)
        else:
            txn = self._begin_transaction(request, saga, business_key, partition)
            txn.input = data
            txn.waiters.append(waiter)

    def _begin_transaction(self, request: SubmitRequest, saga: Saga, business_key: str, partition: int) -> Transaction:
        now_ms = self._drive.now_ms
        duration_ms = request.duration_ms or saga.deadline_ms
        begun = Begun(
            self._allocate(partition), request.key, fingerprint_of(saga.name, request.input), saga.name, saga.version,
            request.input, now_ms, now_ms + duration_ms, duration_ms, business_key)
        txn = Transaction(begun, saga, self._epochs[partition])
        txn.deadline_ms = begun.deadline_ms
        self._open[txn.id] = self._by_key[request.key] = txn
        self._drive.effects.records.append(begun)
        return txn

    def _join_checked(self, txn: Transaction, waiter: Waiter, fingerprint: bytes) -> None:
        if txn.begun.fingerprint and txn.begun.fingerprint != fingerprint:
            self._reject(waiter, ErrorCode.KEY_CONFLICT,
                         f"the key is bound to transaction {txn.id}, which has another saga or input")
        else:
            self._join(txn, waiter)

    def _join(self, txn: Transaction, waiter: Waiter) -> None:
        if waiter not in txn.waiters:
            txn.waiters.append(waiter)
        self._drive.tell(txn)

    def _cancel(self, txn: Transaction, waiter: Waiter) -> None:
        txn.cancelled = True
        self._join(txn, waiter)
        if txn.begun_durable:
            self._drive.decide_abort(txn, ErrorCode.CANCELLED, "cancelled by the caller")

    # ---- the log's answers ----------------------------------------------------------------------------------------

    def _begun(self, record: Begun, result: AppendResult) -> None:
        txn = self._open.get(record.transaction)
        if txn is None or txn.begun_durable:
            return
        if result.status is AppendStatus.STORED:
            self._drive.start(txn)
            return
        self._forget(txn)
        if result.status is AppendStatus.CONFLICT:
            for waiter in txn.waiters:
                self._reject(waiter, ErrorCode.KEY_CONFLICT, "the key is bound to a transaction with another saga or input")
        elif result.stored is not None:
            self._answer_stored(result.stored, txn.waiters, cancel=txn.cancelled)

    def _decided(self, record: Decided, result: AppendResult) -> None:
        txn = self._open.get(record.transaction)
        if txn is None:
            return
        if result.decided is None:  # the log does not know the transaction: a lost or foreign log
            self._notice("unknown_to_log", "CRITICAL", "the log has no Begun of an open transaction", txn.id)
            return
        self._drive.decided(txn, result.decided)

    def _key_cancelled(self, record: CancelledKey, result: AppendResult) -> None:
        waiters = self._cancelling.pop(record.transaction, [])
        if result.status is AppendStatus.BOUND and result.stored is not None:
            self._answer_stored(result.stored, waiters, cancel=True)
            return
        for waiter in waiters:
            self._drive.effects.outcomes.append((waiter, OutcomeMessage(
                waiter.number, record.transaction, OutcomeStatus.ABORTED, [], ErrorCode.CANCELLED,
                "cancelled before it was submitted")))

    def _fenced(self, record: Record) -> None:
        """The partition is another's: the callers are sent there, the shell finds out who it is."""
        self._drive.effects.fenced.add(partition_of(record.transaction))
        for waiter in self._cancelling.pop(record.transaction, []):
            self._not_ready(waiter)
        txn = self._open.get(record.transaction)
        if txn is None:
            return
        self._forget(txn)
        for waiter in txn.waiters:
            self._not_ready(waiter)

    # ---- transactions that the log holds --------------------------------------------------------------------------

    def _answer_stored(self, stored: StoredTransaction, waiters: Iterable[Waiter], *, cancel: bool) -> None:
        """Answer with a transaction that the log knows, holding it again first where its votes are to be collected."""
        txn = self._open.get(stored.begun.transaction)
        if txn is None and stored.decided is not None and self._ended_for_good(stored):
            self._answer_ended(stored, stored.decided, waiters)
            return
        if txn is None and partition_of(stored.begun.transaction) not in self._epochs:
            for waiter in waiters:
                self._not_ready(waiter)
            return
        if txn is None:
            txn = self._resume(stored)
        for waiter in waiters:
            if cancel:
                self._cancel(txn, waiter)
            else:
                self._join(txn, waiter)

    def _ended_for_good(self, stored: StoredTransaction) -> bool:
        """Whether nothing of it need be driven again; a committed one is, so that the ledgers give back its results."""
        return stored.state is State.ABORTED or (
            stored.state is State.COMMITTED and (stored.begun.saga, stored.begun.version) not in self._sagas)

    def _answer_ended(self, stored: StoredTransaction, decided: Decided, waiters: Iterable[Waiter]) -> None:
        txn = Transaction(stored.begun, None, 0)
        txn.decided = decided
        for waiter in waiters:
            self._drive.effects.outcomes.append((waiter, outcome_of(txn, waiter.number)))

    def _resume(self, stored: StoredTransaction) -> Transaction:
        """Hold a stored transaction again; every prepare counts as sent, and the ledgers give the votes back."""
        begun = stored.begun
        saga = self._sagas.get((begun.saga, begun.version))
        txn = Transaction(begun, saga, self._epochs[partition_of(begun.transaction)])
        txn.begun_durable = txn.recovered = True
        txn.ended = stored.state in (State.COMMITTED, State.ABORTED)
        txn.quarantined = stored.recoveries >= self._quarantine_after
        remaining_ms = min(max(begun.deadline_ms - self._drive.now_ms, 0), begun.duration_ms)
        txn.deadline_ms = self._drive.now_ms + remaining_ms
        for parked in stored.parked:
            if parked.step in txn.steps:
                txn.steps[parked.step].parked = True
        self._open[txn.id] = self._by_key[begun.key] = txn
        if saga is None:
            self._undefined(txn, stored.decided)
        elif stored.decided is not None:
            self._load_input(txn, saga)
            self._drive.decided(txn, stored.decided)
        else:
            self._go_on(txn, saga, stored.recoveries)
        return txn

    def _go_on(self, txn: Transaction, saga: Saga, recoveries: int) -> None:
        """An undecided transaction after a recovery: abort it, or send its prepares again."""
        if txn.quarantined:
            self._drive.decide_abort(txn, ErrorCode.QUARANTINED, f"open at {recoveries} recoveries without progress")
        elif self._drive.now_ms >= txn.deadline_ms:
            self._drive.decide_abort(
                txn, ErrorCode.TIMEOUT, f"not decided within {txn.begun.duration_ms} ms; found after a restart")
        elif (problem := self._load_input(txn, saga)) is not None:
            self._drive.decide_abort(txn, problem.code, problem.message)
        else:
            self._drive.start(txn)

    def _load_input(self, txn: Transaction, saga: Saga) -> DefiniteError | None:
        """Decode the pinned input; tells what is wrong if it no longer fits its model."""
        if txn.quarantined:
            return None
        try:
            txn.input = saga.decode_input(txn.begun.input)
        except DefiniteError as error:
            return error
        return None

    def _undefined(self, txn: Transaction, decided: Decided | None) -> None:
        """The saga's version is not deployed: it can be neither driven nor forgotten."""
        message = f"saga {txn.begun.saga!r} version {txn.begun.version} is not in the deployed app"
        self._notice("parked", "ERROR", message, txn.id)
        self._drive.effects.records.append(Parked(txn.id, "", ErrorCode.UNKNOWN_SAGA, message, self._drive.now_ms))
        txn.decided = decided

    # ---- small things ---------------------------------------------------------------------------------------------

    def _begin(self, now_ms: int) -> None:
        self._drive.effects = Effects()
        self._drive.now_ms = now_ms

    def _allocate(self, partition: int) -> str:
        """A new id: unique by (partition, epoch, counter); its time never runs backwards nor below the watermark."""
        self._last_ms = max(self._drive.now_ms, self._last_ms, self.watermark_ms + 1)
        self._counter += 1
        return make_id(self._last_ms, partition, self._epochs[partition], self._counter)

    def _forget(self, txn: Transaction) -> None:
        self._open.pop(txn.id, None)
        if self._by_key.get(txn.begun.key) is txn:
            del self._by_key[txn.begun.key]

    def _reject(self, waiter: Waiter, code: str, message: str, retry_after_ms: int = 0) -> None:
        self._drive.effects.outcomes.append((waiter, OutcomeMessage(
            waiter.number, "", OutcomeStatus.REJECTED, [], str(code), message, retry_after_ms=retry_after_ms)))

    def _not_ready(self, waiter: Waiter) -> None:
        self._drive.effects.outcomes.append((waiter, OutcomeMessage(
            waiter.number, "", OutcomeStatus.RETRY, [], ErrorCode.NOT_READY, "this shard does not hold the partition (yet)")))

    def _notice(self, event: str, level: str, message: str, transaction: str = "") -> None:
        self._drive.effects.notices.append(Notice(event, level, transaction, message=message))


