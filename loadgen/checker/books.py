"""The shop's books as the log's decisions alone make them: no ledger and no service's code has a say in them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping

import msgspec

from loadgen.checker.logged import Transactions
from loadgen.checker.report import CheckReport, Invariant
from loadgen.checker.told import Claims
from loadgen.workload import OPEN_BOOKS, PLACE_ORDER, RETURN_ITEMS
from orchestrator.protocol.records import Begun, Decision


class Line(msgspec.Struct, gc=False):
    """Units of one SKU."""

    sku: str
    quantity: int


class Deposit(msgspec.Struct, gc=False):
    """Money into one account."""

    account: str
    amount_minor: int


class OrderInput(msgspec.Struct):
    """The part of `place_order`'s and `return_items`' input that the books need."""

    order_id: str
    customer: str
    lines: list[Line]
    amount_minor: int
    phone: str | None = None


class BooksInput(msgspec.Struct):
    """The input of `open_books`."""

    stock: list[Line] = []
    accounts: list[Deposit] = []


class Bought(msgspec.Struct, gc=False):
    """What one order comes to: committed, and what has been given back of it."""

    customer: str
    amount_minor: int
    units: int
    phone: bool
    times: int = 1
    refunded_minor: int = 0
    returned_units: int = 0


class Stock(msgspec.Struct, gc=False):
    """Units of one SKU."""

    received: int = 0
    sold: int = 0
    returned: int = 0


class Account(msgspec.Struct, gc=False):
    """Minor units of one account."""

    deposited: int = 0
    captured: int = 0
    refunded: int = 0


_ORDER = msgspec.msgpack.Decoder(OrderInput)
_BOOKS = msgspec.msgpack.Decoder(BooksInput)


class Books:
    """What the committed transactions add up to.

    Args:
        asked: keys of which the amounts are kept.

    Attributes:
        stock: by SKU.
        accounts: by account.
        orders: committed ones by order id.
        amounts: price of those orders and returns that were decided, by key.
        open_orders: order ids of transactions that have not ended; their effects may be there or not yet.
        open_skus: SKUs of these.
        open_accounts: accounts of these.
        strangers: transactions of sagas that the books do not know, by name.
    """

    def __init__(self, asked: Container[str]) -> None:
        self._asked = asked
        self.stock: defaultdict[str, Stock] = defaultdict(Stock)
        self.accounts: defaultdict[str, Account] = defaultdict(Account)
        self.orders: dict[str, Bought] = {}
        self.amounts: dict[str, int] = {}
        self.open_orders: set[str] = set()
        self.open_skus: set[str] = set()
        self.open_accounts: set[str] = set()
        self.strangers: Counter[str] = Counter()
        self._returns: list[OrderInput] = []

    def decided(self, begun: Begun, decision: Decision) -> None:
        """Enter a decision; see `read_log`."""
        if begun.saga in (PLACE_ORDER, RETURN_ITEMS):
            data = _ORDER.decode(begun.input)
            if begun.key in self._asked:
                self.amounts[begun.key] = data.amount_minor
            if decision is Decision.COMMIT:
                self._enter(begun.saga, data)
        elif begun.saga == OPEN_BOOKS:
            if decision is Decision.COMMIT:
                self._open(_BOOKS.decode(begun.input))
        elif begun.saga:  # a key that was cancelled before its submit came has none
            self.strangers[begun.saga] += 1

    def close(self, open_ones: Iterable[Begun]) -> None:
        """Note what is still open; then the returns are entered, whose orders are all known by now."""
        for begun in open_ones:
            self._note_open(begun)
        for data in self._returns:
            order = self.orders.get(data.order_id)
            if order is not None:
                order.refunded_minor += data.amount_minor
                order.returned_units += sum(line.quantity for line in data.lines)
        self._returns.clear()

    def _enter(self, saga: str, data: OrderInput) -> None:
        account = self.accounts[data.customer]
        if saga == RETURN_ITEMS:
            account.refunded += data.amount_minor
            for line in data.lines:
                self.stock[line.sku].returned += line.quantity
            self._returns.append(data)
            return
        account.captured += data.amount_minor
        units = 0
        for line in data.lines:
            self.stock[line.sku].sold += line.quantity
            units += line.quantity
        order = self.orders.get(data.order_id)
        if order is None:
            self.orders[data.order_id] = Bought(data.customer, data.amount_minor, units, bool(data.phone))
        else:
            order.times += 1

    def _open(self, data: BooksInput) -> None:
        for line in data.stock:
            self.stock[line.sku].received += line.quantity
        for deposit in data.accounts:
            self.accounts[deposit.account].deposited += deposit.amount_minor

    def _note_open(self, begun: Begun) -> None:
        if begun.saga in (PLACE_ORDER, RETURN_ITEMS):
            data = _ORDER.decode(begun.input)
            self.open_orders.add(data.order_id)
            self.open_accounts.add(data.customer)
            self.open_skus.update(line.sku for line in data.lines)
        elif begun.saga == OPEN_BOOKS:
            books = _BOOKS.decode(begun.input)
            self.open_skus.update(line.sku for line in books.stock)
            self.open_accounts.update(deposit.account for deposit in books.accounts)


def check_asked(
    claims: Mapping[str, Claims], amounts: Mapping[str, int], found: Transactions, report: CheckReport) -> None:
    """K: the amount that the log has is the one that the client asked for."""
    for key, claim in claims.items():
        asked = claim.asked.get("amount_minor")
        if asked is not None and key in amounts and key in found.by_key:
            report.equal(Invariant.KEPT, key, "the amount that was logged", amounts[key], asked)


def check_sold(books: Books, report: CheckReport) -> None:
    """C and P: nothing is sold or refunded twice."""
    for order_id, order in books.orders.items():
        if order.times > 1:
            report.add(Invariant.PAID, order_id, f"it was committed {order.times} times", weight=order.times)
        if order.refunded_minor > order.amount_minor:
            text = f"{order.refunded_minor} minor units were refunded of {order.amount_minor}"
            report.add(Invariant.PAID, order_id, text, weight=order.refunded_minor - order.amount_minor)
