"""No false alarm: whatever a real shop does, with calls lost and answers unknown, the checker finds nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.orders import app
from loadgen.checker.run import check
from loadgen.history import History
from loadgen.workload import Told
from unit.good_run import give_back, told
from unit.shop_in_process import Shop, order

BOOKS = {
    "stock": [{"sku": "85123A", "quantity": 12}],
    "accounts": [{"account": "c-1", "amount_minor": 2_000}, {"account": "c-2", "amount_minor": 400}]}

orders = st.tuples(
    st.just("place_order"), st.integers(0, 5), st.integers(1, 6), st.sampled_from(["c-1", "c-2", "nobody"]),
    st.sampled_from(["GB", "antarctica"]))
returns = st.tuples(st.just("return_items"), st.integers(0, 5), st.integers(0, 5))
steps = st.lists(
    st.tuples(st.one_of(orders, returns), st.sampled_from(["", "", "", "shipping", "payment", "notification"]), st.booleans()),
    max_size=14)


def place(shop, number, step, lost):
    if step[0] == "return_items":
        shop.submit(f"s-{number}", "return_items", give_back(step[1], step[2]), until=lost)
        return 150
    _, order_number, quantity, customer, country = step
    placed = {**order(order_number, quantity=quantity), "customer": customer}
    placed["address"] = {**placed["address"], "country": country}
    shop.submit(f"s-{number}", "place_order", placed, until=lost)
    return placed["amount_minor"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_whatever_a_shop_does_is_accepted(plan):
    with tempfile.TemporaryDirectory() as made:
        shop = Shop(Path(made) / "data")
        shop.submit("books", "open_books", BOOKS)
        operations = [told(shop, "books", 0)]
        for number, (step, lost, forgotten) in enumerate(plan):
            operation = told(shop, f"s-{number}", place(shop, number, step, lost))
            if forgotten:  # the answer never came
                operation.told, operation.transaction, operation.code = Told.UNKNOWN, "", ""
            operations.append(operation)
        shop.close()
        report = check(History(operations), shop.path, app)
        assert report.findings == {}
        assert report.counts["operations"] == len(plan) + 1
