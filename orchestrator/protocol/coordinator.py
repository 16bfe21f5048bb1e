"""The coordinator of one shard's partitions: plain events and the time in, `Effects` out.

No clock, randomness, I/O or logging. `now_ms` is Unix time that never runs backwards within the process: the shell adds
monotonic time to the wall clock read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol import admission, answers
from orchestrator.protocol.counts import Counts
from orchestrator.protocol.desk import Desk
from orchestrator.protocol.drive import Drive
from orchestrator.protocol.effects import Effects, Joiner, Lookup, Notice, Waiter
from orchestrator.protocol.identifiers import fingerprint_of, make_id, partition_of, partition_of_key
from orchestrator.protocol.messages import (
    ActRequest,
    Command,
    Inquiry,
    Kind,
    OutcomeMessage,
    OutcomeStatus,
    Reply,
    SubmitRequest,
)
from orchestrator.protocol.paused import PAUSED_RETRY_MS, Paused
from orchestrator.protocol.records import (
    NOTHING_PAUSED,
    Act,
    AppendResult,
    AppendStatus,
    Begun,
    CancelledKey,
    Decided,
    Decision,
    Parked,
    Pauses,
    Record,
    Resolved,
    StoredTransaction,
)
from orchestrator.protocol.recovery import Recovery
from orchestrator.protocol.table import OpenTable
from orchestrator.protocol.timers import Timers
from orchestrator.protocol.traffic import TRAFFIC, BreakerReport, Traffic, TrafficPolicy
from orchestrator.protocol.transaction import Transaction
from orchestrator.saga import Saga


class Coordinator:
    """All open transactions of the partitions that a shard owns.

    Args:
        sagas: definitions by (name, version).
        open_max: admission limit, transactions.
        quarantine_after: recoveries in a row without progress after which a transaction is suspect (see `recovery`).
        traffic: how much may be sent to a service that is ill.
    """

    def __init__(
        self, sagas: Mapping[tuple[str, int], Saga], *, open_max: int, quarantine_after: int = 5,
        traffic: TrafficPolicy = TRAFFIC,
    ) -> None:
        self.watermark_ms = 0  # the log's; set by the shell
        self.drain_until_ms = 0  # before then nothing new is begun; set by the shell
        self._newest = admission.newest(sagas.values())
        self._services = {saga.name: tuple({step.service: None for step in saga.steps}) for saga in self._newest.values()}
        self._prepared_by = {saga.name: tuple({step.service: None for step in saga.prepares}) for saga in self._newest.values()}
        self._open_max = open_max
        self._counter = 0
        self._last_ms = 0
        self._cancelling: dict[str, Joiner] = {}  # by id of a CancelledKey on its way to the log
        self._timers = Timers()
        self._table = OpenTable()
        self._drive = Drive(self._timers, self._table, traffic)
        self._recovery = Recovery(self._table, self._drive, sagas, quarantine_after)
        self._paused = Paused(NOTHING_PAUSED)
        self._desk = Desk(self._table, self._drive, self._recovery)

    @property
    def open_count(self) -> int:
        """Transactions that have not ended; one that is held for a ledger to agree with an operator has."""
        return sum(not txn.ended for txn in self._table.by_id.values())

    @property
    def counts(self) -> Counts:
        """What the transactions came to, since this coordinator was made."""
        return self._drive.counts

    @property
    def traffic(self) -> Traffic:
        """What is under way to each service."""
        return self._drive.traffic

    @property
    def full_ms(self) -> dict[str, int]:
        """The sagas for which there is no room, each with the time after which to come back, ms.

        One that needs a service which is down is not among them: that is told with a code of its own.
        """
        full, broken = len(self._table) >= self._open_max, self._drive.traffic.broken
        return {saga: admission.retry_after_ms(len(self._table)) for saga in self._services
                if full or (self._crowded(saga) and not (broken and self._drive.traffic.is_down(self._prepared_by[saga])))}

    @property
    def breakers(self) -> dict[str, BreakerReport]:
        """How the circuit breaker of every service is that was sent something."""
        return self._drive.traffic.breakers()

    @property
    def epochs(self) -> Mapping[int, int]:
        """Epoch by partition owned."""
        return self._table.epochs

    @property
    def next_due_ms(self) -> int | None:
        """When `tick` has something to do."""
        return self._timers.next_ms

    def adopt(self, epochs: Mapping[int, int], stored: Iterable[StoredTransaction], now_ms: int) -> Effects:
        """Take partitions with their new epochs and drive on what is open in them."""
        effects = self._begin(now_ms)
        self._table.epochs.update(epochs)
        count = self._recovery.adopt(stored)
        effects.notices.append(Notice("recovered", "INFO", "", message=f"{len(epochs)} partitions, {count} open transactions"))
        return effects

    def drop(self, partitions: Iterable[int], now_ms: int) -> Effects:
        """Forget partitions that another shard has taken; what was open there is that shard's now."""
        effects = self._begin(now_ms)
        gone = set(partitions)
        for partition in gone:
            self._table.epochs.pop(partition, None)
        for txn in [t for t in self._table.by_id.values() if t.partition in gone]:
            self._send_away(txn)
        for identity in [i for i in self._cancelling if partition_of(i) in gone]:
            answers.not_ready(effects, self._cancelling.pop(identity).waiter)
        self._desk.send_away(gone)
        return effects

    def submit(self, requests: Sequence[tuple[Waiter, SubmitRequest]], now_ms: int) -> Effects:
        """Begin transactions, or join those that already run under their keys."""
        effects = self._begin(now_ms)
        for waiter, request in requests:
            self._submit(waiter, request)
        return effects

    def cancel(self, waiter: Waiter, key: str, transaction: str, now_ms: int) -> Effects:
        """Compete with the decision of a transaction, by id or (where that is empty) by key."""
        effects = self._begin(now_ms)
        txn = self._table.find(key, transaction)
        joiner = Joiner(waiter, None, cancel=True)
        if txn is not None:
            self._join(txn, joiner)
        elif transaction:
            effects.lookups.append(Lookup(joiner, "", transaction))
        elif (problem := admission.check_key(key)) is not None:
            answers.reject(effects, waiter, ErrorCode.INVALID_KEY, problem)
        elif (partition := partition_of_key(key)) not in self._table.epochs:
            answers.not_ready(effects, waiter)
        else:
            identity = self._allocate(partition)
            self._cancelling[identity] = joiner
            effects.records.append(CancelledKey(identity, key, now_ms))
        return effects

    @property
    def pauses(self) -> Pauses:
        """What operators have paused, as far as this shard knows."""
        return self._paused.pauses

    def pause(self, pauses: Pauses, now_ms: int) -> Effects:
        """The log says what is paused now; an older saying than the last one changes nothing."""
        effects = self._begin(now_ms)
        if pauses.version > self._paused.pauses.version:
            self._paused = Paused(pauses)
            self._drive.paused = self._paused.services
        return effects

    def act(self, waiter: Waiter, request: ActRequest, now_ms: int) -> Effects:
        """An operator acts on one transaction: retry, cancel, resolve."""
        effects = self._begin(now_ms)
        self._desk.act(waiter, request)
        return effects

    def lookup(self, waiter: Waiter, key: str, transaction: str, now_ms: int) -> Effects:
        """Tell an outcome, when there is one, to somebody who asks by id or by key."""
        effects = self._begin(now_ms)
        txn = self._table.find(key, transaction)
        if txn is not None:
            self._join(txn, Joiner(waiter, None))
        else:
            effects.lookups.append(Lookup(Joiner(waiter, None), key, transaction))
        return effects

    def loaded(self, lookup: Lookup, stored: StoredTransaction | None, now_ms: int) -> Effects:
        """The log has answered a `Lookup`."""
        effects = self._begin(now_ms)
        waiter = lookup.joiner.waiter
        if stored is not None:
            self._recovery.answer(stored, [lookup.joiner], self.watermark_ms)
        elif lookup.otherwise is not None:
            effects.outcomes.append((waiter, lookup.otherwise))
        else:
            what = f"transaction {lookup.transaction}" if lookup.transaction else f"key {lookup.key!r}"
            answers.reject(effects, waiter, ErrorCode.UNKNOWN, f"no {what} in the log")
        return effects

    def receive(self, replies: Iterable[Reply], now_ms: int) -> Effects:
        """Votes and acknowledgements of a participant; those of transactions not open here are stale and ignored."""
        effects = self._begin(now_ms)
        for reply in replies:
            txn = self._table.by_id.get(reply.transaction)
            if txn is not None:
                self._drive.reply(txn, reply)
        return effects

    def appended(self, results: Iterable[tuple[Record, AppendResult]], now_ms: int) -> Effects:
        """The log's answers: what is durable now, and what was durable already."""
        effects = self._begin(now_ms)
        for record, result in results:
            if result.status is AppendStatus.FENCED:
                self._fenced(record)
            elif isinstance(record, Begun):
                self._begun(record, result)
            elif isinstance(record, Decided):
                self._decided(record, result)
            elif isinstance(record, CancelledKey):
                self._key_cancelled(record, result)
            elif isinstance(record, Parked) and result.status is AppendStatus.STORED:
                self._recovery.parked(record)
            elif isinstance(record, (Act, Resolved)):
                self._desk.appended(record, result)
        return effects

    def tick(self, now_ms: int) -> Effects:
        """Deadlines and repeats that are due."""
        effects = self._begin(now_ms)
        for identity in self._timers.due(now_ms):
            txn = self._table.by_id.get(identity)
            if txn is not None and txn.armed_ms <= now_ms:
                self._drive.due(txn)
        self._recovery.tick()
        return effects

    def inquire(self, inquiries: Iterable[Inquiry]) -> tuple[list[Command], list[Inquiry]]:
        """What participants in doubt should do: ordinary commands for decided transactions, nothing for undecided ones.

        Nor for a step whose rollback waits for its turn.

        Returns:
            The commands, and the inquiries about transactions that are not open here (to be looked up in the log).
        """
        commands: list[Command] = []
        absent: list[Inquiry] = []
        for inquiry in inquiries:
            txn = self._table.by_id.get(inquiry.transaction)
            if txn is None:
                absent.append(inquiry)
            elif txn.decided is not None and txn.may_settle(inquiry.step):
                commands.append(self.settling(inquiry, txn.decided.decision))
        return commands, absent

    def settling(self, inquiry: Inquiry, decision: Decision) -> Command:
        """The command that settles an inquired row."""
        kind = Kind.COMMIT if decision is Decision.COMMIT else Kind.ROLLBACK
        epoch = self._table.epochs.get(partition_of(inquiry.transaction), 0)
        return Command(inquiry.transaction, inquiry.step, kind, 0, epoch, "")

    def _submit(self, waiter: Waiter, request: SubmitRequest) -> None:
        fingerprint = fingerprint_of(request.saga, request.input)
        running = self._table.by_key.get(request.key)
        if running is not None:
            self._join(running, Joiner(waiter, fingerprint))
            return
        admitted = self._admit(waiter, request)
        if isinstance(admitted, Transaction):
            admitted.waiters.append(waiter)
            self._drive.effects.records.append(admitted.begun)
        elif admitted.status is OutcomeStatus.RETRY or admitted.code == ErrorCode.INVALID_KEY:
            self._drive.effects.outcomes.append((waiter, admitted))
        else:  # refused, unless this is a repeat of what was accepted before: only the log knows
            self._drive.effects.lookups.append(Lookup(Joiner(waiter, fingerprint), request.key, "", admitted))

    def _admit(self, waiter: Waiter, request: SubmitRequest) -> Transaction | OutcomeMessage:
        """A new transaction, or why there is none; the input is read only if there is room, so that refusing is cheap."""
        if (problem := admission.check_key(request.key)) is not None:
            return answers.rejection(waiter, ErrorCode.INVALID_KEY, problem)
        partition = partition_of_key(request.key)
        if partition not in self._table.epochs:
            return answers.retry(waiter)
        if (refused := self._kept_out(waiter, request.saga)) is not None:
            return refused
        full, service = len(self._table) >= self._open_max, self._crowded(request.saga)
        if full or service:
            why = f"too many transactions wait for {service}" if service else "the shard admits no more open transactions"
            return answers.rejection(
                waiter, ErrorCode.OVERLOADED, why, admission.retry_after_ms(len(self._table)), service)
        try:
            saga, data, business_key = admission.check(self._newest, request)
        except DefiniteError as error:
            return answers.rejection(waiter, error.code, error.message)
        txn = self._new(request, saga, business_key, partition)
        txn.input = data
        return txn

    def _kept_out(self, waiter: Waiter, saga: str) -> OutcomeMessage | None:
        """Why nothing of this saga is begun now, whatever room there is: a drain, a service that is down, a pause."""
        if self._drive.now_ms < self.drain_until_ms:
            return answers.draining(waiter)
        traffic = self._drive.traffic
        if traffic.broken and (down := traffic.down(self._prepared_by.get(saga, ()), self._drive.now_ms)):
            return answers.rejection(
                waiter, ErrorCode.UNAVAILABLE, f"{down} does not answer", traffic.retry_after_ms, down)
        if self._paused and (why := self._paused.keeps_out(saga, self._services.get(saga, ()))):
            return answers.rejection(waiter, ErrorCode.PAUSED, why, PAUSED_RETRY_MS)
        return None

    def _crowded(self, saga: str) -> str:
        """The service that keeps new transactions of this saga out: half of the places are taken by what waits for it."""
        return self._drive.traffic.crowded(self._services.get(saga, ()), max(1, self._open_max // 2))

    def _new(self, request: SubmitRequest, saga: Saga, business_key: str, partition: int) -> Transaction:
        now_ms = self._drive.now_ms
        duration_ms = request.duration_ms or saga.deadline_ms
        begun = Begun(
            self._allocate(partition), request.key, fingerprint_of(saga.name, request.input), saga.name, saga.version,
            request.input, now_ms, now_ms + duration_ms, duration_ms, business_key, request.traceparent)
        txn = Transaction(begun, saga, self._table.epochs[partition])
        txn.deadline_ms = begun.deadline_ms
        self._table.add(txn)
        return txn

    def _join(self, txn: Transaction, joiner: Joiner) -> None:
        """Join a transaction; one whose key is not durably its own yet may turn out to be another's."""
        if not txn.begun_durable:
            txn.joiners.append(joiner)
        elif joiner.fits(txn.begun.fingerprint):
            self._recovery.join(txn, [joiner])
        else:
            answers.conflict(self._drive.effects, joiner.waiter, txn.id)

    def _begun(self, record: Begun, result: AppendResult) -> None:
        txn = self._table.by_id.get(record.transaction)
        if txn is None or txn.begun_durable:
            return
        joiners, txn.joiners = txn.joiners, []
        if result.status is AppendStatus.STORED:
            fitting = [joiner for joiner in joiners if joiner.fits(record.fingerprint)]
            txn.cancelled = any(joiner.cancel for joiner in fitting)
            self._drive.start(txn)
            for joiner in joiners:
                self._join(txn, joiner)
            return
        self._table.forget(txn)
        if result.status is AppendStatus.FULL:
            for waiter in txn.waiters:
                answers.no_room(self._drive.effects, waiter)
            for joiner in joiners:
                answers.not_ready(self._drive.effects, joiner.waiter)
        else:
            assert result.stored is not None, result.status
            mine = [Joiner(waiter, record.fingerprint) for waiter in txn.waiters]
            self._recovery.answer(result.stored, [*mine, *joiners], self.watermark_ms)

    def _decided(self, record: Decided, result: AppendResult) -> None:
        txn = self._table.by_id.get(record.transaction)
        if txn is None:
            return
        if result.decided is None:  # the log does not know the transaction: a lost or foreign log
            self._drive.effects.notices.append(Notice(
                "unknown_to_log", "CRITICAL", txn.id, message="the log has no Begun of an open transaction"))
            return
        self._drive.decided(txn, result.decided)

    def _key_cancelled(self, record: CancelledKey, result: AppendResult) -> None:
        joiner = self._cancelling.pop(record.transaction, None)
        if joiner is None:
            return
        if result.status is AppendStatus.BOUND and result.stored is not None:
            self._recovery.answer(result.stored, [joiner], self.watermark_ms)
            return
        if result.status is AppendStatus.FULL:
            answers.no_room(self._drive.effects, joiner.waiter)
            return
        self._drive.effects.outcomes.append((joiner.waiter, OutcomeMessage(
            joiner.waiter.number, record.transaction, OutcomeStatus.ABORTED, [], ErrorCode.CANCELLED,
            "cancelled before it was submitted")))

    def _fenced(self, record: Record) -> None:
        """The partition is another's: the callers are sent there, the shell finds out who it is."""
        partition = partition_of(record.transaction)
        self._drive.effects.fenced.add(partition)
        self._desk.send_away({partition})
        cancelling = self._cancelling.pop(record.transaction, None)
        if cancelling is not None:
            answers.not_ready(self._drive.effects, cancelling.waiter)
        txn = self._table.by_id.get(record.transaction)
        if txn is not None:
            self._send_away(txn)

    def _send_away(self, txn: Transaction) -> None:
        """Forget a transaction that is another's; whoever waits for it asks again, there."""
        self._drive.forget(txn)
        for waiter in (*txn.waiters, *(joiner.waiter for joiner in txn.joiners)):
            answers.not_ready(self._drive.effects, waiter)

    def _allocate(self, partition: int) -> str:
        """A new id: unique by (partition, epoch, counter); its time never runs backwards nor below the watermark."""
        self._last_ms = max(self._drive.now_ms, self._last_ms, self.watermark_ms + 1)
        self._counter += 1
        return make_id(self._last_ms, partition, self._table.epochs[partition], self._counter)

    def _begin(self, now_ms: int) -> Effects:
        self._drive.effects = Effects()
        self._drive.now_ms = now_ms
        return self._drive.effects
