"""Shipping's handlers, called directly on a state, and its audit against broken books."""

import pytest

from actors.refusals import RefusalCode
from actors.service import Refused
from actors.shipping import Shipping
from actors.testing import ServiceBench
from orchestrator.errors import DefiniteError


def create(order, country="United Kingdom", allocation=(("A", 2), ("B", 1))):
    address = {"name": "Ada", "street": "1 High Street", "city": "York", "country": country}
    return {"order_id": order, "address": address, "warehouse": "main", "allocation": [list(a) for a in allocation]}


@pytest.fixture
def bench():
    return ServiceBench(Shipping())


def test_created_at_prepare_dispatched_at_commit(bench):
    result = bench.prepare("t1", "create", create("o1"))
    assert result.units == 3
    assert bench.state["shipment/o1"]["phase"] == "CREATED"
    bench.commit("t1", "create")
    assert bench.state["shipment/o1"] == {
        "phase": "DISPATCHED", "tracking": result.tracking, "units": 3,
        "address": ["Ada", "1 High Street", "York", "United Kingdom"]}


def test_a_cancelled_shipment_is_gone_and_its_tracking_number_the_same_next_time(bench):
    first = bench.prepare("t1", "create", create("o1"))
    bench.rollback("t1", "create")
    assert len(bench.state) == 0
    assert bench.prepare("t2", "create", create("o1")) == first
    assert bench.prepare("t3", "create", create("o2")).tracking != first.tracking


@pytest.mark.parametrize("country", ["", "  ", "Antarctica", "AQ", " antarctica "])
def test_a_country_that_is_not_served_is_refused(bench, country):
    assert bench.prepare("t1", "create", create("o1", country)).code == RefusalCode.UNDELIVERABLE
    assert len(bench.state) == 0


def test_the_countries_not_served_are_configured():
    bench = ServiceBench(Shipping(unserved=["Ruritania"]))
    assert bench.prepare("t1", "create", create("o1", "RURITANIA")) == Refused(
        RefusalCode.UNDELIVERABLE, "country 'RURITANIA' is not served")
    assert bench.prepare("t2", "create", create("o1", "Antarctica")).units == 3


def test_one_shipment_an_order(bench):
    bench.done("t1", "create", create("o1"))
    assert bench.prepare("t2", "create", create("o1")).code == RefusalCode.DUPLICATE_SHIPMENT


def test_an_allocation_may_sum_many_lines_of_one_sku(bench):
    assert bench.prepare("t1", "create", create("o1", allocation=[("A", 20_000_000)])).units == 20_000_000


@pytest.mark.parametrize("allocation", [[], [("A", 0)], [("A", 1.0)], [("A", True)]])
def test_an_allocation_has_whole_positive_units(bench, allocation):
    with pytest.raises(DefiniteError, match="E_INVALID_INPUT: allocation"):
        bench.prepare("t1", "create", create("o1", allocation=allocation))


@pytest.fixture
def books(bench):
    bench.done("t1", "create", create("o1"))
    bench.prepare("t2", "create", create("o2"))
    bench.prepare("t3", "create", create("o3"))
    bench.rollback("t3", "create")
    bench.prepare("t4", "create", create("o4", ""))
    assert bench.audit().violations == []
    assert bench.audit().totals == {"shipments_dispatched": 1, "shipments_created": 1}
    return bench


@pytest.mark.parametrize(("order", "change", "found"), [
    ("o1", {"phase": "CREATED"}, "shipments created and prepared rows: 2 is not 1"),
    ("o2", {"phase": "DISPATCHED"}, "shipments dispatched: the state says 2, the ledger's rows add up to 1"),
    ("o1", {"units": 4}, "units dispatched: the state says 4, the ledger's rows add up to 3"),
    ("o2", {"units": 4}, "units created and prepared rows: 4 is not 3"),
])
def test_the_audit_finds_a_broken_shipment(books, order, change, found):
    books.state[f"shipment/{order}"] = {**books.state[f"shipment/{order}"], **change}
    assert f"shipping: {found}" in books.audit().violations


def test_the_audit_finds_a_lost_row_unless_rows_were_purged(books):
    del books.rows["t1", "create"]
    assert "shipping: shipments dispatched: the state says 1, the ledger's rows add up to 0" in books.audit().violations
    assert books.audit(purged=True).violations == []
