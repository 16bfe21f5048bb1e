"""O: what is available, rebuilt over time from the ledgers' rows alone, is never below zero.

A row tells when it was prepared and when it was finished, in milliseconds; the batch that wrote it was one local
transaction, and all its rows have its time. So the end of each millisecond is a state that existed, and only such states
are judged. Within one, the order is not known: what a service says that it saw there must lie between the extremes.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from loadgen.checker.report import CheckReport, Invariant
from loadgen.checker.stores import LedgerView
from orchestrator.app import LedgerRow

_CHUNK: Final = 20_000
_SCHEMA: Final = """
CREATE TABLE moves (name TEXT NOT NULL, ms INTEGER NOT NULL, units INTEGER NOT NULL);
CREATE TABLE seen (name TEXT NOT NULL, ms INTEGER NOT NULL, units INTEGER NOT NULL, txn TEXT NOT NULL);
"""
_RUNNING: Final = """
CREATE TABLE running AS
SELECT name, ms, gave, took, SUM(gave + took) OVER (PARTITION BY name ORDER BY ms) AS available FROM (
    SELECT name, ms, SUM(MAX(units, 0)) AS gave, SUM(MIN(units, 0)) AS took FROM moves GROUP BY name, ms);
CREATE INDEX running_name ON running (name, ms);
"""
_WRONGLY_SEEN: Final = """
WITH known AS (
    SELECT seen.*, COALESCE(at.gave, 0) AS gave, COALESCE(at.took, 0) AS took, COALESCE((
        SELECT available FROM running WHERE running.name = seen.name AND running.ms < seen.ms ORDER BY ms DESC LIMIT 1), 0)
        AS before
    FROM seen LEFT JOIN running AS at ON at.name = seen.name AND at.ms = seen.ms)
SELECT name, ms, units, txn, before + took, before + gave FROM known
WHERE units NOT BETWEEN before + took AND before + gave ORDER BY ms
"""
_SHORT_OF_STOCK: Final = re.compile(r"(\S+) is short by \d+ \(ordered \d+, available (-?\d+)\)")
_SHORT_OF_MONEY: Final = re.compile(r"account \S+ is short by (\d+) ")
_HELD_STATES: Final = frozenset({"PREPARED", "COMMITTED", "ROLLED_BACK"})


class PrefixCheck:
    """Gathers what every row took and gave; a `RowCheck`. The moves lie in a temporary file, not in memory."""

    def __init__(self, report: CheckReport) -> None:
        self._report = report
        self._database = sqlite3.connect("", isolation_level=None)  # private, on disk once it grows, gone when closed
        self._database.executescript(_SCHEMA + "BEGIN;")
        self._moves: list[tuple[str, int, int]] = []

    def row(self, service: str, row: LedgerRow) -> None:
        """See `RowCheck.row`."""
        moving = _MOVES.get((service, row.operation))
        if moving is None or not isinstance(row.request, dict):  # a tombstone has no request
            return
        if row.state == "REFUSED":
            seen = [(f"{service} {name}", row.prepared_ms, units, row.transaction) for name, units in _seen(service, row)]
            self._database.executemany("INSERT INTO seen VALUES (?, ?, ?, ?)", seen)
        elif moving:
            self._take(service, row)
        elif row.state == "COMMITTED":
            self._moves += [(f"{service} {name}", row.finished_ms, units) for name, units in units_of(service, row)]
        if len(self._moves) >= _CHUNK:
            self._store()

    def finish(self, ledgers: Mapping[str, LedgerView]) -> None:
        """Judge every prefix, what refusals say that they saw, and where it all ends."""
        self._store()
        self._database.executescript(_RUNNING)
        purged = [service for service, ledger in ledgers.items() if ledger.purged()]
        if purged:
            self._report.left_out.append(f"prefixes of the ledgers: rows were purged from {', '.join(purged)}")
        else:
            self._judge(ledgers)
        self._database.close()

    def _judge(self, ledgers: Mapping[str, LedgerView]) -> None:
        (prefixes,) = self._database.execute("SELECT COUNT(*) FROM running").fetchone()
        (seen,) = self._database.execute("SELECT COUNT(*) FROM seen").fetchone()
        self._report.counts["prefixes"] += prefixes
        self._report.counts["refusals_compared"] += seen
        below = self._database.execute("SELECT name, ms, available FROM running WHERE available < 0 ORDER BY ms, name")
        for name, ms, available in below:
            self._report.add(Invariant.NOT_OVERSOLD, name, f"{available} available at {ms} ms", weight=-available)
        for name, ms, units, txn, least, most in self._database.execute(_WRONGLY_SEEN):
            text = f"{txn} was refused at {ms} ms for having seen {units} available, the ledger allows {least} to {most}"
            self._report.add(Invariant.NOT_OVERSOLD, name, text, weight=max(least - units, units - most))
        self._compare(ledgers)

    def _compare(self, ledgers: Mapping[str, LedgerView]) -> None:
        ends = dict(self._database.execute("SELECT name, SUM(units) FROM moves GROUP BY name"))
        for name, available in _available(ledgers):
            self._report.equal(Invariant.REPLAYED, name, "available in the state, by its ledger,", available, ends.pop(name, 0))
        for name, available in ends.items():
            self._report.equal(Invariant.REPLAYED, name, "available in the state, by its ledger,", 0, available)

    def _take(self, service: str, row: LedgerRow) -> None:
        if row.state not in _HELD_STATES:
            return
        for name, units in units_of(service, row):
            self._moves.append((f"{service} {name}", row.prepared_ms, -units))
            if row.state == "ROLLED_BACK":
                self._moves.append((f"{service} {name}", row.finished_ms, units))

    def _store(self) -> None:
        self._database.executemany("INSERT INTO moves VALUES (?, ?, ?)", self._moves)
        self._moves.clear()


_MOVES: Final = {  # True: it takes at prepare; False: it gives at commit
    ("inventory", "reserve"): True, ("inventory", "restock"): False, ("inventory", "receive"): False,
    ("payment", "authorize"): True, ("payment", "refund"): False, ("payment", "deposit"): False,
}


def units_of(service: str, row: LedgerRow) -> Iterator[tuple[str, int]]:
    """Units by SKU, or minor units by account, of one row of inventory or payment; a name may come several times."""
    request: Mapping[str, Any] = row.request
    if "lines" not in request:
        yield request["account"], request["amount_minor"]
    elif service == "payment":
        yield from ((line["account"], line["amount_minor"]) for line in request["lines"])
    elif row.operation == "receive":
        yield from ((line["sku"], line["quantity"]) for line in request["lines"])
    else:
        yield from ((sku, quantity) for sku, quantity in request["lines"])


def _seen(service: str, row: LedgerRow) -> Iterator[tuple[str, int]]:
    """What a refusal says was available when it was given."""
    if service == "inventory":
        yield from ((sku, int(available)) for sku, available in _SHORT_OF_STOCK.findall(row.message))
    else:
        for short in _SHORT_OF_MONEY.findall(row.message):
            yield row.request["account"], row.request["amount_minor"] - int(short)


def _available(ledgers: Mapping[str, LedgerView]) -> Iterator[tuple[str, int]]:
    if "inventory" in ledgers:
        for key, value in ledgers["inventory"].state().items():
            if key.startswith("sku/"):
                yield f"inventory {key.removeprefix('sku/')}", value[0] - value[1]
    if "payment" in ledgers:
        for key, value in ledgers["payment"].state().items():
            if key.startswith("account/"):
                yield f"payment {key.removeprefix('account/')}", value["balance_minor"] - value["held_minor"]
