"""The services' final states against the books: C, P, X, K, A and H of stock, money, parcels and messages.

What open transactions touch is left out: their effects may be there or not yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadgen.checker.books import Account, Books, Stock
from loadgen.checker.report import CheckReport, Invariant
from loadgen.checker.stores import LedgerView

SERVICES = frozenset({"inventory", "payment", "shipping", "notification"})


def check_shop(books: Books, ledgers: Mapping[str, LedgerView], report: CheckReport) -> None:
    """Judge all four services' states.

    Args:
        books: closed.
        ledgers: by service.
        report: told what differs.
    """
    if not ledgers.keys() >= SERVICES:
        report.left_out.append("stock and money: the app is not the shop")
        return
    if books.strangers:
        names = ", ".join(sorted(books.strangers))
        report.left_out.append(f"stock and money against the decisions: the books do not know the sagas {names}")
        return
    _Inventory(books, report).check(ledgers["inventory"].state())
    _Payment(books, report).check(ledgers["payment"].state())
    _Shipping(books, report).check(ledgers["shipping"].state())
    _Notification(books, report).check(ledgers["notification"].state())
    report.counts["orders_committed"] = len(books.orders)


class _State:
    """One service's state, walked once; what the books expect and nobody has is told at the end."""

    def __init__(self, books: Books, report: CheckReport) -> None:
        self._books, self._report = books, report

    def _stranger(self, what: str, order_id: str) -> None:
        """An effect without its cause."""
        if order_id not in self._books.open_orders:
            self._report.add(Invariant.KEPT, order_id, f"{what}, but no order of that id has committed")

    def _missing(self, what: str, seen: set[str]) -> None:
        """A cause without its effect."""
        for order_id in self._books.orders.keys() - seen - self._books.open_orders:
            self._report.add(Invariant.ATOMIC, order_id, f"it has committed, but {what}")

    def _held(self, about: str, what: str, amount: int, *, is_open: bool) -> None:
        if amount < 0:
            self._report.add(Invariant.CONSERVED, about, f"{what} is {amount}", weight=-amount)
        if amount and not is_open:
            self._report.add(
                Invariant.NO_ORPHAN, about, f"{what} is {amount}, but no transaction of it is open", weight=abs(amount))


class _Inventory(_State):
    def check(self, state: Mapping[str, Any]) -> None:
        books, seen, skus = self._books, set(), set()
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "sku":
                skus.add(name)
                self._sku(name, value)
            elif kind == "order":
                seen.add(name)
                self._order(name, value)
        self._missing("inventory has no record of it", seen)
        for sku in books.stock.keys() - skus - books.open_skus:
            self._report.add(Invariant.CONSERVED, sku, f"inventory does not know it, the decisions made {books.stock[sku]}")

    def _sku(self, sku: str, units: list[int]) -> None:
        on_hand, reserved, sold, returned, received = units
        expected = self._books.stock.get(sku, Stock())
        is_open = sku in self._books.open_skus
        self._report.equal(Invariant.CONSERVED, sku, "available + held + sold - returned", on_hand + sold - returned, received)
        if on_hand < reserved or on_hand < 0:
            self._report.add(Invariant.NOT_OVERSOLD, sku, f"{on_hand} on hand, {reserved} held", weight=reserved - on_hand)
        self._held(sku, "units held", reserved, is_open=is_open)
        if not is_open:
            found = {"received": (received, expected.received), "sold": (sold, expected.sold),
                     "returned": (returned, expected.returned)}
            for what, (have, want) in found.items():
                self._report.equal(Invariant.CONSERVED, sku, f"units {what}, by the decisions,", have, want)

    def _order(self, order_id: str, record: Any) -> None:
        order = self._books.orders.get(order_id)
        if not isinstance(record, dict):
            if order_id not in self._books.open_orders:
                self._report.add(Invariant.NO_ORPHAN, order_id, "its stock is held, but no transaction of it is open")
            return
        if order is None:
            self._stranger("its stock is sold", order_id)
            return
        if order_id not in self._books.open_orders:
            self._report.equal(Invariant.EXACTLY_ONCE, order_id, "units sold", sum(record["sold"].values()), order.units)
            self._report.equal(
                Invariant.EXACTLY_ONCE, order_id, "units given back", sum(record["claimed"].values()), order.returned_units)


class _Payment(_State):
    def check(self, state: Mapping[str, Any]) -> None:
        books, seen, accounts = self._books, set(), set()
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "account":
                accounts.add(name)
                self._account(name, value)
            elif kind == "payment":
                seen.add(name)
                self._payment(name, value)
        self._missing("payment has no record of it", seen)
        for name in books.accounts.keys() - accounts - books.open_accounts:
            self._report.add(
                Invariant.CONSERVED, name, f"payment does not know it, the decisions made {books.accounts[name]}")

    def _account(self, name: str, account: Mapping[str, Any]) -> None:
        expected = self._books.accounts.get(name, Account())
        is_open = name in self._books.open_accounts
        balance, held = account["balance_minor"], account["held_minor"]
        deposited, captured, refunded = (account[f"{what}_minor"] for what in ("deposited", "captured", "refunded"))
        self._report.equal(Invariant.CONSERVED, name, "credits less debits", deposited + refunded - captured, balance)
        for what, amount in account.items():
            if what.endswith("_minor") and type(amount) is not int:
                self._report.add(Invariant.CONSERVED, name, f"{what} is a {type(amount).__name__}: {amount}")
        if balance < held or balance < 0:
            self._report.add(Invariant.NOT_OVERSOLD, name, f"balance {balance}, {held} held", weight=held - balance)
        self._held(name, "money held", held, is_open=is_open)
        if not is_open:
            found = {"deposited": (deposited, expected.deposited), "captured": (captured, expected.captured),
                     "refunded": (refunded, expected.refunded)}
            for what, (have, want) in found.items():
                self._report.equal(Invariant.CONSERVED, name, f"{what}, by the decisions,", have, want)

    def _payment(self, order_id: str, record: Mapping[str, Any]) -> None:
        order, is_open = self._books.orders.get(order_id), order_id in self._books.open_orders
        if record["phase"] != "CAPTURED":
            if not is_open:
                self._report.add(Invariant.NO_ORPHAN, order_id, "its money is held, but no transaction of it is open")
            return
        if order is None:
            if not is_open:
                text = f"{record['amount_minor']} minor units are captured, but no order of that id has committed"
                self._report.add(Invariant.PAID, order_id, text, weight=record["amount_minor"])
            return
        self._report.equal(Invariant.PAID, order_id, "captured", record["amount_minor"], order.amount_minor)
        if not is_open:
            net, price = record["amount_minor"] - record["claimed_minor"], order.amount_minor - order.refunded_minor
            self._report.equal(Invariant.PAID, order_id, "captured less refunded", net, price)
        if record["account"] != order.customer:
            self._report.add(Invariant.PAID, order_id, f"{record['account']} has paid for {order.customer}")


class _Shipping(_State):
    def check(self, state: Mapping[str, Any]) -> None:
        seen = set()
        for key, shipment in state.items():
            order_id = key.partition("/")[2]
            if shipment["phase"] == "DISPATCHED":
                seen.add(order_id)
                self._dispatched(order_id, shipment["units"])
            elif order_id not in self._books.open_orders:
                self._report.add(Invariant.NO_ORPHAN, order_id, "its parcel is kept back, but no transaction of it is open")
        self._missing("no parcel was sent", seen)

    def _dispatched(self, order_id: str, units: int) -> None:
        order = self._books.orders.get(order_id)
        if order is None:
            self._stranger("a parcel was sent", order_id)
        else:
            self._report.equal(Invariant.EXACTLY_ONCE, order_id, "units sent", units, order.units)


class _Notification(_State):
    def check(self, state: Mapping[str, Any]) -> None:
        seen: set[str] = set()
        messages = 0
        for key in state:
            order_id, _, channel = key.removeprefix("outbox/").rpartition("/")
            messages += 1
            order = self._books.orders.get(order_id)
            if order is None:
                self._stranger(f"its customer was told by {channel}", order_id)
            elif channel == "email":
                seen.add(order_id)
            elif not order.phone:
                self._report.add(Invariant.EXACTLY_ONCE, order_id, "an SMS was sent, but no telephone was given")
        self._missing("its customer was not told", seen)
        self._report.counts["messages"] = messages
