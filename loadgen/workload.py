"""What one run places: orders with ids of their own, returns once their order has committed, and the books before both."""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from enum import IntEnum
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, Protocol

from actors.fields import AMOUNT_MINOR_MAX, STOCK_QUANTITY_MAX
from loadgen.baskets import Baskets, Line
from loadgen.returns import Return
from orchestrator.errors import DefiniteError, ErrorCode

PLACE_ORDER, RETURN_ITEMS, OPEN_BOOKS = "place_order", "return_items", "open_books"
BOOKS_CHUNK = 1_000  # lines of one opening transaction
BOOKS_ATTEMPTS_MAX = 50
PHONE_ENDINGS = "02468"  # of the customers that gave a telephone number; numbers are from the range kept for fiction


class Told(IntEnum):
    """What the driver was told about one transaction; one byte each."""

    __hash__ = int.__hash__  # that of an enumeration is no less right, and slower: these are counted for every order

    NOTHING = 0
    COMMITTED = 1
    ABORTED = 2
    REJECTED = 3  # definite: it was never begun
    UNKNOWN = 4  # nobody answered within the driver's patience


class Work(NamedTuple):
    """One transaction to submit; `number` identifies it within its feed."""

    number: int
    saga: str
    key: str
    input: Any  # plain data, or the saga's model


class Feed(Protocol):
    """Where a driver gets its work; used under the driver's lock."""

    def take(self) -> Work | None:
        """The next transaction to submit; None: nothing at the moment, or ever if none is in flight."""

    def again(self, number: int) -> Work:
        """The same transaction once more, for a repeated submit."""

    def settle(self, number: int, told: Told, code: str) -> None:
        """What became of it."""


class OrderlyFeed(Feed, Protocol):
    """The feed of a source."""

    @property
    def skipped(self) -> int:
        """Transactions that were not placed, since another one that they follow did not commit."""


class Source(Protocol):
    """Where the transactions of a run come from: a workload is one."""

    @property
    def run(self) -> str:
        """The token in its ids and keys."""

    @property
    def orders(self) -> int:
        """How many orders there are at most."""

    @property
    def orders_are(self) -> frozenset[str]:
        """Sagas that count as orders."""

    def feed(self) -> OrderlyFeed:
        """The transactions, from the first one."""

    def opening(self) -> Feed:
        """What has to commit before the first one is placed."""

    def contents(self, orders: int) -> dict[str, int]:
        """What so many orders contain, by name."""


class Numbered:
    """A feed of transactions that do not depend on each other.

    Args:
        work: makes one by its number.
        orders: how many.
    """

    skipped = 0

    def __init__(self, work: Callable[[int], Work], orders: int) -> None:
        self._work, self._orders = work, orders
        self._next = 0

    def take(self) -> Work | None:
        """See `Feed.take`."""
        if self._next == self._orders:
            return None
        self._next += 1
        return self._work(self._next - 1)

    def again(self, number: int) -> Work:
        """See `Feed.again`."""
        return self._work(number)

    def settle(self, number: int, told: Told, code: str) -> None:
        """See `Feed.settle`; nothing follows from it."""


def new_run() -> str:
    """A token of 12 letters, unique to a run; it has no digits, so that no id made of it looks like a card number."""
    token = f"{int(time.time()):08x}{secrets.token_hex(2)}"
    return token.translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop"))


class Workload:
    """The transactions of a run, by number: orders first, then the returns.

    Args:
        baskets: contents; repeated, with ids of their own, where `orders` asks for more.
        orders: how many orders to place.
        run: token that makes ids and keys unique on the data directory.
        returns: what comes back, in file order.
        stock_share: opening stock as a share of what the orders need; None: enough.
    """

    def __init__(
        self,
        baskets: Baskets,
        *,
        orders: int,
        run: str,
        returns: Sequence[Return] = (),
        stock_share: Decimal | None = None,
    ) -> None:
        if not len(baskets):
            raise DefiniteError(ErrorCode.INVALID_INPUT, "trace: it holds no order that can be placed")
        self.baskets, self.orders, self.run, self.matched = baskets, orders, run, returns
        self.round = len(baskets)
        self.demand = baskets.demand(orders)
        rounds, rest = divmod(orders, self.round)
        self.returns = rounds * len(returns) + sum(item.after <= rest for item in returns)
        self._stock_share = stock_share
        self._customers: dict[tuple[str, str], dict[str, Any]] = {}  # what their orders have in common

    @property
    def orders_are(self) -> frozenset[str]:
        """See `Source.orders_are`."""
        return frozenset({PLACE_ORDER})

    def feed(self) -> OrderFeed:
        """See `Source.feed`."""
        return OrderFeed(self)

    def opening(self) -> BooksFeed:
        """See `Source.opening`."""
        return BooksFeed(self.run, self.opening_books())

    def contents(self, orders: int) -> dict[str, int]:
        """See `Source.contents`."""
        demand = self.demand if orders == self.orders else self.baskets.demand(orders)
        return {"lines": demand.lines, "units": demand.units, "amount_minor": demand.amount_minor}

    def work(self, number: int) -> Work:
        """The transaction of that number."""
        return self._order(number) if number < self.orders else self._return(number - self.orders)

    def opening_books(self) -> list[dict[str, Any]]:
        """Inputs of the transactions that bring in this run's stock and credit."""
        stock = in_chunks(_stock_lines(self.demand.units_by_sku, self._stock_share))
        accounts = in_chunks(_account_lines(self.demand.minor_by_customer))
        return [{"stock": lines, "accounts": []} for lines in stock] + [{"stock": [], "accounts": a} for a in accounts]

    def order_of(self, returned: int) -> int:
        """The number of the order that a return (counted from 0) gives back."""
        repetition, position = divmod(returned, len(self.matched))
        return repetition * self.round + self.matched[position].order

    def number_of(self, key: str) -> int | None:
        """The number of the transaction of that key; None if it is not an order or return of this run."""
        run, *middle = key.split("-")
        if run != self.run or not middle:
            return None
        repetition = middle.pop()
        position = self._positions.get(tuple(middle))
        if position is None or not repetition.isdecimal():
            return None
        if position < self.round:
            return int(repetition) * self.round + position
        return self.orders + int(repetition) * len(self.matched) + position - self.round

    @cached_property
    def _positions(self) -> dict[tuple[str, ...], int]:
        """Positions in one repetition, orders first, by what their keys hold between run and repetition."""
        names: list[tuple[str, ...]] = [(self.baskets.invoice(position),) for position in range(self.round)]
        names += [(item.note, self.baskets.invoice(item.order)) for item in self.matched]
        return {name: position for position, name in enumerate(names)}

    def order_id(self, number: int) -> str:
        """Id and key of one order: run, invoice, repetition."""
        repetition, position = divmod(number, self.round)
        return f"{self.run}-{self.baskets.invoice(position)}-{repetition}"

    def _return_id(self, returned: int) -> str:
        repetition, position = divmod(returned, len(self.matched))
        item = self.matched[position]
        return f"{self.run}-{item.note}-{self.baskets.invoice(item.order)}-{repetition}"

    def _order(self, number: int) -> Work:
        position = number % self.round
        order_id, customer = self.order_id(number), self.baskets.customer(position)
        lines, amount = _lines(self.baskets.lines(position))
        known = self._customers.get((customer, self.baskets.country(position)))
        if known is None:
            known = self._customers[customer, self.baskets.country(position)] = _customer(
                customer, self.baskets.country(position))
        return Work(number, PLACE_ORDER, order_id, {
            "order_id": order_id, "customer": customer, "lines": lines, "amount_minor": amount, **known})

    def _return(self, returned: int) -> Work:
        order = self.order_of(returned)
        return_id = self._return_id(returned)
        lines, amount = _lines(self.matched[returned % len(self.matched)].lines)
        return Work(self.orders + returned, RETURN_ITEMS, return_id, {
            "return_id": return_id,
            "order_id": self.order_id(order),
            "customer": self.baskets.customer(order % self.round),
            "lines": lines,
            "amount_minor": amount,
        })


class OrderFeed:
    """Orders in sequence; a return at its place in it, but never before its order has committed.

    Attributes:
        told: one byte (`Told`) for every order that was taken, by number.
        skipped: returns whose order did not commit.
    """

    def __init__(self, workload: Workload) -> None:
        self.told = bytearray()
        self.skipped = 0
        self._workload = workload
        self._next_return = 0
        self._ready: deque[int] = deque()
        self._waiting: dict[int, list[int]] = {}

    def take(self) -> Work | None:
        """See `Feed.take`."""
        if self._ready:
            return self._workload.work(self._ready.popleft())
        if len(self.told) == self._workload.orders:
            return None
        number = len(self.told)
        self.told.append(Told.NOTHING)
        self._pass_returns()
        return self._workload.work(number)

    def again(self, number: int) -> Work:
        """See `Feed.again`."""
        return self._workload.work(number)

    def settle(self, number: int, told: Told, code: str) -> None:  # noqa: ARG002 - part of the port
        """See `Feed.settle`."""
        if number < len(self.told):
            self.told[number] = told
        for returned in self._waiting.pop(number, ()):
            self._consider(returned, told)

    def _pass_returns(self) -> None:
        """Come to the returns that stand between the order just taken and the next one."""
        workload = self._workload
        while self._next_return < workload.returns:
            repetition, position = divmod(self._next_return, len(workload.matched))
            if repetition * workload.round + workload.matched[position].after > len(self.told):
                return
            order = workload.order_of(self._next_return)
            told = Told(self.told[order])
            if told is Told.NOTHING:
                self._waiting.setdefault(order, []).append(self._next_return)
            else:
                self._consider(self._next_return, told)
            self._next_return += 1

    def _consider(self, returned: int, order_told: Told) -> None:
        if order_told is Told.COMMITTED:
            self._ready.append(self._workload.orders + returned)
        else:
            self.skipped += 1


class BooksFeed:
    """The opening transactions; one that aborted (simulated faults may decline it) is placed again under a new key.

    Args:
        run: token in the keys.
        inputs: one a transaction.
        saga: that opens the books.

    Raises:
        DefiniteError: from `settle`, with the code of the refusal, where one is refused again and again; the orders
            have not been placed.
    """

    def __init__(self, run: str, inputs: Sequence[dict[str, Any]], saga: str = OPEN_BOOKS) -> None:
        self._run, self._inputs, self._saga = run, inputs, saga
        self._ready = deque(range(len(inputs)))
        self._attempts: Counter[int] = Counter()

    def take(self) -> Work | None:
        """See `Feed.take`."""
        return self.again(self._ready.popleft()) if self._ready else None

    def again(self, number: int) -> Work:
        """See `Feed.again`."""
        return Work(number, self._saga, f"{self._run}-books-{number}-{self._attempts[number]}", self._inputs[number])

    def settle(self, number: int, told: Told, code: str) -> None:
        """See `Feed.settle`."""
        if told is Told.COMMITTED:
            return
        self._attempts[number] += 1
        if told is not Told.ABORTED or self._attempts[number] >= BOOKS_ATTEMPTS_MAX:
            raise DefiniteError(code or ErrorCode.UNREACHABLE, "the opening stock and credit could not be brought in")
        self._ready.append(number)


def _customer(customer: str, country: str) -> dict[str, Any]:
    return {
        "currency": "GBP",
        "card_token": f"tok_{customer}",
        "address": {"name": f"Customer {customer}", "street": "1 High Street", "city": "Town", "country": country},
        "email": f"customer-{customer}@example.com",
        "phone": f"+44 20 7946 0{customer[-3:]:0>3}" if customer[-1] in PHONE_ENDINGS else None,
    }


def _lines(lines: Sequence[Line]) -> tuple[list[dict[str, Any]], int]:
    amount = 0
    plain = []
    for sku, quantity, price in lines:
        plain.append({"sku": sku, "quantity": quantity, "unit_price_minor": price})
        amount += quantity * price
    return plain, amount


def _stock_lines(units_by_sku: Mapping[str, int], share: Decimal | None) -> Iterator[dict[str, Any]]:
    for sku, needed in units_by_sku.items():
        # At least one unit, so that a short SKU is out of stock rather than unknown.
        units = needed if share is None else max(1, int((needed * share).to_integral_value(ROUND_HALF_EVEN)))
        for part in in_parts(units, STOCK_QUANTITY_MAX):
            yield {"sku": sku, "quantity": part}


def _account_lines(minor_by_customer: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for customer, needed in minor_by_customer.items():
        for part in in_parts(needed, AMOUNT_MINOR_MAX):
            yield {"account": customer, "amount_minor": part}


def in_parts(whole: int, part_max: int) -> Iterator[int]:
    """A number as parts that a line may have, which add up to it."""
    while whole > part_max:
        yield part_max
        whole -= part_max
    yield whole


def in_chunks(lines: Iterator[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Lines of opening books, as many together as one transaction brings in."""
    chunks = []
    while chunk := list(islice(lines, BOOKS_CHUNK)):
        chunks.append(chunk)
    return chunks
