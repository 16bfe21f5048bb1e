"""Matches credit notes to the orders they give back; nothing in the data links the two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.baskets import Baskets, Line
from loadgen.trace import CreditNote


@dataclass(frozen=True, slots=True)
class Return:
    """What one credit note gives back of one order.

    Attributes:
        note: the credit note's invoice number.
        after: how many orders had begun before it, in file order.
        order: position of the order among the baskets.
        lines: what comes back.
    """

    note: str
    after: int
    order: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Returns:
    """Matched returns in file order, and how many credit note lines had no earlier sale that fits."""

    matched: Sequence[Return]
    unmatched_lines: int


@dataclass(slots=True)
class _Sold:
    """What is left to give back of one order line."""

    order: int
    left: int


_Goods = tuple[str, str, int]  # customer, sku, price


def match_returns(baskets: Baskets, notes: Sequence[CreditNote]) -> Returns:
    """Give every credit note line to the latest earlier order line that fits.

    It fits where customer, SKU and price are the same and as many units are left of it as come back. Notes without
    orders before them, or of goods sold before the trace begins, stay unmatched.
    """
    wanted = {(note.customer, line.sku, line.unit_price_minor) for note in notes for line in note.lines}
    sold: defaultdict[_Goods, list[_Sold]] = defaultdict(list)
    position = unmatched = 0
    matched: list[Return] = []
    for note in notes:
        while position < note.after:
            _sell(baskets, position, wanted, sold)
            position += 1
        by_order, missed = _match(note, sold)
        unmatched += missed
        matched += [Return(note.invoice, note.after, order, tuple(lines)) for order, lines in sorted(by_order.items())]
    return Returns(matched, unmatched)


def _sell(baskets: Baskets, position: int, wanted: set[_Goods], sold: dict[_Goods, list[_Sold]]) -> None:
    customer = baskets.customer(position)
    for line in baskets.lines(position):
        goods = (customer, line.sku, line.unit_price_minor)
        if goods in wanted:
            sold[goods].append(_Sold(position, line.quantity))


def _match(note: CreditNote, sold: dict[_Goods, list[_Sold]]) -> tuple[dict[int, list[Line]], int]:
    by_order: defaultdict[int, list[Line]] = defaultdict(list)
    missed = 0
    for line in note.lines:
        sales = sold.get((note.customer, line.sku, line.unit_price_minor), [])
        sale = next((sale for sale in reversed(sales) if sale.left >= line.quantity), None)
        if sale is None:
            missed += 1
        else:
            sale.left -= line.quantity
            by_order[sale.order].append(line)
    return by_order, missed
