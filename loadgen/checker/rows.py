"""Every ledger row against the log's decision: A, K, X, M and H, row by row, on the way through all ledgers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from loadgen.checker.logged import Logged, Transactions
from loadgen.checker.report import CheckReport, Invariant
from loadgen.checker.stores import LedgerView
from orchestrator.app import LedgerRow
from orchestrator.protocol.identifiers import oldest_id

_APPLIED = frozenset({"COMMITTED", "DONE"})


class RowCheck(Protocol):
    """Something that looks at every ledger row once."""

    def row(self, service: str, row: LedgerRow) -> None:
        """One row; rows of one ledger come in id order."""


def walk_rows(ledgers: Iterable[tuple[str, LedgerView]], checks: Iterable[RowCheck], report: CheckReport) -> None:
    """Show every row of every ledger to every check."""
    looking = [check.row for check in checks]
    for service, ledger in ledgers:
        rows = 0
        for row in ledger.rows():
            rows += 1
            for look in looking:
                look(service, row)
        report.counts["ledger_rows"] += rows


class DecisionCheck:
    """Rows against decisions.

    Args:
        found: the log's transactions.
        watermark_ms: rows of older transactions may have outlived their records.
        report: told what is wrong.
        clock_ms: how far the clock may have been set back.
    """

    def __init__(self, found: Transactions, watermark_ms: int, report: CheckReport, *, clock_ms: int = 0) -> None:
        self._found, self._report, self._clock_ms = found.by_id, report, clock_ms
        self._purged_below = oldest_id(watermark_ms)
        self._service = ""
        self._previous = ("", "")

    def row(self, service: str, row: LedgerRow) -> None:
        """See `RowCheck.row`."""
        self._check_order(service, row)
        logged = self._found.get(row.transaction)
        if logged is None:
            if row.transaction >= self._purged_below or row.state == "PREPARED":
                self._blame(Invariant.KEPT, service, row, "the log has no such transaction")
            return
        self._check_decision(service, row, logged)
        self._check_times(service, row, logged)

    def _check_order(self, service: str, row: LedgerRow) -> None:
        if service != self._service:
            self._service, self._previous = service, ("", "")
        key = (row.transaction, row.step)
        if key <= self._previous:
            self._blame(Invariant.EXACTLY_ONCE, service, row, "it stands twice, or out of order")
        self._previous = key

    def _check_decision(self, service: str, row: LedgerRow, logged: Logged) -> None:
        if row.state in _APPLIED and not logged.committed:
            invariant = Invariant.KEPT if logged.aborted else Invariant.ATOMIC
            self._blame(invariant, service, row, f"the log says {logged}")
        elif row.state in ("ROLLED_BACK", "REFUSED") and logged.committed:
            self._blame(Invariant.ATOMIC, service, row, f"the log says {logged}")
        elif row.state == "ROLLED_BACK" and logged.decision is None:
            self._blame(Invariant.ATOMIC, service, row, "nothing was decided")
        elif row.state == "PREPARED" and logged.ended_ms and not logged.moving and row.step not in logged.resolved:
            self._blame(Invariant.NO_ORPHAN, service, row, f"its transaction has ended {logged}")

    def _check_times(self, service: str, row: LedgerRow, logged: Logged) -> None:
        if row.prepared_ms + self._clock_ms < logged.begun_ms:
            told = f"it was written {logged.begun_ms - row.prepared_ms} ms before its transaction was begun"
            self._blame(Invariant.LEGAL, service, row, told)
        held = row.state == "PREPARED"
        if (row.finished_ms == 0) is not held or (not held and row.finished_ms + self._clock_ms < row.prepared_ms):
            self._blame(Invariant.LEGAL, service, row, f"prepared at {row.prepared_ms} ms, finished at {row.finished_ms} ms")
        decided = row.state in _APPLIED or row.state == "ROLLED_BACK"
        if decided and logged.decided_ms and row.finished_ms + self._clock_ms < logged.decided_ms:
            told = f"it took effect {logged.decided_ms - row.finished_ms} ms before the decision was stored"
            self._blame(Invariant.LEGAL, service, row, told)

    def _blame(self, invariant: Invariant, service: str, row: LedgerRow, told: str) -> None:
        self._report.add(invariant, row.transaction, f"step {row.step!r} at {service} is {row.state}: {told}")
