"""Makes orders of the shape of a real shop's: basket size, SKU skew, prices and customers, from a seed.

The numbers are measured on "Online Retail" (D. Chen, UCI Machine Learning Repository, 2015, doi:10.24432/C5BW33), the
18,402 orders of known customers, 2010-12 to 2011-12.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Protocol

from loadgen.baskets import Baskets, Line

SKUS = 3_659
CUSTOMERS = 4_334
DISTINCT_MAX = 20_000  # about a year of orders; a longer run repeats them, so that memory stays bounded

Curve = Sequence[tuple[float, float]]  # (probability, value), both rising

LINES_PER_ORDER: Curve = (
    (0.0, 1), (0.05, 1), (0.25, 7), (0.5, 15), (0.75, 28), (0.9, 48), (0.95, 65), (0.99, 111), (0.9995, 350),
    (1.0, 541))
QUANTITY_PER_LINE: Curve = (
    (0.0, 1), (0.25, 1), (0.5, 3), (0.75, 11), (0.9, 24), (0.95, 30), (0.99, 100), (0.999, 436), (1.0, 2_000))
PRICE_MINOR_PER_LINE: Curve = (
    (0.0, 4), (0.01, 29), (0.05, 42), (0.1, 65), (0.25, 125), (0.5, 208), (0.75, 413), (0.9, 762), (0.95, 995),
    (0.99, 1_663), (0.999, 3_329), (1.0, 64_950))
ORDERS_PER_CUSTOMER: Curve = (
    (0.0, 1), (0.347, 1), (0.5, 2), (0.75, 5), (0.9, 9), (0.95, 13), (0.99, 30), (0.999, 90), (1.0, 206))
RANKS_BY_SHARE: Curve = (
    (0.0, 0), (0.005, 1), (0.035, 10), (0.2, 100), (0.46, 366), (0.75, 1_000), (0.93, 2_000), (1.0, SKUS))
COUNTRIES = (
    ("United Kingdom", 17_901), ("Germany", 443), ("France", 382), ("EIRE", 282), ("Belgium", 98), ("Netherlands", 93),
    ("Spain", 88), ("Australia", 56), ("Switzerland", 50), ("Portugal", 50))
CHEAP_IS_MANY = 0.6  # share of lines whose quantity follows the price; gives the measured mean value of an order
TABLE = 65_536  # cells of a tabulated curve
PRICE_PERCENTS = (100, 100, 100, 85, 115)  # a SKU has about four prices in a year: the price belongs to the line


@dataclass(frozen=True, slots=True)
class LineRange:
    """Lines per order, uniformly from `least` to `most`, instead of the measured distribution."""

    least: int
    most: int


class Shape(StrEnum):
    """Which orders are made."""

    RETAIL = "retail"  # as measured
    UNIFORM = "uniform"  # one to three lines, every SKU and customer as likely as any other
    HOT = "hot"  # one line of one unit, always of the same SKU


_LINES = {Shape.UNIFORM: LineRange(1, 3), Shape.HOT: LineRange(1, 1)}


class _Catalogue(Protocol):
    """Draws the parts of an order."""

    def customer(self, draw: random.Random) -> tuple[str, str]:
        """A customer and the country."""

    def line(self, draw: random.Random) -> Line:
        """One line."""


def make_baskets(
    orders: int, seed: int, lines: LineRange | None = None, shape: Shape = Shape.RETAIL, *, part: int = 0,
) -> Baskets:
    """Orders of a shape; the same arguments give the same orders.

    Args:
        orders: how many; at most `DISTINCT_MAX` are made.
        seed: of every draw.
        lines: overrides the number of lines per order.
        shape: of the orders.
        part: other orders, of the same shop: one of several processes that place them.
    """
    draw = random.Random(f"{seed + part}/orders")
    shop: _Catalogue = _Shop(seed) if shape is Shape.RETAIL else _Even(seed, SKUS if shape is Shape.UNIFORM else 1)
    lines = lines or _LINES.get(shape)
    sizes = _table(LINES_PER_ORDER)
    baskets = Baskets()
    for number in range(min(orders, DISTINCT_MAX)):
        size = draw.randint(lines.least, lines.most) if lines else sizes[int(draw.random() * TABLE)]
        customer, country = shop.customer(draw)
        baskets.add(str(500_000 + number), customer, country, [shop.line(draw) for _ in range(size)])
    return baskets


class _Even:
    """Every SKU and every customer is as likely as any other; one unit a line."""

    def __init__(self, seed: int, skus: int) -> None:
        draw = random.Random(f"{seed}/shop")
        self._skus = [f"{number:05d}" for number in draw.sample(range(10_000, 95_000), skus)]
        self._prices = [draw.randint(100, 999) for _ in self._skus]

    def customer(self, draw: random.Random) -> tuple[str, str]:
        """Any customer, at home."""
        return str(12_346 + draw.randrange(CUSTOMERS)), COUNTRIES[0][0]

    def line(self, draw: random.Random) -> Line:
        """One unit of any SKU."""
        number = draw.randrange(len(self._skus))
        return Line(self._skus[number], 1, self._prices[number])


class _Shop:
    """The catalogue and the customers, fixed by the seed."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(f"{seed}/shop")
        self._skus = [f"{number:05d}" for number in draw.sample(range(10_000, 95_000), SKUS)]
        self._dear = [draw.random() for _ in range(SKUS)]
        self._prices = [round(_at(PRICE_MINOR_PER_LINE, dear)) for dear in self._dear]
        self._ranks = [int(_at(RANKS_BY_SHARE, (n + 0.5) / TABLE, linear=True)) for n in range(TABLE)]
        self._quantities = _table(QUANTITY_PER_LINE)
        weights = (_at(ORDERS_PER_CUSTOMER, (number + 0.5) / CUSTOMERS) for number in range(CUSTOMERS))
        self._customers = list(accumulate(weights))
        names = [name for name, _ in COUNTRIES]
        self._countries = draw.choices(names, [orders for _, orders in COUNTRIES], k=CUSTOMERS)

    def customer(self, draw: random.Random) -> tuple[str, str]:
        """A customer, as often as real ones order, and the country."""
        number = bisect_right(self._customers, draw.random() * self._customers[-1], hi=CUSTOMERS - 1)
        return str(12_346 + number), self._countries[number]

    def line(self, draw: random.Random) -> Line:
        """One line: SKU by the measured skew, a quantity that is smaller for dear goods, one of the SKU's prices."""
        rank = self._ranks[int(draw.random() * TABLE)]
        many = 1 - self._dear[rank] if draw.random() < CHEAP_IS_MANY else draw.random()
        percent = PRICE_PERCENTS[int(draw.random() * len(PRICE_PERCENTS))]
        price = max(1, self._prices[rank] * percent // 100)
        return Line(self._skus[rank], self._quantities[min(int(many * TABLE), TABLE - 1)], price)


def _table(curve: Curve) -> list[int]:
    return [round(_at(curve, (number + 0.5) / TABLE)) for number in range(TABLE)]


def _at(curve: Curve, probability: float, *, linear: bool = False) -> float:
    """The curve's value there; it grows geometrically between two knots unless it is to be linear."""
    upper = next(index for index in range(1, len(curve)) if probability <= curve[index][0])
    (p0, v0), (p1, v1) = curve[upper - 1], curve[upper]
    part = (probability - p0) / (p1 - p0)
    if linear:
        return v0 + (v1 - v0) * part
    return v0 * math.exp(math.log(v1 / v0) * part)
