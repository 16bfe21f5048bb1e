"""What was ordered, in columns: a year of orders takes some 10 MB and can be replayed any number of times."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Line(NamedTuple):
    """One line of an order; the price is in minor units (pence) per unit."""

    sku: str
    quantity: int
    unit_price_minor: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What a number of orders needs in all: units by SKU, pence by customer, and the totals of the lines."""

    units_by_sku: dict[str, int]
    minor_by_customer: dict[str, int]
    lines: int
    units: int
    amount_minor: int


class _Names:
    """Texts by small number."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found


class Baskets:
    """Contents of orders, by position; append-only."""

    def __init__(self) -> None:
        self._skus, self._customers, self._countries = _Names(), _Names(), _Names()
        self._invoices: list[str] = []
        self._customer, self._country, self._start = array("L"), array("L"), array("L", [0])
        self._sku, self._quantity, self._price = array("L"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self._invoices)

    def add(self, invoice: str, customer: str, country: str, lines: Iterable[Line]) -> None:
        """Append one order; `invoice` is its name in the source, unique there."""
        for line in lines:
            self._sku.append(self._skus.number(line.sku))
            self._quantity.append(line.quantity)
            self._price.append(line.unit_price_minor)
        self._start.append(len(self._sku))
        self._invoices.append(invoice)
        self._customer.append(self._customers.number(customer))
        self._country.append(self._countries.number(country))

    def part(self, index: int, of: int) -> Baskets:
        """Every `of`-th order from the one at `index` on, for one of several processes."""
        found = Baskets()
        for position in range(index, len(self), of):
            found.add(self.invoice(position), self.customer(position), self.country(position), self.lines(position))
        return found

    def invoice(self, position: int) -> str:
        """The order's name in its source."""
        return self._invoices[position]

    def customer(self, position: int) -> str:
        """Who ordered."""
        return self._customers.texts[self._customer[position]]

    def country(self, position: int) -> str:
        """Where it goes."""
        return self._countries.texts[self._country[position]]

    def lines(self, position: int) -> list[Line]:
        """The order's lines as they stood, a SKU perhaps on several of them."""
        span = slice(self._start[position], self._start[position + 1])
        skus = self._skus.texts
        return [
            Line(skus[sku], quantity, price)
            for sku, quantity, price in zip(self._sku[span], self._quantity[span], self._price[span], strict=True)
        ]

    def demand(self, orders: int) -> Demand:
        """What the first `orders` orders need, the sequence being repeated where it is shorter than that."""
        rounds, rest = divmod(orders, len(self)) if len(self) else (0, 0)
        stock: Counter[str] = Counter()
        credit: Counter[str] = Counter()
        lines = units = amount = 0
        for position in range(len(self) if rounds else rest):
            times = rounds + (position < rest)
            cost = 0
            for sku, quantity, price in self.lines(position):
                stock[sku] += quantity * times
                cost += quantity * price
                units += quantity * times
                lines += times
            credit[self.customer(position)] += cost * times
            amount += cost * times
        return Demand(dict(stock), dict(credit), lines, units, amount)
