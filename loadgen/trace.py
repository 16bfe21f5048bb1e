"""Reads an Online Retail CSV (plain or .xz) into baskets and credit notes; rows that are no order lines are counted.

Columns and oddities: D. Chen, "Online Retail", UCI Machine Learning Repository, 2015, doi:10.24432/C5BW33 (CC BY 4.0).
"""

from __future__ import annotations

import csv
import lzma
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from actors.fields import AMOUNT_MINOR_MAX, QUANTITY_MAX
from loadgen.baskets import Baskets, Line
from orchestrator.errors import DefiniteError, ErrorCode

REQUIRED = ("InvoiceNo", "StockCode", "Quantity", "UnitPrice", "CustomerID")
OPTIONAL = ("InvoiceDate", "Country")
BAD_ROWS_SHOWN = 5
_CACHE = 65_536

# Twelve digits at most: longer numbers could be taken for card numbers, which the services refuse.
_SALE = re.compile(r"[0-9]{1,12}")
_CREDIT_NOTE = re.compile(r"[Cc][0-9]{1,12}")
_PRODUCT = re.compile(r"[0-9]{5}[A-Z]{0,2}")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_MONEY = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?")
_CUSTOMER = re.compile(r"([0-9]{1,12})(\.0)?")


class Skipped(StrEnum):
    """Why a row is no line of an order to place."""

    CREDIT_NOTE = "credit_note"
    OTHER_INVOICE = "other_invoice"
    QUANTITY_NOT_POSITIVE = "quantity_not_positive"
    PRICE_NOT_POSITIVE = "price_not_positive"  # also a price below half a penny, which rounds to nothing
    NOT_A_PRODUCT = "not_a_product"
    NO_CUSTOMER = "no_customer"
    BAD_ROW = "bad_row"


@dataclass(frozen=True, slots=True)
class CreditNote:
    """Goods that came back; `after` is the number of orders that had begun before it, quantities are positive."""

    invoice: str
    customer: str
    after: int
    lines: list[Line]


@dataclass(slots=True)
class Trace:
    """A file's orders in file order, its credit notes, and an account of every row."""

    baskets: Baskets
    credit_notes: list[CreditNote]
    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)  # the first few bad rows, in words


class _BadCellError(Exception):
    """A cell that cannot be parsed."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"column {column}: {problem}")


def read_trace(path: Path, *, skip_bad: bool = False) -> Trace:
    """Read a whole trace.

    Args:
        path: CSV with a header, UTF-8; `.xz` is decompressed.
        skip_bad: count rows that cannot be parsed instead of raising.

    Raises:
        DefiniteError: E_TRACE_ROW naming row and column, E_INVALID_INPUT where the file cannot be opened.
    """
    sorter = _Sorter(skip_bad=skip_bad)
    try:
        with _open(path) as text:
            for line, cells in _records(text):
                sorter.add(line, cells)
    except FileNotFoundError:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"trace: there is no file {path}") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        where = f"after row {sorter.trace.rows}" if sorter.trace.rows else "from its start"
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"trace: {path} cannot be read {where}: {error}") from None
    return sorter.finish(path)


def _open(path: Path) -> TextIO:
    # Descriptions in other encodings are not used here: an undecodable byte there must not cost the row.
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _records(text: TextIO) -> Iterator[tuple[int, list[str] | csv.Error]]:
    reader = csv.reader(text, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, error
        else:
            if cells:
                yield reader.line_num, cells


class _Sorter:
    """Sorts rows into orders, credit notes and the rest."""

    def __init__(self, *, skip_bad: bool) -> None:
        self.trace = Trace(Baskets(), [])
        self._skip_bad = skip_bad
        self._width = 0
        self._at: tuple[int, ...] = ()
        self._orders: dict[str, tuple[str, str, list[Line]]] = {}
        self._notes: dict[str, CreditNote] = {}

    def add(self, line: int, cells: list[str] | csv.Error) -> None:
        """Take one record; the first one is the header."""
        if not self._at:
            self._header(cells)
            return
        self.trace.rows += 1
        try:
            reason = self._sort(cells)
        except _BadCellError as error:
            reason = self._bad(f"row {self.trace.rows} (line {line} of the file), {error}")
        if reason is not None:
            self.trace.skipped[reason] += 1

    def finish(self, path: Path) -> Trace:
        """The trace, once every row was added."""
        if not self._at:
            needed = ", ".join(REQUIRED)
            raise DefiniteError(ErrorCode.TRACE_ROW, f"trace: {path} is empty; it needs a header naming {needed}")
        for invoice, (customer, country, lines) in self._orders.items():
            self.trace.baskets.add(invoice, customer, country, lines)
        self.trace.credit_notes.extend(self._notes.values())
        return self.trace

    def _header(self, cells: list[str] | csv.Error) -> None:
        names = [] if isinstance(cells, csv.Error) else [cell.strip() for cell in cells]
        for name in REQUIRED:
            if name not in names:
                raise DefiniteError(ErrorCode.TRACE_ROW, f"trace: the header (line 1) has no column {name}")
        self._width = len(names)
        self._at = tuple(names.index(name) if name in names else -1 for name in REQUIRED + OPTIONAL)

    def _bad(self, problem: str) -> Skipped:
        if not self._skip_bad:
            raise DefiniteError(ErrorCode.TRACE_ROW, f"trace: {problem}; mend the row, or pass --skip-bad")
        if len(self.trace.bad) < BAD_ROWS_SHOWN:
            self.trace.bad.append(problem)
        return Skipped.BAD_ROW

    def _sort(self, cells: list[str] | csv.Error) -> Skipped | None:
        if isinstance(cells, csv.Error):
            raise _BadCellError("unknown", f"not CSV ({cells})")
        if len(cells) != self._width:
            raise _BadCellError("count", f"{len(cells)} cells, the header has {self._width}")
        at = self._at
        invoice, sku = cells[at[0]].strip(), cells[at[1]].strip().upper()
        quantity, price = _quantity(cells[at[2]]), _pence(cells[at[3]])
        customer = _customer(cells[at[4]])
        if at[5] >= 0:
            _check_date(cells[at[5]])
        if not invoice:
            raise _BadCellError("InvoiceNo", "empty")
        reason = _judge(invoice, sku, quantity, price, customer)
        if reason is None:
            country = cells[at[6]].strip() if at[6] >= 0 else ""
            self._sale(invoice, customer, country, Line(sku, quantity, price))
        elif reason is Skipped.CREDIT_NOTE and _judge("0", sku, -quantity, price, customer) is None:
            self._credit(invoice.upper(), customer, Line(sku, -quantity, price))
        return reason

    def _sale(self, invoice: str, customer: str, country: str, line: Line) -> None:
        order = self._orders.get(invoice)
        if order is None:
            self._orders[invoice] = (customer, country or "Unspecified", [line])
        elif order[0] != customer:
            raise _BadCellError("CustomerID", f"invoice {invoice} has two customers")
        else:
            order[2].append(line)

    def _credit(self, invoice: str, customer: str, line: Line) -> None:
        note = self._notes.get(invoice)
        if note is None:
            note = self._notes[invoice] = CreditNote(invoice, customer, len(self._orders), [])
        if note.customer == customer:
            note.lines.append(line)


def _judge(invoice: str, sku: str, quantity: int, price: int, customer: str) -> Skipped | None:
    if not _SALE.fullmatch(invoice):
        return Skipped.CREDIT_NOTE if _CREDIT_NOTE.fullmatch(invoice) else Skipped.OTHER_INVOICE
    if quantity <= 0:
        return Skipped.QUANTITY_NOT_POSITIVE
    if price <= 0:
        return Skipped.PRICE_NOT_POSITIVE
    if not _PRODUCT.fullmatch(sku):
        return Skipped.NOT_A_PRODUCT
    return None if customer else Skipped.NO_CUSTOMER


@lru_cache(_CACHE)
def _quantity(text: str) -> int:
    if not _WHOLE.fullmatch(text.strip()):
        raise _BadCellError("Quantity", f"{text[:40]!r} is not a whole number")
    quantity = int(text)
    if abs(quantity) > QUANTITY_MAX:
        raise _BadCellError("Quantity", f"{quantity} is beyond {QUANTITY_MAX}")
    return quantity


@lru_cache(_CACHE)
def _pence(text: str) -> int:
    if not _MONEY.fullmatch(text.strip()):
        raise _BadCellError("UnitPrice", f"{text[:40]!r} is not an amount of pounds such as 2.55")
    pence = int((Decimal(text.strip()) * 100).to_integral_value(ROUND_HALF_EVEN))
    if abs(pence) > AMOUNT_MINOR_MAX:
        raise _BadCellError("UnitPrice", f"{text[:40]!r} is beyond {AMOUNT_MINOR_MAX} pence")
    return pence


@lru_cache(_CACHE)
def _customer(text: str) -> str:
    text = text.strip()
    found = _CUSTOMER.fullmatch(text)
    if text and not found:
        raise _BadCellError("CustomerID", f"{text[:40]!r} is not a number of at most 12 digits")
    return found[1] if found else ""


@lru_cache(1_024)
def _check_date(text: str) -> None:
    """Dates are only checked: a replay keeps the sequence, not the pace. The publisher itself writes 12/1/2010 8:26."""
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            datetime.strptime(text.strip(), "%m/%d/%Y %H:%M")  # noqa: DTZ007 - local time of the shop, only checked
        except ValueError:
            raise _BadCellError("InvoiceDate", f"{text[:40]!r} is not a date such as 2010-12-01 08:26:00") from None
