"""Inventory's conservation checks: state, order records and ledger rows say the same, each computed on its own."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.findings import HELD, SETTLED, Findings
from orchestrator.app import LedgerRow, ServiceAudit

Sums = defaultdict[str, int]


@dataclass(slots=True)
class _Rows:
    """Units by SKU as the ledger rows have them."""

    reserved: Sums = field(default_factory=lambda: defaultdict(int))
    sold: Sums = field(default_factory=lambda: defaultdict(int))
    returning: Sums = field(default_factory=lambda: defaultdict(int))
    returned: Sums = field(default_factory=lambda: defaultdict(int))
    received: Sums = field(default_factory=lambda: defaultdict(int))
    reservations: int = 0

    def add(self, row: LedgerRow) -> None:
        """Count one row by its request, so that a wrong result shows."""
        if row.operation == "reserve":
            self.reservations += row.state == HELD
            self._units(row, self.reserved, self.sold)
        elif row.operation == "restock":
            self._units(row, self.returning, self.returned)
        elif row.operation == "receive" and row.state == SETTLED:
            for line in row.request["lines"]:
                self.received[line["sku"]] += line["quantity"]

    @staticmethod
    def _units(row: LedgerRow, held: Sums, settled: Sums) -> None:
        sums = held if row.state == HELD else settled if row.state == SETTLED else None
        if sums is not None:
            for sku, quantity in row.request["lines"]:
                sums[sku] += quantity


@dataclass(slots=True)
class _Orders:
    """Units by SKU as the order records in the state have them."""

    sold: Sums = field(default_factory=lambda: defaultdict(int))
    claimed: Sums = field(default_factory=lambda: defaultdict(int))
    reserved: int = 0

    def add(self, key: str, record: Any, findings: Findings) -> None:
        """Count one record; no more may be claimed back than was sold."""
        if not isinstance(record, dict):
            self.reserved += 1
            return
        for sku, quantity in record["sold"].items():
            self.sold[sku] += quantity
        for sku, quantity in record["claimed"].items():
            self.claimed[sku] += quantity
            findings.within(key, f"units of {sku} claimed back", quantity, record["sold"].get(sku, 0))


def audit_inventory(state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool) -> ServiceAudit:
    """Totals and violations of one snapshot; memory grows with the SKUs, not with the orders.

    Args:
        state: all keys and values.
        rows: the ledger, read once.
        purged: whether rows below the retention watermark are gone.
    """
    findings = Findings(purged=purged)
    orders = _Orders()
    stock: dict[str, list[int]] = {}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        if kind == "sku":
            stock[name] = value
        elif kind == "order":
            orders.add(key, value, findings)
    ledger = _Rows()
    for row in rows:
        ledger.add(row)
    for sku, units in stock.items():
        _check_sku(findings, sku, units, orders, ledger)
    _check_strangers(findings, stock, orders, ledger)
    findings.equal("inventory", "open reservations in the state and prepared rows", orders.reserved, ledger.reservations)
    on_hand, reserved, sold, returned, received = (sum(units[i] for units in stock.values()) for i in range(5))
    return ServiceAudit(
        {"units_sold": sold, "units_returned": returned, "units_on_hand": on_hand, "units_reserved": reserved,
         "units_received": received, "skus": len(stock)},
        findings.violations)


def _check_sku(findings: Findings, sku: str, units: list[int], orders: _Orders, ledger: _Rows) -> None:
    on_hand, reserved, sold, returned, received = units
    where = f"sku {sku}"
    findings.within(where, "units reserved of those on hand", reserved, on_hand)
    findings.equal(where, "received + returned and on hand + sold", received + returned, on_hand + sold)
    findings.equal(where, "units reserved and prepared rows", reserved, ledger.reserved[sku])
    findings.equal(where, "units sold and its orders", sold, orders.sold[sku])
    findings.equal(where, "units claimed back and returned + returning", orders.claimed[sku], returned + ledger.returning[sku])
    findings.accounted(where, "units sold", sold, ledger.sold[sku])
    findings.accounted(where, "units returned", returned, ledger.returned[sku])
    findings.accounted(where, "units received", received, ledger.received[sku])


def _check_strangers(findings: Findings, stock: Mapping[str, Any], orders: _Orders, ledger: _Rows) -> None:
    named = (orders.sold, orders.claimed, ledger.reserved, ledger.sold, ledger.returning, ledger.returned, ledger.received)
    for sku in sorted(set().union(*named) - stock.keys()):
        findings.add(f"sku {sku}: named by orders or ledger rows, absent from the stock")
