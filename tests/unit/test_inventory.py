"""Inventory's handlers, called directly on a state, and its audit against broken books."""

import pytest

from actors.inventory import Inventory, Reserved
from actors.refusals import RefusalCode
from actors.service import NotYet, Refused
from actors.testing import ServiceBench
from orchestrator.errors import DefiniteError


@pytest.fixture
def bench():
    bench = ServiceBench(Inventory())
    bench.done("t0", "receive", {"lines": [{"sku": "A", "quantity": 10}, {"sku": "B", "quantity": 5}]})
    return bench


def reserve(order, *lines):
    return {"order_id": order, "lines": [list(line) for line in lines]}


def restock(order, back, *lines):
    return {"order_id": order, "return_id": back, "lines": [list(line) for line in lines]}


def test_a_reservation_holds_at_prepare_and_sells_at_commit(bench):
    result = bench.prepare("t1", "reserve", reserve("o1", ("A", 4), ("B", 1)))
    assert result == Reserved(warehouse="main", allocation=[("A", 4), ("B", 1)])
    assert bench.state["sku/A"] == [10, 4, 0, 0, 10]
    bench.commit("t1", "reserve")
    assert bench.state["sku/A"] == [6, 0, 4, 0, 10]
    assert bench.state["order/o1"]["sold"] == {"A": 4, "B": 1}
    assert bench.audit().violations == []


def test_release_makes_the_units_available_and_the_order_id_free(bench):
    bench.prepare("t1", "reserve", reserve("o1", ("A", 10)))
    bench.rollback("t1", "reserve")
    assert bench.state["sku/A"] == [10, 0, 0, 0, 10]
    assert "order/o1" not in bench.state
    assert isinstance(bench.prepare("t2", "reserve", reserve("o1", ("A", 10))), Reserved)


def test_lines_of_one_sku_are_summed(bench):
    assert bench.prepare("t1", "reserve", reserve("o1", ("A", 4), ("B", 1), ("A", 3))).allocation == [("A", 7), ("B", 1)]
    refused = bench.prepare("t2", "reserve", reserve("o2", ("A", 2), ("A", 2)))
    assert refused == Refused(RefusalCode.OUT_OF_STOCK, "A is short by 1 (ordered 4, available 3)")


def test_all_lines_or_none_and_the_refusal_says_what_is_short(bench):
    before = bench.state.snapshot()
    refused = bench.prepare("t1", "reserve", reserve("o1", ("A", 1), ("B", 8)))
    assert refused == Refused(RefusalCode.OUT_OF_STOCK, "B is short by 3 (ordered 8, available 5)")
    assert bench.state.snapshot() == before


def test_what_is_held_is_not_available_to_another_order(bench):
    bench.prepare("t1", "reserve", reserve("o1", ("A", 8)))
    assert bench.prepare("t2", "reserve", reserve("o2", ("A", 3))).code == RefusalCode.OUT_OF_STOCK


def test_an_unknown_sku_is_named_before_shortages(bench):
    refused = bench.prepare("t1", "reserve", reserve("o1", ("A", 99), ("X", 1)))
    assert refused == Refused(RefusalCode.UNKNOWN_SKU, "never received into stock: X")


def test_a_long_refusal_names_the_first_skus_only(bench):
    refused = bench.prepare("t1", "reserve", reserve("o1", *[(f"X{i}", 1) for i in range(9)]))
    assert refused.message.endswith("X0; X1; X2; and 6 more")


def test_the_same_order_id_is_refused_while_reserved_and_when_sold(bench):
    bench.prepare("t1", "reserve", reserve("o1", ("A", 1)))
    assert bench.prepare("t2", "reserve", reserve("o1", ("A", 1))).code == RefusalCode.DUPLICATE_ORDER
    bench.commit("t1", "reserve")
    assert bench.prepare("t3", "reserve", reserve("o1", ("A", 1))).code == RefusalCode.DUPLICATE_ORDER


def test_a_known_sku_may_have_no_stock(bench):
    bench.done("t1", "receive", {"lines": [{"sku": "C", "quantity": 0}]})
    assert bench.prepare("t2", "reserve", reserve("o1", ("C", 1))).code == RefusalCode.OUT_OF_STOCK


@pytest.mark.parametrize("quantity", [0, -1, True, 1.0, 1.5, float("nan"), "1", None, 10_000_001])
def test_a_quantity_is_a_positive_whole_number(bench, quantity):
    with pytest.raises(DefiniteError, match=r"E_INVALID_INPUT: lines\.0\.1"):
        bench.prepare("t1", "reserve", reserve("o1", ("A", quantity)))


@pytest.mark.parametrize("lines", [[], [["A", 1]] * 10_001])
def test_an_order_has_1_to_10000_lines(bench, lines):
    with pytest.raises(DefiniteError, match="E_INVALID_INPUT: lines"):
        bench.prepare("t1", "reserve", {"order_id": "o1", "lines": lines})


@pytest.mark.parametrize("order", ["", "a b", "a\n", "é", "x" * 65, 7, b"o1"])
def test_an_order_id_is_a_short_plain_identifier(bench, order):
    with pytest.raises(DefiniteError, match="order_id"):
        bench.prepare("t1", "reserve", reserve(order, ("A", 1)))


def test_goods_in_give_at_commit_only(bench):
    bench.prepare("t1", "receive", {"lines": [{"sku": "C", "quantity": 3}, {"sku": "C", "quantity": 4}]})
    assert "sku/C" not in bench.state
    bench.commit("t1", "receive")
    assert bench.state["sku/C"] == [7, 0, 0, 0, 7]
    bench.prepare("t2", "receive", {"lines": []})
    bench.rollback("t2", "receive")
    assert bench.audit().violations == []


def test_a_return_gives_the_stock_at_commit(bench):
    bench.done("t1", "reserve", reserve("o1", ("A", 10)))
    bench.prepare("t2", "restock", restock("o1", "r1", ("A", 4)))
    assert bench.state["sku/A"] == [0, 0, 10, 0, 10]
    assert bench.prepare("t3", "reserve", reserve("o2", ("A", 1))).code == RefusalCode.OUT_OF_STOCK
    bench.commit("t2", "restock")
    assert bench.state["sku/A"] == [4, 0, 10, 4, 10]
    assert bench.audit().totals == {
        "units_sold": 10, "units_returned": 4, "units_on_hand": 9, "units_reserved": 0, "units_received": 15, "skus": 2}


def test_a_claim_that_is_dropped_leaves_nothing_in_the_order(bench):
    bench.done("t1", "reserve", reserve("o1", ("A", 4)))
    before = bench.state.snapshot()
    bench.prepare("t2", "restock", restock("o1", "r1", ("A", 1)))
    bench.prepare("t3", "restock", restock("o1", "r2", ("A", 2)))
    bench.rollback("t2", "restock")
    assert bench.state["order/o1"]["claimed"] == {"A": 2}
    bench.rollback("t3", "restock")
    assert bench.state.snapshot() == before


def test_a_return_waits_for_the_sale_and_needs_the_order(bench):
    bench.prepare("t1", "reserve", reserve("o1", ("A", 1)))
    assert isinstance(bench.prepare("t2", "restock", restock("o1", "r1", ("A", 1))), NotYet)
    assert bench.prepare("t3", "restock", restock("o9", "r1", ("A", 1))).code == RefusalCode.UNKNOWN_ORDER


def test_no_more_comes_back_than_was_sold_also_with_returns_in_flight(bench):
    bench.done("t1", "reserve", reserve("o1", ("A", 5)))
    bench.prepare("t2", "restock", restock("o1", "r1", ("A", 3)))
    refused = bench.prepare("t3", "restock", restock("o1", "r2", ("A", 2), ("A", 1), ("B", 1)))
    assert refused == Refused(
        RefusalCode.RETURN_EXCEEDS, "order o1: 3 of A, 2 can be returned; 1 of B, 0 can be returned")
    bench.rollback("t2", "restock")
    bench.done("t4", "restock", restock("o1", "r1", ("A", 5)))
    assert bench.prepare("t5", "restock", restock("o1", "r1", ("A", 1))).code == RefusalCode.DUPLICATE_RETURN
    assert bench.audit().violations == []


@pytest.fixture
def books(bench):
    """Every kind of row: sold, reserved, returned, returning, refused, rolled back."""
    bench.done("t1", "reserve", reserve("o1", ("A", 4)))
    bench.prepare("t2", "reserve", reserve("o2", ("A", 2), ("B", 1)))
    bench.done("t3", "restock", restock("o1", "r1", ("A", 1)))
    bench.prepare("t4", "restock", restock("o1", "r2", ("A", 1)))
    bench.prepare("t5", "reserve", reserve("o5", ("A", 99)))
    bench.prepare("t6", "reserve", reserve("o6", ("B", 1)))
    bench.rollback("t6", "reserve")
    assert bench.audit().violations == []
    return bench


@pytest.mark.parametrize(("stock", "found"), [
    ([8, 2, 4, 1, 10], "received + returned and on hand + sold"),
    ([7, 3, 4, 1, 10], "units reserved and prepared rows"),
    ([7, 8, 4, 1, 10], "units reserved of those on hand"),
    ([-1, 2, 12, 1, 10], "units reserved of those on hand"),
    ([6, 2, 5, 1, 10], "units sold and its orders"),
    ([8, 2, 4, 2, 10], "units claimed back and returned"),
    ([8, 2, 4, 1, 11], "units received: the state says 11, the ledger's rows add up to 10"),
])
def test_the_audit_finds_a_broken_sku(books, stock, found):
    books.state["sku/A"] = stock
    assert any(f"sku A: {found}" in text for text in books.audit().violations)


def test_the_audit_finds_a_broken_order_record(books):
    books.state["order/o1"] = {"sold": {"A": 4}, "claimed": {"A": 5}, "returns": []}
    assert "order/o1: units of A claimed back: 5 is not within 0 and 4" in books.audit().violations
    del books.state["order/o2"]
    assert "inventory: open reservations in the state and prepared rows: 0 is not 1" in books.audit().violations


def test_the_audit_finds_a_sku_that_vanished(books):
    del books.state["sku/B"]
    assert "sku B: named by orders or ledger rows, absent from the stock" in books.audit().violations


@pytest.mark.parametrize("row", [("t1", "reserve"), ("t3", "restock"), ("t0", "receive")])
def test_the_audit_finds_a_lost_row_unless_rows_were_purged(books, row):
    del books.rows[row]
    assert any("the ledger's rows add up to" in text for text in books.audit().violations)
    assert books.audit(purged=True).violations == []


def test_the_audit_finds_a_row_too_many_even_when_rows_were_purged(books):
    books.rows["t7", "reserve"] = books.rows["t1", "reserve"]
    assert any("units sold" in text for text in books.audit(purged=True).violations)


def test_the_audit_caps_what_it_reports():
    bench = ServiceBench(Inventory())
    for i in range(300):
        bench.state[f"sku/{i}"] = [1, 0, 0, 0, 1]
    violations = bench.audit().violations
    assert len(violations) == 101
    assert violations[-1] == "and 200 more violations"
