"""Transactions that the log holds: taken up again after a restart, or because somebody asks for their outcome.

Quarantine. A transaction that was open at `quarantine_after` recoveries in a row without a new record may be what crashes
its shard, or may only have been beside the one that does. So it is tried alone: marked in the log as suspect first, then
driven while no other suspect is. A shard that finds the mark after a crash knows whom to quarantine; the mark is taken
away from one that survives its trial.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol import answers
from orchestrator.protocol.contents import outcome_of
from orchestrator.protocol.drive import Drive
from orchestrator.protocol.effects import Joiner, Notice
from orchestrator.protocol.identifiers import began_ms_of, partition_of
from orchestrator.protocol.pacing import Held, Pacing
from orchestrator.protocol.records import Decided, Parked, State, StoredTransaction
from orchestrator.protocol.table import OpenTable
from orchestrator.protocol.transaction import Transaction
from orchestrator.saga import Saga

TRIAL_MS = 2_000
WHOLE = ""  # the step of a Parked record that concerns the transaction as a whole


class Recovery:
    """Takes up what is stored; shares the table and the drive with the coordinator.

    Args:
        table: open transactions.
        drive: moves them.
        sagas: definitions by (name, version).
        quarantine_after: recoveries in a row without progress that make a transaction suspect.
    """

    def __init__(
        self, table: OpenTable, drive: Drive, sagas: Mapping[tuple[str, int], Saga], quarantine_after: int,
    ) -> None:
        self._table, self._drive, self._sagas, self._quarantine_after = table, drive, sagas, quarantine_after
        self._suspects: deque[Held] = deque()
        self._trial: Held | None = None
        self._trial_ends_ms = 0
        self._pacing = Pacing()

    def adopt(self, transactions: Iterable[StoredTransaction]) -> int:
        """Take up all open transactions of partitions just taken, to be driven as their turns come; returns how many."""
        taken = [self._hold(stored) for stored in transactions]
        self._pacing.hold(held for held in taken if not self._is_suspect(held))
        self._take_turns()
        self._try_next()
        return len(taken)

    def answer(self, stored: StoredTransaction, joiners: Iterable[Joiner], watermark_ms: int) -> None:
        """Answer with a transaction that the log knows, holding it again first where its votes are to be collected."""
        txn = self._table.by_id.get(stored.begun.transaction)
        fitting = list(self._fitting(stored, joiners))
        if txn is None and stored.decided is not None and self._ended_for_good(stored, watermark_ms):
            self._answer_ended(stored, stored.decided, fitting)
        elif txn is None and not self._table.holds(stored.begun.transaction):
            for joiner in fitting:
                answers.not_ready(self._drive.effects, joiner.waiter)
        else:
            self.join(txn or self._take_up(stored), fitting)

    def _take_turns(self) -> None:
        for txn, stored in self._pacing.turns(self._drive.now_ms, self._is_open):
            self._drive_on(txn, stored)
        if self._pacing.next_ms is not None:
            self._drive.wake(self._pacing.next_ms)

    def _is_open(self, txn: Transaction) -> bool:
        return self._table.by_id.get(txn.id) is txn

    def join(self, txn: Transaction, joiners: Iterable[Joiner]) -> None:
        """Have more clients told the outcome, or compete with the decision where they want it cancelled."""
        for joiner in joiners:
            if joiner.waiter not in txn.waiters:
                txn.waiters.append(joiner.waiter)
            if joiner.cancel:
                txn.cancelled = True
                if txn.begun_durable and not txn.held:
                    self._drive.decide_abort(txn, ErrorCode.CANCELLED, "cancelled by the caller")
        self._drive.tell(txn)

    def parked(self, record: Parked) -> None:
        """A Parked record is durable: the suspect that it marks can be tried."""
        if self._trial is None or record.code != ErrorCode.SUSPECT or record.transaction != self._trial[0].id:
            return
        txn, stored = self._trial
        self._trial_ends_ms = self._drive.now_ms + TRIAL_MS
        self._drive.arm(txn, self._trial_ends_ms)
        if txn.id in self._table.by_id:
            self._drive_on(txn, stored)

    def tick(self) -> None:
        """Drive those whose turn it is; end the trial of a suspect that has survived it, and start the next one's."""
        self._take_turns()
        if self._trial is None or not self._trial_ends_ms:
            return
        txn, stored = self._trial
        progressed = txn.decided is not None and stored.decided is None
        if txn.id in self._table.by_id and not progressed and self._drive.now_ms < self._trial_ends_ms:
            return
        if txn.id in self._table.by_id and txn.saga is not None:  # else it is parked for that by now
            self._unmark(txn)
        self._trial, self._trial_ends_ms = None, 0
        self._try_next()

    def _try_next(self) -> None:
        while self._trial is None and self._suspects:
            txn, stored = self._suspects.popleft()
            if txn.id in self._table.by_id:
                self._trial = Held(txn, stored)
                self._mark(txn, ErrorCode.SUSPECT, f"open at {stored.recoveries} recoveries without progress: tried alone")

    def _take_up(self, stored: StoredTransaction) -> Transaction:
        """Hold a stored transaction again and drive it at once, unless it is suspect."""
        held = self._hold(stored)
        if not self._is_suspect(held):
            self._drive_on(held.txn, stored)
        return held.txn

    def _hold(self, stored: StoredTransaction) -> Held:
        """Hold a stored transaction again; every prepare counts as sent, and the ledgers give the votes back."""
        txn = self._restored(stored)
        self._table.add(txn)
        if txn.troubled:
            self._table.weigh(txn)
        mark = next((parked.code for parked in stored.parked if parked.step == WHOLE), "")
        if mark in (ErrorCode.SUSPECT, ErrorCode.QUARANTINED):
            txn.quarantined = True
            if mark == ErrorCode.SUSPECT:
                self._mark(txn, ErrorCode.QUARANTINED, "its shard crashed while it was tried alone: no user code runs for it")
        held = Held(txn, stored)
        if self._is_suspect(held):
            self._suspects.append(held)
        return held

    def _is_suspect(self, held: Held) -> bool:
        return held.stored.recoveries >= self._quarantine_after and not (held.txn.quarantined or held.txn.ended)

    def _restored(self, stored: StoredTransaction) -> Transaction:
        begun, now_ms = stored.begun, self._drive.now_ms
        saga = self._sagas.get((begun.saga, begun.version))
        txn = Transaction(begun, saga, self._table.epochs[partition_of(begun.transaction)])
        txn.begun_durable = txn.recovered = txn.held = True
        txn.deadline_ms = now_ms + min(max(begun.deadline_ms - now_ms, 0), begun.duration_ms)
        for resolved in stored.resolved:
            if resolved.step in txn.steps:
                txn.resolve(txn.steps[resolved.step])
        if stored.state in (State.COMMITTED, State.ABORTED):
            txn.end_again()
        for parked in stored.parked:
            if parked.step in txn.steps:
                txn.steps[parked.step].parked = txn.troubled = True
        return txn

    def _drive_on(self, txn: Transaction, stored: StoredTransaction) -> None:
        txn.held = False
        if txn.saga is None:
            self._undefined(txn, stored.decided)
            return
        if not self._is_tried(txn) and any(p.step == WHOLE and p.code == ErrorCode.UNKNOWN_SAGA for p in stored.parked):
            self._unmark(txn)
        if stored.decided is not None:
            self._load_input(txn, txn.saga)
            self._drive.decided(txn, stored.decided)
        elif txn.quarantined:
            self._drive.decide_abort(txn, ErrorCode.QUARANTINED, "its shard crashed whenever it was driven")
        elif txn.cancelled:
            self._drive.decide_abort(txn, ErrorCode.CANCELLED, "cancelled by the caller")
        elif self._drive.now_ms >= txn.deadline_ms:
            self._drive.decide_abort(
                txn, ErrorCode.TIMEOUT, f"not decided within {txn.begun.duration_ms} ms; found after a restart")
        elif (problem := self._load_input(txn, txn.saga)) is not None:
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
        txn.decided = decided
        self._mark(txn, ErrorCode.UNKNOWN_SAGA,
                   f"saga {txn.begun.saga!r} version {txn.begun.version} is not in the deployed app")

    def _is_tried(self, txn: Transaction) -> bool:
        return self._trial is not None and self._trial[0] is txn

    def _unmark(self, txn: Transaction) -> None:
        self._drive.effects.records.append(Parked(txn.id, WHOLE, "", "", self._drive.now_ms))

    def _mark(self, txn: Transaction, code: ErrorCode, message: str) -> None:
        self._drive.effects.records.append(Parked(txn.id, WHOLE, code, message, self._drive.now_ms))
        self._drive.effects.notices.append(Notice("parked", "ERROR", txn.id, code=code, message=message))

    def _fitting(self, stored: StoredTransaction, joiners: Iterable[Joiner]) -> Iterable[Joiner]:
        """Those that mean this transaction; the others are refused."""
        for joiner in joiners:
            if joiner.fits(stored.begun.fingerprint):
                yield joiner
            else:
                answers.conflict(self._drive.effects, joiner.waiter, stored.begun.transaction)

    def _ended_for_good(self, stored: StoredTransaction, watermark_ms: int) -> bool:
        """Whether nothing of it need be driven again: a committed one is, so that the ledgers give back its results.

        Below the watermark they may have forgotten them; then it is told without.
        """
        if stored.state is State.COMMITTED:
            undefined = (stored.begun.saga, stored.begun.version) not in self._sagas
            return undefined or began_ms_of(stored.begun.transaction) < watermark_ms
        return stored.state is State.ABORTED

    def _answer_ended(self, stored: StoredTransaction, decided: Decided, joiners: Iterable[Joiner]) -> None:
        txn = Transaction(stored.begun, None, 0)
        txn.decided = decided
        for joiner in joiners:
            self._drive.effects.outcomes.append((joiner.waiter, outcome_of(txn, joiner.waiter.number)))
