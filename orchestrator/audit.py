"""The audit: recomputes from the stores alone what must be true of every transaction, whatever was killed.

Independent of the domain: it merges the transaction log with every ledger in id order, a transaction at a time, and
asks each service for its own conservation checks. It works offline or beside a live deployment; then it says what it
leaves out.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.reader import LogReader
from orchestrator.logs import redact
from orchestrator.protocol.identifiers import oldest_id
from orchestrator.protocol.records import Resolved, State, StoredTransaction
from orchestrator.verdict import Check, Found, Plan, Violation, judge, judge_stranger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestrator.app import App, LedgerReader, StepState
    from orchestrator.log.reader import TransactionSummary

Progress = Callable[[str, int, int], None]  # told: stage, transactions judged, transactions in all

EXAMPLES_PER_CHECK: Final = 10
PARKED_LISTED_MAX: Final = 100
PROGRESS_EVERY: Final = 2_000

_SEVERITY: Final = {check: rank for rank, check in enumerate(Check)}
_STATES: Final = {state.name.lower(): state for state in State}
_OPEN: Final = frozenset({State.PREPARING, State.COMMITTING, State.ABORTING})
_DECIDED: Final = frozenset(State) - {State.PREPARING}


class ReadableLog(Protocol):
    """What the audit needs of one snapshot of the transaction log; `LogReader` is one."""

    @property
    def watermark_ms(self) -> int:
        """Transactions that began before it and ended may have been purged, Unix ms."""

    def counts(self) -> dict[str, int]:
        """How many transactions are in each state."""

    def iterate(self) -> Iterator[TransactionSummary]:
        """All transactions in id order."""

    def stored(self, transaction: str) -> StoredTransaction | None:
        """One transaction."""

    def resolved(self) -> dict[str, list[Resolved]]:
        """By transaction, what operators asserted of its steps while no ledger agrees with it."""

    def verify(self) -> list[str]:
        """What is wrong with the records and their index."""


class SagaCounts(msgspec.Struct):
    """Transactions of one saga."""

    committed: int = 0
    aborted: int = 0
    open: int = 0


class AssertedStep(msgspec.Struct, frozen=True):
    """A step that counts as acknowledged because an operator says so; no finding, and never hidden."""

    transaction: str
    step: str
    decision: str
    who: str
    reason: str
    at_ms: int


class AuditReport(msgspec.Struct):
    """What an audit found.

    Attributes:
        ok: whether there is no violation; open and parked transactions are none.
        violations: how many.
        by_check: how many of each check; all checks are listed.
        first_violation: the first in the order of the walk: transactions by age, then services, then the log.
        worst_violation: the first of the gravest check.
        examples: up to ten of each check.
        committed: transactions of the app's first saga.
        aborted: likewise.
        open: transactions of any saga that have not ended.
        parked: those of them that wait for an operator.
        parked_transactions: ids of these, up to a hundred.
        asserted: steps that an operator resolved while no ledger agrees yet: not counted as violations.
        asserted_steps: these, up to a hundred, with who asserted it and why.
        by_saga: counts by saga; keys cancelled before their submit came count under "".
        totals: the services' sums by name.
        left_out: what could not be judged, and why.
    """

    ok: bool = True
    violations: int = 0
    by_check: dict[str, int] = msgspec.field(default_factory=lambda: {check.value: 0 for check in Check})
    first_violation: Violation | None = None
    worst_violation: Violation | None = None
    examples: list[Violation] = msgspec.field(default_factory=list)
    committed: int = 0
    aborted: int = 0
    open: int = 0
    parked: int = 0
    parked_transactions: list[str] = msgspec.field(default_factory=list)
    asserted: int = 0
    asserted_steps: list[AssertedStep] = msgspec.field(default_factory=list)
    by_saga: dict[str, SagaCounts] = msgspec.field(default_factory=dict)
    totals: dict[str, int] = msgspec.field(default_factory=dict)
    left_out: list[str] = msgspec.field(default_factory=list)

    def add(self, violation: Violation) -> None:
        """Count a violation, keep it if it is among the first of its check."""
        self.ok = False
        self.violations += 1
        self.by_check[violation.check] += 1
        if self.by_check[violation.check] <= EXAMPLES_PER_CHECK:
            self.examples.append(violation)
        if self.first_violation is None:
            self.first_violation = violation
        worst = self.worst_violation
        if worst is None or _SEVERITY[violation.check] < _SEVERITY[worst.check]:
            self.worst_violation = violation

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`: the fields, with the services' totals beside them as well."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {**self.totals, **plain}


def audit(data_dir: Path, app: App, progress: Progress | None = None) -> AuditReport:
    """Check every transaction of a data directory, with its deployment down or while it serves.

    Args:
        data_dir: the deployment's data directory.
        app: what runs on it; its sagas say which rows a transaction must leave.
        progress: told (stage, transactions judged, transactions in all) now and then.

    Raises:
        DefiniteError: E_DATA_DIR where there is none; E_STORE_REFUSED where a database cannot be read.
    """
    directory = DataDirectory(data_dir)
    log_path = directory.log_path
    if not log_path.parent.is_dir():
        raise DefiniteError(ErrorCode.DATA_DIR, f"{data_dir}: no data of a deployment there; name its --data directory")
    absent = _never_created(directory, app)
    # A decision is durable before any commit or rollback leaves, and a Begun before any prepare. So a log that is read
    # after the ledgers knows the cause of every row: a row that it does not explain is a violation, never a matter of
    # timing. The reverse, a log ahead of a ledger, is ordinary while work goes on; the reading of the log from before
    # the ledgers bounds how far ahead it may be. With the deployment down both readings are the same.
    with ExitStack() as stack:
        earlier = stack.enter_context(closing(LogReader(log_path)))
        ledgers = {
            name: stack.enter_context(closing(service.reader(directory.service_path(name))))
            for name, service in app.by_service.items() if name not in absent
        }
        later = stack.enter_context(closing(LogReader(log_path)))
        report = audit_snapshots(app, earlier, ledgers, later, progress)
    report.left_out += [f"service {name!r}: it has no database here yet" for name in sorted(absent)]
    return report


def audit_snapshots(
    app: App,
    earlier: ReadableLog,
    ledgers: Mapping[str, LedgerReader],
    later: ReadableLog,
    progress: Progress | None = None,
) -> AuditReport:
    """Check snapshots that were taken in this order.

    Args:
        app: its sagas define the transactions.
        earlier: the log before any ledger was opened.
        ledgers: by service.
        later: the log after the last ledger was opened.
        progress: told (stage, transactions judged, transactions in all) now and then.
    """
    tell = progress or _silent
    walk = _Walk(app, earlier, ledgers, later)
    walk.transactions(tell)
    for name, reader in ledgers.items():
        tell(f"conservation: {name}", walk.judged, walk.judged)
        walk.conservation(name, reader)
    tell("transaction log", walk.judged, walk.judged)
    walk.log_records()
    walk.keys()
    return walk.finish()


class _Ledger:
    """One ledger's rows, read in step with the log."""

    __slots__ = ("_report", "_rows", "head", "service")

    def __init__(self, service: str, reader: LedgerReader, report: AuditReport) -> None:
        self.service = service
        self._rows = reader.states()
        self._report = report
        self.head: StepState | None = next(self._rows, None)

    def take(self, transaction: str) -> Iterator[Found]:
        """The rows of that transaction, which is the lowest not taken yet."""
        while self.head is not None and self.head.transaction == transaction:
            yield Found(self.service, self.head)
            self._advance(transaction)

    def _advance(self, transaction: str) -> None:
        self.head = next(self._rows, None)
        while self.head is not None and self.head.transaction < transaction:
            text = f"the ledger of {self.service} reads {self.head.transaction} after {transaction}: it is damaged"
            self._report.add(Violation(Check.ORDER, self.head.transaction, text))
            self.head = next(self._rows, None)


class _Walk:
    """One pass over log and ledgers; memory does not grow with the history, but for 8 bytes a key."""

    def __init__(
        self, app: App, earlier: ReadableLog, ledgers: Mapping[str, LedgerReader], later: ReadableLog,
    ) -> None:
        self.report = AuditReport(by_saga={saga.name: SagaCounts() for saga in app.sagas})
        self.judged = 0
        self._first_saga = app.sagas[0].name if app.sagas else ""
        self._earlier, self._later = earlier, later
        standing = later.resolved()
        self._list_asserted(standing)
        self._asserted = {  # a ledger that was read in between may have agreed meanwhile
            txn: {one.step for one in (*standing.get(txn, ()), *before.get(txn, ()))}
            for before in [earlier.resolved()] for txn in before.keys() | standing.keys()}
        self._kept = {txn for txn, found in standing.items() if any(one.awaited for one in found)}  # their rows are not purged
        self._purged_below = oldest_id(later.watermark_ms)
        self._plans = {(saga.name, saga.version): Plan(saga.name, saga.steps) for saga in app.sagas}
        self._plans["", 0] = Plan("", ())  # a key cancelled before its submit came: it has no steps
        self._ledgers = [_Ledger(name, reader, self.report) for name, reader in ledgers.items()]
        self._keys = array("q")
        self._unplanned: Counter[tuple[str, int]] = Counter()
        self._moved = 0
        self._purged_rows = 0

    def transactions(self, tell: Progress) -> None:
        """Judge every transaction, and every row that belongs to none."""
        total = sum(self._later.counts().values())
        last = ""
        for summary in self._later.iterate():
            if summary.transaction <= last:
                text = f"the transaction log reads {summary.transaction} after {last}: its index is damaged"
                self.report.add(Violation(Check.ORDER, summary.transaction, text))
                continue
            last = summary.transaction
            self._strangers(below=last)
            self._judge(summary)
            self.judged += 1
            if self.judged % PROGRESS_EVERY == 0:
                tell("transactions", self.judged, total)
        self._strangers(below=None)
        tell("transactions", self.judged, total)

    def conservation(self, service: str, reader: LedgerReader) -> None:
        """A service's own checks; where they cannot even be made, that is a finding."""
        try:
            found = reader.audit()
        except DefiniteError:
            raise
        except Exception as error:  # noqa: BLE001 - the service's code, over a state that may be damaged
            text = f"{service}: its checks failed with {type(error).__name__}: {redact(str(error))}"
            self.report.add(Violation(Check.CONSERVATION, "", text))
            return
        for text in found.violations:
            self.report.add(Violation(Check.CONSERVATION, "", f"{service}: {text}"))
        for name, amount in found.totals.items():
            self.report.totals[name] = self.report.totals.get(name, 0) + amount

    def log_records(self) -> None:
        """The log's records: contiguous, whole, one decision each, and what the index says of them."""
        for text in self._later.verify():
            self.report.add(Violation(Check.TRANSACTION_LOG, "", text))

    def keys(self) -> None:
        """No key stands twice: hashes first, the few that meet are read again in full."""
        hashes = sorted(self._keys)
        shared = {one for one, other in pairwise(hashes) if one == other}
        owners: dict[str, str] = {}
        for summary in self._later.iterate() if shared else ():
            if hash(summary.key) not in shared:
                continue
            owner = owners.setdefault(summary.key, summary.transaction)
            if owner != summary.transaction:
                text = f"its idempotency key is also that of {owner}"
                self.report.add(Violation(Check.UNIQUE_KEY, summary.transaction, text))

    def finish(self) -> AuditReport:
        """The report, with what was left out."""
        report = self.report
        first = report.by_saga.get(self._first_saga, SagaCounts())
        report.committed, report.aborted = first.committed, first.aborted
        if report.open:
            report.left_out.append(f"{report.open} open transactions: what they hold, and how they will end")
        if self._moved:
            report.left_out.append(f"{self._moved} transactions that went on while the stores were being opened")
        for (saga, version), count in sorted(self._unplanned.items()):
            report.left_out.append(f"missing rows of {count} transactions: the app has no saga {saga!r} version {version}")
        if self._purged_rows:
            report.left_out.append(f"{self._purged_rows} rows older than the retention period, purged from the log already")
        return report

    def _judge(self, summary: TransactionSummary) -> None:
        state = _STATES[summary.state]
        self._count(summary, state)
        self._keys.append(hash(summary.key))
        rows: list[Found] = []
        for ledger in self._ledgers:
            head = ledger.head
            if head is not None and head.transaction == summary.transaction:
                rows.extend(ledger.take(summary.transaction))
        plan = self._plan(summary)
        verdict = judge(
            summary.transaction, state, plan, rows,
            earlier=lambda: self._earlier_state(summary.transaction),
            purged=(
                summary.transaction < self._purged_below and state not in _OPEN and summary.transaction not in self._kept),
            asserted=self._asserted.get(summary.transaction, ()))
        self._moved += verdict.moved
        for violation in verdict.violations:
            self.report.add(violation)
        if (summary.decided_ms > 0) is not (state in _DECIDED):
            text = f"it is {state.name} {'with' if summary.decided_ms > 0 else 'without'} a decision"
            self.report.add(Violation(Check.ONE_DECISION, summary.transaction, text))

    def _count(self, summary: TransactionSummary, state: State) -> None:
        counts = self.report.by_saga.get(summary.saga)
        if counts is None:
            counts = self.report.by_saga[summary.saga] = SagaCounts()
        if state is State.COMMITTED:
            counts.committed += 1
        elif state is State.ABORTED:
            counts.aborted += 1
        else:
            counts.open += 1
            self.report.open += 1
            if summary.parked:
                self._park(summary.transaction)

    def _list_asserted(self, standing: Mapping[str, list[Resolved]]) -> None:
        everything = [one for found in standing.values() for one in found]
        self.report.asserted = len(everything)
        self.report.asserted_steps = [
            AssertedStep(one.transaction, one.step, one.decision.name, redact(one.who), redact(one.reason), one.at_ms)
            for one in everything[:PARKED_LISTED_MAX]]

    def _park(self, transaction: str) -> None:
        self.report.parked += 1
        if len(self.report.parked_transactions) < PARKED_LISTED_MAX:
            self.report.parked_transactions.append(transaction)

    def _plan(self, summary: TransactionSummary) -> Plan | None:
        plan = self._plans.get((summary.saga, summary.version))
        if plan is None:
            self._unplanned[summary.saga, summary.version] += 1
        return plan

    def _earlier_state(self, transaction: str) -> State | None:
        stored = self._earlier.stored(transaction)
        return stored.state if stored is not None else None

    def _strangers(self, below: str | None) -> None:
        """Rows of transactions that the log does not have."""
        while True:
            heads = [one.head.transaction for one in self._ledgers if one.head is not None]
            lowest = min(heads, default=None)
            if lowest is None or (below is not None and lowest >= below):
                return
            self._judge_strangers(lowest)

    def _judge_strangers(self, transaction: str) -> None:
        rows = [found for ledger in self._ledgers for found in ledger.take(transaction)]
        violations = judge_stranger(transaction, rows, purged=transaction < self._purged_below)
        self._purged_rows += len(rows) - len(violations)
        for violation in violations:
            self.report.add(violation)


def _never_created(directory: DataDirectory, app: App) -> set[str]:
    """Services that joined the app after the databases were created; one that is merely missing is refused on opening."""
    manifest = directory.manifest()
    if manifest is None:
        return set()
    return {name for name in app.by_service if name not in manifest.services and not directory.service_path(name).exists()}


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody watches."""
