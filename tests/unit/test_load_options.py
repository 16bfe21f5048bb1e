from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from loadgen.load import LoadPlan, check_attached, prepare
from loadgen.open_loop import Arrivals
from loadgen.options import parse_arrivals, parse_faults, parse_lines, parse_search, parse_share
from loadgen.shapes import LineRange
from orchestrator.config import Settings, Transport
from orchestrator.errors import DefiniteError

HEADER = "InvoiceNo,StockCode,Quantity,UnitPrice,CustomerID\n"


def plan(**values) -> LoadPlan:
    return LoadPlan(**{"data": Path("data"), "app": "actors.orders:app", **values})


def test_faults_gather_by_service_and_keep_whole_numbers_whole():
    texts = ["payment.decline=0.05", "payment.latency_ms=20", "inventory.hang=0.1"]
    assert parse_faults(texts) == {"payment": {"decline": 0.05, "latency_ms": 20}, "inventory": {"hang": 0.1}}
    assert plan(faults=parse_faults(texts), seed=9).settings().faults["payment"].seed == 9


@pytest.mark.parametrize("text", ["", "payment", "payment.decline", "payment.decline=", "payment.decline=1.2.3", "decline=0.1"])
def test_a_malformed_fault_is_refused(text):
    with pytest.raises(DefiniteError, match="--fault") as caught:
        parse_faults([text])
    assert caught.value.code == "E_CONFIG"


@pytest.mark.parametrize("faults", [{"payment": {"declin": 0.1}}, {"payment": {"decline": 1.5}}])
def test_an_unknown_or_impossible_fault_is_refused(faults):
    with pytest.raises(DefiniteError, match=r"faults\.payment"):
        plan(faults=faults).settings()


@pytest.mark.parametrize(("text", "lines"), [(None, None), ("1-3", LineRange(1, 3)), ("2", LineRange(2, 2))])
def test_lines_are_a_range(text, lines):
    assert parse_lines(text) == lines


@pytest.mark.parametrize("text", ["", "0-3", "3-1", "1-1001", "a-b", "1-2-3", "-1"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(DefiniteError, match="--lines"):
        parse_lines(text)


def test_shares_are_exact():
    assert parse_share("0.9") == Decimal("0.9")
    assert parse_share(None) is None
    with pytest.raises(DefiniteError, match="--stock-share"):
        parse_share("much")


@pytest.mark.parametrize(("values", "option"), [
    ({"returns": True}, "--returns"), ({"trace": Path("x.csv"), "lines": LineRange(1, 2)}, "--lines"),
    ({"stock_share": Decimal(0)}, "--stock-share"), ({"stock_share": Decimal("NaN")}, "--stock-share")])
def test_what_does_not_go_together_is_refused_before_anything_is_placed(values, option):
    with pytest.raises(DefiniteError, match=option):
        prepare(plan(**values))


def test_a_trace_is_cut_or_repeated_to_the_orders_asked_for(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text(HEADER + "".join(f"{number},22423,2,12.75,17850\n" for number in range(536_365, 536_368)))
    assert [prepare(plan(trace=trace, orders=orders)).workload.orders for orders in (None, 2, 7)] == [3, 2, 7]
    assert prepare(plan(trace=trace, orders=7)).workload.demand.units == 14


def test_a_trace_with_nothing_to_place_is_refused(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text(HEADER)
    with pytest.raises(DefiniteError, match="no order"):
        prepare(plan(trace=trace))


def test_a_rate_makes_an_open_loop():
    assert parse_arrivals(None, None, 1) is None
    assert parse_arrivals(50.0, None, 3) == Arrivals(50.0, 10.0, 3)
    assert parse_arrivals(None, 5.0, 1) is None  # a closed loop for so long


def test_a_number_of_orders_is_for_a_closed_loop():
    with pytest.raises(DefiniteError, match="--orders is for a closed loop"):
        plan(orders=5, arrivals=Arrivals(50.0, 1.0)).check()
    assert prepare(plan(arrivals=Arrivals(50.0, 1.0))).workload.orders == Arrivals(50.0, 1.0).expected


@pytest.mark.parametrize(("duration_s", "warm_up_s"), [(None, 5.0), (None, 2.0), (0.0, 5.0), (-1.0, 5.0)])
def test_a_warm_up_that_leaves_nothing_to_measure_is_refused(tmp_path, duration_s, warm_up_s):
    path = tmp_path / "arrivals.csv"
    path.write_text("second,count\n0,5\n1,5\n")
    trace = None if duration_s is not None else path
    arrivals = parse_arrivals(None if trace else 10.0, duration_s, 1, warm_up_s=warm_up_s, trace=trace)
    with pytest.raises(DefiniteError, match="--warm-up: all arrivals come within"):
        plan(arrivals=arrivals, warm_up_s=warm_up_s).check()
    plan(arrivals=parse_arrivals(None, 1.0, 1, warm_up_s=warm_up_s, trace=path), warm_up_s=warm_up_s).check()


@pytest.mark.parametrize(("values", "told"), [
    ({"faults": {"payment": {"decline": 0.1}}}, "--fault: a deployment already runs"), ({"shards": 3}, "with 2 shards"),
    ({"transport": Transport.RAY}, "--transport: a deployment already runs on data over direct")])
def test_a_deployment_that_runs_is_not_asked_to_run_otherwise(values, told):
    with pytest.raises(DefiniteError, match=told):
        check_attached(plan(**values), Settings(shards=2))
    check_attached(plan(shards=2, transport=Transport.DIRECT), Settings(shards=2))


@pytest.mark.parametrize(("values", "orders"), [
    ({}, 10_000), ({"orders": 5}, 5), ({"duration_s": 1.0}, None), ({"arrivals": Arrivals(5.0, 1.0)}, None),
    ({"trace": Path("x")}, None)])
def test_a_result_says_how_many_orders_were_asked_for(values, orders):
    assert plan(**values).to_json()["orders"] == orders


def test_what_a_search_takes_is_refused_without_one_and_a_warm_up_of_nothing_is_none():
    assert parse_search(None, None, find=False) == (None, 0.0)
    assert parse_search(None, 3.0, find=False) == (None, 3.0)
    assert parse_search(None, None, find=True) == (100.0, 1.0)
    assert parse_search(20.0, 0.0, find=True) == (20.0, 0.0)
    with pytest.raises(DefiniteError, match="--p99-ms is the bound of --find-capacity"):
        parse_search(20.0, None, find=False)


def test_a_result_of_an_open_loop_says_no_concurrency():
    assert plan(concurrency=7).to_json()["concurrency"] == 7
    assert plan(concurrency=7, arrivals=Arrivals(5.0, 1.0)).to_json()["concurrency"] is None


@pytest.mark.parametrize("warm_up_s", [float("inf"), float("nan")])
def test_a_warm_up_that_is_no_time_is_named_with_a_rate_too(warm_up_s):
    with pytest.raises(DefiniteError, match="--warm-up"):
        parse_arrivals(10.0, None, 1, warm_up_s=warm_up_s)
