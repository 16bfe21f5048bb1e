"""The judgement of a run: what clients were told and saw, against offline reads of the log and every database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loadgen.checker.bank import BANKS, BankBooks, check_bank
from loadgen.checker.books import Books, check_asked, check_sold
from loadgen.checker.bounds import MEASURED, RECOVERED, check_caps, check_enough, gauges
from loadgen.checker.limits import Limits
from loadgen.checker.liveness import check_liveness
from loadgen.checker.logged import Transactions, check_epochs, read_log
from loadgen.checker.prefixes import PrefixCheck
from loadgen.checker.reads import check_reads
from loadgen.checker.replay import check_replay
from loadgen.checker.report import CheckReport, Invariant
from loadgen.checker.rows import DecisionCheck, walk_rows
from loadgen.checker.shop import SERVICES, check_shop
from loadgen.checker.stores import Stores, open_stores
from loadgen.checker.told import check_told
from loadgen.checker.versions import VersionCheck
from loadgen.history import History
from orchestrator.app import App
from orchestrator.audit import AuditReport, audit
from orchestrator.protocol.records import Begun, Decision
from orchestrator.verdict import Check

LIMITS_DEFAULT: Final = Limits()
_OF_AUDIT: Final[Mapping[Check, Invariant]] = {
    Check.ATOMICITY: Invariant.ATOMIC,
    Check.DURABILITY: Invariant.KEPT,
    Check.EXACTLY_ONCE: Invariant.EXACTLY_ONCE,
    Check.CONSERVATION: Invariant.CONSERVED,
    Check.ONE_DECISION: Invariant.DECIDED,
    Check.TRANSACTION_LOG: Invariant.LEGAL,
    Check.UNKNOWN_TRANSACTION: Invariant.KEPT,
    Check.ORPHAN_HOLD: Invariant.NO_ORPHAN,
    Check.UNIQUE_KEY: Invariant.EXACTLY_ONCE,
    Check.DEFINITION: Invariant.LEGAL,
    Check.ORDER: Invariant.REPLAYED,
}


def check(
    history: History, data_dir: Path, app: App, limits: Limits = LIMITS_DEFAULT, audited: AuditReport | None = None,
) -> CheckReport:
    """Judge a run, with its deployment down or beside it; what is open is given the benefit of the doubt.

    Args:
        history: what clients asked, were told and saw.
        data_dir: the deployment's.
        app: what ran on it.
        limits: what the run is held to beside the invariants.
        audited: an audit of the same directory that was made at rest; None: it is made here.

    Raises:
        DefiniteError: E_STORE_REFUSED where a database cannot be read; E_DATA_DIR where there is none.
    """
    report = CheckReport()
    take_audit(audit(data_dir, app) if audited is None else audited, report)
    with open_stores(data_dir, app) as stores:
        check_stores(history, stores, app, limits, report)
    check_caps(limits, gauges(history.noted(MEASURED), data_dir), report)
    check_enough(limits, report)
    return report


def check_stores(history: History, stores: Stores, app: App, limits: Limits, report: CheckReport) -> None:
    """Judge a history against open stores; everything but the audit, caps and quantities.

    Args:
        history: what clients asked, were told and saw.
        stores: snapshots.
        app: what ran on them.
        limits: see `check`.
        report: told what is broken.
    """
    report.counts["recoveries"] += len(history.noted(RECOVERED))
    asked = {operation.key for operation in history.operations if operation.asked}
    books = BankBooks(asked) if stores.ledgers.keys() >= set(BANKS) else Books(asked)
    known = isinstance(books, BankBooks) or stores.ledgers.keys() >= SERVICES  # else names may mean something else
    found = read_log(stores, report, books.decided if known else _unbooked)
    books.close(found.open.values() if known else ())
    check_epochs(stores.log, stores.ledgers, report)
    claims = check_told(history, found, report)
    check_asked(claims, books.amounts, found, report)
    if isinstance(books, Books):
        check_sold(books, report)
    check_liveness(history, found, limits.settle_ms, report)
    prefixes = PrefixCheck(report)
    decisions = DecisionCheck(found, stores.log.watermark_ms, report, clock_ms=limits.clock_ms)
    versions = VersionCheck(history.reads, report)
    walk_rows(stores.ledgers.items(), [decisions, prefixes, versions], report)
    prefixes.finish(stores.ledgers)
    versions.finish([name for name, ledger in stores.ledgers.items() if ledger.purged()])
    check_reads(history.reads, found, report)
    _check_states(stores, books, found, report)
    check_replay(app, stores.ledgers, limits.replay_rows_max, report)


def take_audit(audited: AuditReport, report: CheckReport) -> None:
    """Count what the audit found under the invariants that it is about."""
    seen = dict.fromkeys(Check, 0)
    for violation in audited.examples:
        seen[violation.check] += 1
        report.add(_OF_AUDIT[violation.check], violation.transaction, f"audit, {violation.check}: {violation.text}")
    for check_name, count in audited.by_check.items():
        rest = count - seen[Check(check_name)]
        if rest > 0:
            report.add(_OF_AUDIT[Check(check_name)], "", f"audit, {check_name}: and {rest} more", times=rest)
    report.left_out += [f"audit: {text}" for text in audited.left_out]


def _check_states(stores: Stores, books: Books | BankBooks, found: Transactions, report: CheckReport) -> None:
    if not found.whole:
        report.left_out.append("stock and money against the decisions: the oldest of them were purged from the log")
    elif isinstance(books, BankBooks):
        check_bank(books, stores.ledgers, report)
    else:
        check_shop(books, stores.ledgers, report)


def _unbooked(_begun: Begun, _decision: Decision) -> None:
    """Nobody keeps books of this app."""
