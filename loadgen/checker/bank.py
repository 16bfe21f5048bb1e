"""The bank's books as the log's decisions alone make them, and the banks' final accounts against them.

Neither a ledger nor a service's code has a say in what is expected. What open transactions touch is left out, their
effects may be there or not yet; the money of all banks together is judged where nothing is open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

import msgspec

from loadgen.checker.report import CheckReport, Invariant
from loadgen.checker.stores import LedgerView
from orchestrator.protocol.records import Begun, Decision

BANKS: Final = ("north_bank", "south_bank")
DIRECTIONS: Final = {"transfer": BANKS, "transfer_back": BANKS[::-1]}  # payer's and payee's bank by saga
OPEN_ACCOUNTS: Final = "open_accounts"


class TransferInput(msgspec.Struct):
    """The part of a transfer that the books need."""

    payer: str
    payee: str
    amount_minor: int


class OpeningLine(msgspec.Struct, gc=False):
    """Money into one account."""

    account: str
    amount_minor: int


class OpeningInput(msgspec.Struct):
    """The input of `open_accounts`."""

    north: list[OpeningLine] = []
    south: list[OpeningLine] = []


class Account(msgspec.Struct, gc=False):
    """Minor units of one account."""

    opened: int = 0
    sent: int = 0
    received: int = 0


Name = tuple[str, str]  # bank and account
_TRANSFER = msgspec.msgpack.Decoder(TransferInput)
_OPENING = msgspec.msgpack.Decoder(OpeningInput)


class BankBooks:
    """What the committed transactions add up to.

    Args:
        asked: keys of which the amounts are kept.

    Attributes:
        accounts: by bank and name.
        amounts: of those transfers that were decided, by key.
        open_accounts: those that transactions touch which have not ended.
        used: whether there was any transaction of the bank.
    """

    def __init__(self, asked: Container[str]) -> None:
        self._asked = asked
        self.accounts: defaultdict[Name, Account] = defaultdict(Account)
        self.amounts: dict[str, int] = {}
        self.open_accounts: set[Name] = set()
        self.used = False

    def decided(self, begun: Begun, decision: Decision) -> None:
        """Enter a decision; see `read_log`."""
        banks = DIRECTIONS.get(begun.saga)
        if banks is not None:
            self.used = True
            data = _TRANSFER.decode(begun.input)
            if begun.key in self._asked:
                self.amounts[begun.key] = data.amount_minor
            if decision is Decision.COMMIT:
                self.accounts[banks[0], data.payer].sent += data.amount_minor
                self.accounts[banks[1], data.payee].received += data.amount_minor
        elif begun.saga == OPEN_ACCOUNTS and decision is Decision.COMMIT:
            self.used = True
            data_in = _OPENING.decode(begun.input)
            for bank, lines in zip(BANKS, (data_in.north, data_in.south), strict=True):
                for line in lines:
                    self.accounts[bank, line.account].opened += line.amount_minor

    def close(self, open_ones: Iterable[Begun]) -> None:
        """Note what is still open."""
        for begun in open_ones:
            banks = DIRECTIONS.get(begun.saga)
            if banks is not None:
                data = _TRANSFER.decode(begun.input)
                self.open_accounts |= {(banks[0], data.payer), (banks[1], data.payee)}
            elif begun.saga == OPEN_ACCOUNTS:
                opening = _OPENING.decode(begun.input)
                for bank, lines in zip(BANKS, (opening.north, opening.south), strict=True):
                    self.open_accounts |= {(bank, line.account) for line in lines}


def check_bank(books: BankBooks, ledgers: Mapping[str, LedgerView], report: CheckReport) -> None:
    """Judge the accounts of both banks.

    Args:
        books: closed.
        ledgers: by service.
        report: told what differs (C), what is overdrawn (O), held without a cause (H), or was never opened (K).
    """
    balance = 0
    seen: set[Name] = set()
    for bank in BANKS:
        for key, account in ledgers[bank].state().items():
            name = (bank, key.removeprefix("account/"))
            seen.add(name)
            balance += account["balance_minor"]
            _check_account(name, account, books, report)
    for bank, account in books.accounts.keys() - seen - books.open_accounts:
        report.add(Invariant.KEPT, f"{bank} {account}", "decisions moved its money, the bank does not know it")
    if not books.open_accounts:
        opened = sum(account.opened for account in books.accounts.values())
        report.equal(Invariant.CONSERVED, "all accounts", "money of both banks", balance, opened)
    report.counts["accounts"] = len(seen)


def _check_account(name: Name, account: Mapping[str, Any], books: BankBooks, report: CheckReport) -> None:
    about = " ".join(name)
    balance, held, announced = account["balance_minor"], account["held_minor"], account["announced_minor"]
    if not 0 <= held <= balance:
        report.add(Invariant.NOT_OVERSOLD, about, f"a balance of {balance}, {held} of it held", weight=abs(held - balance))
    if name in books.open_accounts:
        return
    expected = books.accounts.get(name, Account())
    for what in ("opened", "sent", "received"):
        report.equal(Invariant.CONSERVED, about, f"minor units {what}", account[f"{what}_minor"], getattr(expected, what))
    report.equal(
        Invariant.CONSERVED, about, "balance", balance, expected.opened + expected.received - expected.sent)
    if held or announced:
        text = f"{held} held and {announced} announced, but no transaction of it is open"
        report.add(Invariant.NO_ORPHAN, about, text, weight=held + announced)
