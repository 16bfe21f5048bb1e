"""A page of transactions as a table of a given width."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from orchestrator.log.reader import TransactionSummary
from orchestrator.protocol.records import Parked
from orchestrator.terminal.list_view import transactions_table

NOW = 1_700_000_000_000
ID = "018bcfe5680007000000010000000001"
ABORTED = TransactionSummary(
    ID, "key", "place_order", 1, "aborted", "order-1", NOW - 200_000, NOW, NOW, NOW, "OUT_OF_STOCK", "none", "inventory",
    "reserve", 1, parked=False)
PARKED = msgspec.structs.replace(
    ABORTED, state="committing", code="", service="", step="", business_key="tok_secret", parked=True,
    parked_steps=[Parked(ID, "notify", "UNDELIVERABLE", "nobody", NOW, "notification")])


def drawn(*found: TransactionSummary, width: int = 80) -> list[str]:
    sheet = io.StringIO()
    Console(file=sheet, width=width).print(transactions_table(found, NOW, width))
    return [line.rstrip() for line in sheet.getvalue().splitlines()]


def test_80_columns() -> None:
    header, line, *_ = drawn(ABORTED)
    assert header.split() == ["transaction", "state", "age", "why"]
    assert line.startswith(f"{ID}  aborted  3m20s  OUT_OF_STOCK")


@pytest.mark.parametrize("width", [80, 130, 200])
def test_nothing_is_lost(width: int) -> None:
    lines = drawn(ABORTED, PARKED, width=width)
    assert max(map(len, lines)) <= width
    text = "".join(line.strip() for line in lines)
    for word in ("OUT_OF_STOCK", "UNDELIVERABLE", "committing parked", ID, "3m20s"):
        assert word in text, (word, lines)
    assert "tok_secret" not in text


def test_wide_tells_more() -> None:
    (_, line) = drawn(ABORTED, width=200)
    assert line.split("  ")[0] == ID
    for word in ("place_order v1", "order-1", "2023-11-14T22:10:00.000Z", "inventory/reserve"):
        assert word in line


def test_sagas_are_told_apart_where_there_are_several() -> None:
    other = msgspec.structs.replace(ABORTED, saga="refund")
    assert "saga" in drawn(ABORTED, other)[0]
    assert "saga" not in drawn(ABORTED, ABORTED)[0]
