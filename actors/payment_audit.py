"""Payment's conservation checks: accounts, payment records and ledger rows say the same, each computed on its own."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.findings import HELD, SETTLED, Findings
from orchestrator.app import LedgerRow, ServiceAudit

Sums = defaultdict[str, int]


def _sums() -> Sums:
    return defaultdict(int)


@dataclass(slots=True)
class _Rows:
    """Minor units by account as the ledger rows have them."""

    held: Sums = field(default_factory=_sums)
    captured: Sums = field(default_factory=_sums)
    refunding: Sums = field(default_factory=_sums)
    refunded: Sums = field(default_factory=_sums)
    deposited: Sums = field(default_factory=_sums)
    deposits_open: Sums = field(default_factory=_sums)

    def add(self, row: LedgerRow) -> None:
        """Count one row by its request, so that a wrong result shows."""
        if row.state not in (HELD, SETTLED):
            return
        held = row.state == HELD
        if row.operation == "deposit":
            self._deposit(row.request["lines"], held=held)
            return
        pairs = {"authorize": (self.held, self.captured), "refund": (self.refunding, self.refunded)}
        pair = pairs.get(row.operation)
        if pair is not None:
            pair[0 if held else 1][row.request["account"]] += row.request["amount_minor"]

    def _deposit(self, lines: list[dict[str, Any]], *, held: bool) -> None:
        if held:
            for account in {line["account"] for line in lines}:
                self.deposits_open[account] += 1
            return
        for line in lines:
            self.deposited[line["account"]] += line["amount_minor"]


@dataclass(slots=True)
class _Payments:
    """Minor units by account as the payment records in the state have them; one record an order, so one capture."""

    held: Sums = field(default_factory=_sums)
    captured: Sums = field(default_factory=_sums)
    claimed: Sums = field(default_factory=_sums)

    def add(self, key: str, record: Mapping[str, Any], findings: Findings) -> None:
        """Count one record; no more may be claimed back than was captured."""
        captured = record["phase"] == "CAPTURED"
        sums = self.captured if captured else self.held
        sums[record["account"]] += record["amount_minor"]
        self.claimed[record["account"]] += record["claimed_minor"]
        most = record["amount_minor"] if captured else 0
        findings.within(key, "amount claimed back", record["claimed_minor"], most)


def audit_payment(state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool) -> ServiceAudit:
    """Totals and violations of one snapshot; memory grows with the accounts, not with the orders.

    Args:
        state: all keys and values.
        rows: the ledger, read once.
        purged: whether rows below the retention watermark are gone.
    """
    findings = Findings(purged=purged)
    payments = _Payments()
    accounts: dict[str, Mapping[str, Any]] = {}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        if kind == "account":
            accounts[name] = value
        elif kind == "payment":
            payments.add(key, value, findings)
    ledger = _Rows()
    for row in rows:
        ledger.add(row)
    for name, account in accounts.items():
        _check_account(findings, name, account, payments, ledger)
    _check_strangers(findings, accounts, payments, ledger)
    names = ("captured_minor", "refunded_minor", "held_minor", "balance_minor", "deposited_minor")
    totals = {name: sum(account[name] for account in accounts.values()) for name in names}
    return ServiceAudit({**totals, "accounts": len(accounts)}, findings.violations)


def _check_account(
    findings: Findings, name: str, account: Mapping[str, Any], payments: _Payments, ledger: _Rows,
) -> None:
    where = f"account {name}"
    balance, held, deposited = account["balance_minor"], account["held_minor"], account["deposited_minor"]
    captured, refunded = account["captured_minor"], account["refunded_minor"]
    findings.within(where, "held of the balance", held, balance)
    findings.equal(where, "deposited + refunded and balance + captured", deposited + refunded, balance + captured)
    findings.equal(where, "held and its payments on hold", held, payments.held[name])
    findings.equal(where, "held and prepared rows", held, ledger.held[name])
    findings.equal(where, "captured and its payments captured", captured, payments.captured[name])
    findings.equal(where, "claimed back and refunded + refunding", payments.claimed[name], refunded + ledger.refunding[name])
    findings.equal(where, "open deposits and prepared rows", account["deposits_open"], ledger.deposits_open[name])
    findings.accounted(where, "captured", captured, ledger.captured[name])
    findings.accounted(where, "refunded", refunded, ledger.refunded[name])
    findings.accounted(where, "deposited", deposited, ledger.deposited[name])


def _check_strangers(findings: Findings, accounts: Mapping[str, Any], payments: _Payments, ledger: _Rows) -> None:
    named = (
        payments.held, payments.captured, ledger.held, ledger.captured, ledger.refunding, ledger.refunded,
        ledger.deposited, ledger.deposits_open)
    for name in sorted(set().union(*named) - accounts.keys()):
        findings.add(f"account {name}: named by payments or ledger rows, absent from the accounts")
