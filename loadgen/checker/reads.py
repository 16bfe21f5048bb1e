"""I: what a reader saw in snapshots beside the running deployment, judged by what became of the orders.

Stock or money that is held was not available in that snapshot; an order that committed was never seen let go once it had
been held; one that aborted was never seen settled.
"""

from __future__ import annotations

from collections.abc import Iterable

from loadgen.checker.logged import Logged, Transactions
from loadgen.checker.report import CheckReport, Invariant
from loadgen.history import Read
from loadgen.watching import ABSENT, HELD, SETTLED
from loadgen.workload import PLACE_ORDER


def check_reads(reads: Iterable[Read], found: Transactions, report: CheckReport) -> None:
    """Judge every read by itself, and each order's reads in their order.

    Args:
        reads: of each service in the order in which they were made, by one reader.
        found: the log's transactions.
        report: told what nobody may have seen.
    """
    orders = orders_by_id(found)
    last: dict[tuple[str, str], str] = {}
    for read in reads:
        report.counts["reads"] += 1
        _check_books(read, report)
        _check_holders(read, found, report)
        for order, phase in read.phases.items():
            key = (read.service, order)
            _check_phase(read, order, last.get(key), orders.get(order), report)
            if phase != ABSENT or key not in last:
                last[key] = phase
            elif last[key] == HELD:
                last[key] = _LET_GO
    report.counts["orders_watched"] = len({order for _, order in last})


_LET_GO = "LET GO"


def orders_by_id(found: Transactions) -> dict[str, Logged]:
    """The transaction that placed each order: the one that committed, if any did."""
    orders: dict[str, Logged] = {}
    for logged in found.by_id.values():
        if logged.saga == PLACE_ORDER and (logged.committed or logged.business_key not in orders):
            orders[logged.business_key] = logged
    return orders


def _check_books(read: Read, report: CheckReport) -> None:
    held: dict[str, int] = {}
    for by_name in read.held.values():
        for name, amount in by_name.items():
            held[name] = held.get(name, 0) + amount
    for name, books in read.books.items():
        about = f"{read.service} {name}"
        needed, shown = held.get(name, 0), books["held"]
        if shown != needed:
            what = "shows as available" if shown < needed else "is kept from everybody"
            text = f"{needed} are held by prepared steps, {shown} are set aside: the difference {what}"
            report.add(Invariant.ISOLATED, about, text, weight=abs(shown - needed))
        if books["on_hand"] < shown:
            report.add(Invariant.ISOLATED, about, f"{books['on_hand'] - shown} available", weight=shown - books["on_hand"])
        if books["on_hand"] + books["sold"] != books["received"] + books["returned"]:
            report.add(Invariant.ISOLATED, about, f"a reader saw books that do not add up: {books}")


def _check_holders(read: Read, found: Transactions, report: CheckReport) -> None:
    for transaction in read.held:
        logged = found.by_id.get(transaction)
        if logged is None:
            report.add(Invariant.ISOLATED, transaction, f"it was seen holding at {read.service}, the log does not know it")
        elif read.phases.get(logged.business_key, HELD) != HELD:
            shown = read.phases[logged.business_key] or "absent"
            report.add(Invariant.ISOLATED, transaction, f"it held for order {logged.business_key}, which was shown {shown}")


def _check_phase(read: Read, order: str, before: str | None, logged: Logged | None, report: CheckReport) -> None:
    phase = read.phases[order]
    if logged is None:
        report.add(Invariant.ISOLATED, order, f"it was seen {phase or 'absent'} at {read.service}, the log does not know it")
        return
    if phase == SETTLED and logged.aborted:
        report.add(Invariant.ISOLATED, order, f"a reader saw it settled at {read.service}, it is {logged}")
    if before == SETTLED and phase != SETTLED:
        report.add(Invariant.ISOLATED, order, f"it was seen settled at {read.service}, then {phase or 'let go'}")
    if before == HELD and phase == ABSENT and not logged.aborted:
        report.add(Invariant.ISOLATED, order, f"a reader saw it let go at {read.service}, it is {logged}")
    if before == _LET_GO and phase != ABSENT:
        report.add(Invariant.ISOLATED, order, f"it was let go at {read.service}, then seen {phase}")
