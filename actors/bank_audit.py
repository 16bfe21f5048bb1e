"""A bank's conservation checks: accounts and ledger rows say the same, each computed on its own.

That what leaves one bank reaches the other is for the decisions to say: see the totals of an audit, in which the money
sent by all banks is the money received once nothing is open.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.findings import HELD, SETTLED, Findings
from orchestrator.app import LedgerRow, ServiceAudit

Sums = defaultdict[str, int]
_TOTALS = ("balance_minor", "held_minor", "announced_minor", "opened_minor", "sent_minor", "received_minor")


def _sums() -> Sums:
    return defaultdict(int)


@dataclass(slots=True)
class _Rows:
    """Minor units by account as the ledger rows have them."""

    held: Sums = field(default_factory=_sums)
    sent: Sums = field(default_factory=_sums)
    announced: Sums = field(default_factory=_sums)
    received: Sums = field(default_factory=_sums)
    opened: Sums = field(default_factory=_sums)
    openings: Sums = field(default_factory=_sums)

    def add(self, row: LedgerRow) -> None:
        """Count one row by its request, so that a wrong result shows."""
        if row.state not in (HELD, SETTLED):
            return
        held = row.state == HELD
        if row.operation == "open":
            self._open(row.request["lines"], held=held)
            return
        pair = {"withdraw": (self.held, self.sent), "deposit": (self.announced, self.received)}[row.operation]
        pair[0 if held else 1][row.request["account"]] += row.request["amount_minor"]

    def _open(self, lines: list[dict[str, Any]], *, held: bool) -> None:
        if held:
            for account in {line["account"] for line in lines}:
                self.openings[account] += 1
            return
        for line in lines:
            self.opened[line["account"]] += line["amount_minor"]

    def accounts(self) -> set[str]:
        """All that are named."""
        return set().union(self.held, self.sent, self.announced, self.received, self.opened, self.openings)


def audit_accounts(state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool) -> ServiceAudit:
    """Totals and violations of one snapshot; memory grows with the accounts, not with the transfers.

    Args:
        state: all keys and values.
        rows: the ledger, read once.
        purged: whether rows below the retention watermark are gone.
    """
    findings = Findings(purged=purged)
    ledger = _Rows()
    for row in rows:
        ledger.add(row)
    totals = dict.fromkeys(_TOTALS, 0)
    names = set()
    for key, account in state.items():
        name = key.removeprefix("account/")
        names.add(name)
        for total in _TOTALS:
            totals[total] += account[total]
        _check_account(findings, name, account, ledger)
    for name in sorted(ledger.accounts() - names):
        findings.add(f"account {name}: named by ledger rows, absent from the accounts")
    return ServiceAudit({**totals, "accounts": len(names)}, findings.violations)


def _check_account(findings: Findings, name: str, account: Mapping[str, Any], ledger: _Rows) -> None:
    where = f"account {name}"
    balance, held, sent, received = (account[f"{what}_minor"] for what in ("balance", "held", "sent", "received"))
    findings.within(where, "held of the balance", held, balance)
    findings.equal(where, "opened + received and balance + sent", account["opened_minor"] + received, balance + sent)
    findings.equal(where, "held and prepared rows", held, ledger.held[name])
    findings.equal(where, "announced and prepared rows", account["announced_minor"], ledger.announced[name])
    findings.equal(where, "openings and prepared rows", account["openings"], ledger.openings[name])
    findings.accounted(where, "sent", sent, ledger.sent[name])
    findings.accounted(where, "received", received, ledger.received[name])
    findings.accounted(where, "opened", account["opened_minor"], ledger.opened[name])
