"""Any sequence of prepares, commits and rollbacks over the services conserves units and money, as their audits see it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.inventory import Inventory
from actors.notification import Notification
from actors.payment import Payment
from actors.service import NotYet, Refused
from actors.shipping import Shipping
from actors.testing import ServiceBench

SKUS, ORDERS, RETURNS, ACCOUNTS = ["A", "B", "C"], ["o1", "o2", "o3", "o4"], ["r1", "r2"], ["ada", "bob"]
CARD = "0" * 32

units = st.lists(st.tuples(st.sampled_from(SKUS), st.integers(1, 5)), min_size=1, max_size=3)
orders = st.sampled_from(ORDERS)
amounts = st.integers(0, 8)
accounts = st.sampled_from(ACCOUNTS)
currencies = st.sampled_from(["GBP", "GBP", "GBP", "EUR"])

inventory_requests = st.one_of(
    st.tuples(st.just("reserve"), st.fixed_dictionaries({"order_id": orders, "lines": units})),
    st.tuples(st.just("restock"), st.fixed_dictionaries(
        {"order_id": orders, "return_id": st.sampled_from(RETURNS), "lines": units})),
    st.tuples(st.just("receive"), st.fixed_dictionaries({"lines": st.lists(st.fixed_dictionaries(
        {"sku": st.sampled_from(SKUS), "quantity": st.integers(0, 6)}), max_size=3)})))

payment_requests = st.one_of(
    st.tuples(st.just("authorize"), st.fixed_dictionaries(
        {"order_id": orders, "account": accounts, "amount_minor": amounts, "currency": currencies,
         "card_fingerprint": st.just(CARD)})),
    st.tuples(st.just("refund"), st.fixed_dictionaries(
        {"order_id": orders, "return_id": st.sampled_from(RETURNS), "account": accounts, "amount_minor": amounts})),
    st.tuples(st.just("deposit"), st.fixed_dictionaries({"lines": st.lists(st.fixed_dictionaries(
        {"account": accounts, "amount_minor": amounts, "currency": currencies,
         "blocked": st.sampled_from([None, None, None, True, False])}), max_size=3)})))

shipping_requests = st.tuples(st.just("create"), st.fixed_dictionaries({
    "order_id": orders, "warehouse": st.just("main"), "allocation": units,
    "address": st.fixed_dictionaries({
        "name": st.just("Ada"), "street": st.just("High Street"), "city": st.just("York"),
        "country": st.sampled_from(["United Kingdom", "Antarctica", ""])})}))

SERVICES = {
    "inventory": (Inventory, inventory_requests),
    "payment": (Payment, payment_requests),
    "shipping": (Shipping, shipping_requests),
}


def is_yes(result):
    return not isinstance(result, Refused | NotYet)


def drive(bench, data, requests, steps):
    """Prepare a request or settle one that is open, and audit after each."""
    open_ = []
    for number in range(steps):
        if open_ and data.draw(st.booleans()):
            transaction, operation = open_.pop(data.draw(st.integers(0, len(open_) - 1)))
            settle = bench.commit if data.draw(st.booleans()) else bench.rollback
            settle(transaction, operation)
        else:
            operation, request = data.draw(requests)
            before = bench.state.snapshot()
            if is_yes(bench.prepare(f"t{number:03}", operation, request)):
                open_.append((f"t{number:03}", operation))
            else:
                assert bench.state.snapshot() == before  # neither a no nor a not-yet leaves anything behind
        assert bench.audit().violations == []
    return open_


@pytest.mark.parametrize("name", SERVICES)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), steps=st.integers(1, 25))
def test_the_books_balance_after_every_step(name, data, steps):
    service, requests = SERVICES[name]
    drive(ServiceBench(service()), data, requests, steps)


@pytest.mark.parametrize("name", SERVICES)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), steps=st.integers(1, 20))
def test_whatever_is_open_can_be_settled_in_any_order(name, data, steps):
    """No commit and no rollback depends on another one having come first, and at rest nothing is held."""
    service, requests = SERVICES[name]
    bench = ServiceBench(service())
    for transaction, operation in data.draw(st.permutations(drive(bench, data, requests, steps))):
        settle = bench.commit if data.draw(st.booleans()) else bench.rollback
        settle(transaction, operation)
    audit = bench.audit()
    assert audit.violations == []
    held = ("units_reserved", "held_minor", "shipments_created")
    assert [audit.totals[total] for total in held if total in audit.totals] == [0]


@pytest.mark.parametrize("name", ["inventory", "payment"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), steps=st.integers(1, 20))
def test_rolling_everything_open_back_restores_what_the_committed_alone_would_give(name, data, steps):
    """An aborted transaction leaves no effect: replaying only the committed requests gives the same totals."""
    service, requests = SERVICES[name]
    bench = ServiceBench(service())
    for transaction, operation in drive(bench, data, requests, steps):
        bench.rollback(transaction, operation)
    audit = bench.audit()
    assert audit.totals == committed_only(name, bench)


def committed_only(name, bench):
    rows = [row for row in bench.rows.values() if row.state == "COMMITTED"]
    if name == "inventory":
        received, sold, returned = (total_units(rows, kind) for kind in ("receive", "reserve", "restock"))
        return {
            "units_sold": sold, "units_returned": returned, "units_received": received, "units_reserved": 0,
            "units_on_hand": received + returned - sold,
            "skus": len({line["sku"] for row in rows if row.operation == "receive" for line in row.request["lines"]})}
    lines = [line for row in rows if row.operation == "deposit" for line in row.request["lines"]]
    deposited = sum(line["amount_minor"] for line in lines)
    captured, refunded = (
        sum(row.request["amount_minor"] for row in rows if row.operation == kind) for kind in ("authorize", "refund"))
    return {
        "deposited_minor": deposited, "captured_minor": captured, "refunded_minor": refunded, "held_minor": 0,
        "balance_minor": deposited + refunded - captured, "accounts": len({line["account"] for line in lines})}


def total_units(rows, operation):
    lines = [line for row in rows if row.operation == operation for line in row.request["lines"]]
    return sum(line["quantity"] if isinstance(line, dict) else line[1] for line in lines)


@pytest.mark.parametrize("name", SERVICES)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), steps=st.integers(3, 20))
def test_purged_rows_never_make_an_audit_fail(name, data, steps):
    """Whatever settled rows retention has removed, the state still covers those that are left."""
    service, requests = SERVICES[name]
    bench = ServiceBench(service())
    drive(bench, data, requests, steps)
    settled = sorted(key for key, row in bench.rows.items() if row.state != "PREPARED")
    for key in settled[:data.draw(st.integers(0, len(settled)))]:
        del bench.rows[key]
    assert bench.audit(purged=True).violations == []


@settings(max_examples=40, deadline=None)
@given(data=st.data(), field=st.integers(0, 4), change=st.integers(-3, 3).filter(bool))
def test_any_change_of_one_number_of_a_sku_is_found(data, field, change):
    bench = ServiceBench(Inventory())
    drive(bench, data, inventory_requests, 12)
    bench.done("u1", "receive", {"lines": [{"sku": "A", "quantity": 5}]})
    sku = bench.state["sku/A"]
    sku[field] += change
    bench.state["sku/A"] = sku
    assert any(text.startswith("sku A: ") for text in bench.audit().violations)


MONEY = ["balance_minor", "held_minor", "deposited_minor", "captured_minor", "refunded_minor", "deposits_open"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), field=st.sampled_from(MONEY), change=st.integers(-3, 3).filter(bool))
def test_any_change_of_one_number_of_an_account_is_found(data, field, change):
    bench = ServiceBench(Payment())
    bench.done("s1", "deposit", {"lines": [{"account": "ada", "amount_minor": 9}]})
    drive(bench, data, payment_requests, 12)
    account = bench.state["account/ada"]
    account[field] += change
    bench.state["account/ada"] = account
    assert any(text.startswith("account ada: ") for text in bench.audit().violations)


@settings(max_examples=60, deadline=None)
@given(sends=st.lists(st.tuples(orders, st.sampled_from([None, "+44 20"])), max_size=12))
def test_each_order_has_each_message_once(sends):
    bench = ServiceBench(Notification())
    for number, (order, phone) in enumerate(sends):
        bench.perform(f"t{number:02}", "send", {
            "order_id": order, "tracking": "T1", "amount_minor": 1, "currency": "GBP", "email": "a@b", "phone": phone})
    audit = bench.audit()
    assert audit.violations == []
    assert audit.totals["messages"] == len({o for o, _ in sends}) + len({o for o, phone in sends if phone})
