"""Workloads beside the shop's orders: bank, a saga of one's own, uniform and hot orders; and a part of each by process."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from math import inf, nan
from pathlib import Path

import pytest

from actors.bank import app as bank
from loadgen.arrivals import Arrivals, read_arrivals
from loadgen.load import LoadPlan, prepare
from loadgen.own_saga import NEXT_SAMPLE, OpeningFeed, Samples, take_samples
from loadgen.prepare import app_for
from loadgen.shapes import SKUS, Shape, make_baskets
from loadgen.transfers import DISTINCT, Transfers
from loadgen.workload import BooksFeed, Told
from orchestrator.errors import DefiniteError
from unit.shop_in_process import Shop

SHOP = "actors.orders:app"


def plan(**values):
    return LoadPlan(**{"data": Path("no-data"), "app": SHOP, **values})


def works(source, number):
    feed = source.feed()
    return [feed.take() for _ in range(number)]


def money(source):
    opened = Counter()
    feed = source.opening()
    assert isinstance(feed, BooksFeed)
    while (work := feed.take()) is not None:
        bank.saga(work.saga).validate_input(work.input)
        for name, lines in work.input.items():
            for line in lines:
                opened[name, line["account"]] += line["amount_minor"]
    return opened


@pytest.mark.parametrize("orders", [1, 7, 500, 20_001, 45_000])
def test_transfers_are_valid_have_keys_of_their_own_and_are_covered_if_all_commit_in_any_order(orders):
    source = Transfers(orders=orders, run="run", seed=1)
    opened, spent, keys = money(source), Counter(), set()
    for number in range(orders):
        work = source.work(number)
        keys.add(work.key)
        spent["north" if work.saga == "transfer" else "south", work.input["payer"]] += work.input["amount_minor"]
    assert len(keys) == orders
    assert all(opened[account] >= amount for account, amount in spent.items())
    bank.saga(work.saga).validate_input(work.input)
    assert source.contents(orders) == {"amount_minor": spent.total()}
    assert source.work(3) == source.work(3)
    assert {work.saga for work in works(source, min(orders, 4))} <= source.orders_are


def test_too_little_money_is_a_share_of_what_is_paid():
    whole, half = (Transfers(orders=1_000, run="run", seed=1, share=share) for share in (None, Decimal("0.5")))
    assert money(half).total() == pytest.approx(money(whole).total() / 2, rel=0.01)
    assert DISTINCT % 2 == 0  # so that a repetition keeps its direction


def test_a_saga_of_ones_own_is_placed_by_its_example_after_the_apps_opening():
    found = prepare(plan(app="actors.bank:app", workload="actors.bank:transfer", orders=5)).workload
    placed = works(found, 6)
    assert placed[5] is None
    assert [work.input["transfer_id"] for work in placed[:5]] == [f"transfer-{n}" for n in range(5)]
    assert {work.saga for work in placed[:5]} == {"transfer"} == found.orders_are
    assert found.feed().again(2).key == f"{found.run}-2"
    feed = found.opening()
    assert isinstance(feed, OpeningFeed)
    opening = feed.take()
    assert feed.take() is None  # one after the other
    assert opening.key == found.opening().take().key  # the same in every run
    feed.settle(opening.number, Told.COMMITTED, "")
    assert feed.take() is None


@pytest.mark.parametrize("workload", ["retail", "bank"])
def test_a_share_of_an_open_loop_is_that_of_what_arrives(workload, tmp_path):
    path = tmp_path / "arrivals.csv"
    path.write_text("second,count\n" + "".join(f"{second},1\n" for second in range(100)))
    for arrivals in (Arrivals(40.0, 5.0, 3), Arrivals(40.0, 5.0, 3).share(1, 2), read_arrivals(path), Arrivals(0.1, 1.0)):
        arriving = max(1, len(list(arrivals.offsets())))
        found = prepare(plan(workload=workload, arrivals=arrivals, stock_share=Decimal("0.9"))).workload
        assert found.orders == arriving < arrivals.expected


def test_an_opening_that_does_not_commit_ends_the_run():
    feed = OpeningFeed(bank.opening_inputs())
    with pytest.raises(DefiniteError, match="did not commit") as caught:
        feed.settle(feed.take().number, Told.ABORTED, "UNKNOWN_ACCOUNT")
    assert caught.value.code == "UNKNOWN_ACCOUNT"


@pytest.mark.parametrize(("workload", "app", "found"), [
    ("retail", None, SHOP), ("hot", None, SHOP), ("bank", None, "actors.bank:app"), ("bank", "x:y", "x:y"),
    ("actors.orders:place_order", None, SHOP), ("actors.bank:transfer_back", None, "actors.bank:app")])
def test_the_app_follows_from_the_workload(workload, app, found, tmp_path):
    assert app_for(workload, tmp_path / "none", app) == found


@pytest.mark.parametrize("workload", ["no.such:saga", "actors.bank:NORTH"])
def test_a_saga_that_is_none_is_refused(workload, tmp_path):
    with pytest.raises(DefiniteError, match="E_CONFIG"):
        app_for(workload, tmp_path, None)


def test_a_saga_without_an_example_is_refused(tmp_path, monkeypatch):
    (tmp_path / "plain_trip.py").write_text(
        "from actors.bank import NORTH, Transfer\nfrom actors.bank_accounts import Accounts\n"
        "from orchestrator import App, Saga, Step\n"
        "trip = Saga(name='trip', input=Transfer, steps=[Step(name='withdraw', service=NORTH, request=lambda c: {},"
        " compensation='x')])\napp = App(services=[Accounts(NORTH)], sagas=[trip])\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DefiniteError, match="no example"):
        prepare(plan(app="plain_trip:app", workload="plain_trip:trip", orders=1))
    sys.modules.pop("plain_trip")


def test_an_example_that_raises_later_on_is_named_by_its_number():
    saga = replace(bank.saga("transfer"), example=lambda number: [bank.saga("transfer").sample(number)][number // 7])
    feed = Samples(bank, saga, orders=9, run="run", first=5).feed()
    assert [feed.take().number for _ in range(2)] == [0, 1]
    with pytest.raises(DefiniteError, match=r"E_SAGA_DEFINITION: saga 'transfer': its example 7 raised IndexError"):
        feed.take()


@pytest.mark.parametrize(("examples", "told"), [
    ("", "examples for no saga"), ("replace(transfer, example=id)", None),
    ("transfer, transfer_back", "examples for transfer, transfer_back: name one")])
def test_an_app_is_a_workload_where_one_of_its_sagas_has_an_example(tmp_path, monkeypatch, examples, told):
    name = f"own_{len(examples)}"
    (tmp_path / f"{name}.py").write_text(
        "from dataclasses import replace\nfrom actors.bank import NORTH, SOUTH, transfer, transfer_back\n"
        "from actors.bank_accounts import Accounts\nfrom orchestrator import App\n"
        "bare = replace(transfer, name='bare', example=None)\n"
        f"app = App(services=[Accounts(NORTH), Accounts(SOUTH)], sagas=[bare, {examples}])\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    if told is None:
        assert app_for(f"{name}:app", tmp_path, None) == f"{name}:app"
    else:
        with pytest.raises(DefiniteError, match=f"--workload: {name}:app is an app with {told}"):
            app_for(f"{name}:app", tmp_path, None)
    sys.modules.pop(name)


def test_uniform_orders_spread_over_everything_and_hot_ones_share_one_sku():
    uniform = make_baskets(3_000, 1, shape=Shape.UNIFORM)
    lines = [line for number in range(len(uniform)) for line in uniform.lines(number)]
    by_sku = Counter(line.sku for line in lines)
    assert len(by_sku) > 2_000
    assert by_sku.most_common(1)[0][1] < 15
    assert {len(uniform.lines(number)) for number in range(len(uniform))} == {1, 2, 3}
    hot = make_baskets(100, 1, shape=Shape.HOT)
    assert {(len(hot.lines(n)), hot.lines(n)[0].sku, hot.lines(n)[0].quantity) for n in range(100)} == {
        (1, hot.lines(0)[0].sku, 1)}
    assert len({hot.customer(number) for number in range(100)}) > 90


@pytest.mark.parametrize(("values", "told"), [
    ({"workload": "retial"}, "no 'retial'"), ({"workload": "hot", "trace": Path("x")}, "--trace is for"),
    ({"workload": "bank", "watch": True}, "--watch"), ({"workload": "a:b", "stock_share": Decimal(1)}, "--stock-share"),
    ({"stock_share": Decimal(1), "duration_s": 1.0}, "--orders too"),
    ({"duration_s": 0.0}, "--duration"), ({"processes": 2, "chaos": "usual"}, "--chaos"),
    ({"processes": 2, "returns": True, "trace": Path("x")}, "--returns"),
    ({"orders": 3, "processes": 5}, "--orders: 3 cannot be shared by --processes 5"),
    ({"concurrency": 1, "processes": 4}, "--concurrency: 1 cannot be shared by --processes 4"),
    ({"capacity_p99_ms": 5.0, "orders": 5}, "--find-capacity"), ({"capacity_p99_ms": 5.0, "chaos": "usual"}, "drop --chaos"),
    ({"capacity_p99_ms": 5.0, "stock_share": Decimal("0.9")}, "drop --stock-share"),
    ({"capacity_p99_ms": 5.0, "stock_share": Decimal("0.9"), "duration_s": 5.0}, "drop --stock-share"),
    *(({"patience_s": seconds}, "--patience must be") for seconds in (0.0, inf, nan, 86_401.0)),
    *(({"warm_up_s": seconds}, "--warm-up must be") for seconds in (-1.0, inf, nan, 86_401.0)),
    *(({"chaos": f"seconds={seconds}"}, "--chaos: seconds must be") for seconds in ("inf", "nan", "-1", "1e6")),
    ({"skip_bad": True}, "--skip-bad needs --trace")])
def test_what_does_not_go_together_is_refused(values, told):
    with pytest.raises(DefiniteError, match=told):
        plan(**values).check()


def test_processes_have_parts_that_add_up():
    whole = plan(orders=11, concurrency=5, processes=3)
    parts = [whole.share(index) for index in range(3)]
    assert [part.orders for part in parts] == [4, 4, 3]
    assert [part.concurrency for part in parts] == [2, 2, 1]
    assert {part.processes for part in parts} == {1}
    assert plan(processes=4).share(0).orders == 2_500
    timed = plan(processes=2, duration_s=3.0, warm_up_s=1.0).share(1)
    assert (timed.orders, timed.times.duration_s, timed.times.warm_up_s) == (None, 4.0, 1.0)
    assert prepare(timed).workload.orders == timed.orders_made
    sources = [prepare(part, f"run{letter}").workload for part, letter in zip(parts, "abc", strict=True)]
    keys = [work.key for source in sources for work in works(source, 4) if work is not None]
    assert len(keys) == len(set(keys)) == 11


@pytest.mark.parametrize(("workload", "skus"), [("hot", 1), ("uniform", SKUS)])
def test_processes_order_of_one_shop_and_each_something_else(workload, skus):
    whole = plan(workload=workload, orders=16_000, processes=4)
    parts = [prepare(whole.share(index)).workload.baskets for index in range(4)]
    lines = [line for part in parts for number in range(len(part)) for line in part.lines(number)]
    assert len({line.sku for line in lines}) <= skus
    assert len({(line.sku, line.unit_price_minor) for line in lines}) <= skus
    assert len({tuple(part.customer(number) for number in range(20)) for part in parts}) == 4


def test_samples_are_shared_out_one_by_one():
    whole = plan(app="actors.bank:app", workload="actors.bank:transfer", orders=4, processes=2)
    ids = [work.input["transfer_id"] for index in range(2) for work in works(prepare(whole.share(index)).workload, 2)]
    assert ids == ["transfer-0", "transfer-2", "transfer-1", "transfer-3"]


def test_processes_place_no_sample_twice_whatever_the_log_holds_when_they_begin(tmp_path):
    shop = Shop(tmp_path, bank)
    whole = plan(data=tmp_path, app="actors.bank:app", workload="actors.bank:transfer", orders=9, processes=4)
    whole = replace(whole, first_sample=take_samples(tmp_path, whole.samples_max))
    ids = []
    for index in range(4):  # each begins when others have placed something
        ids += [work.input["transfer_id"] for work in works(prepare(whole.share(index)).workload, 3) if work is not None]
        shop.submit(f"key-{index}", "transfer", bank.saga("transfer").sample(index).model_dump())
    shop.close()
    first = whole.first_sample
    assert sorted(ids) == sorted(f"transfer-{first + n}" for n in range(9))
    assert first + 9 <= take_samples(tmp_path, 5) == take_samples(tmp_path, 1) - 5


def test_samples_are_taken_once_though_a_run_of_them_left_nothing_in_the_log(tmp_path):
    Shop(tmp_path).close()
    begun = [take_samples(tmp_path, 1_000) for _ in range(3)]
    assert begun == [begun[0], begun[0] + 1_000, begun[0] + 2_000]
    assert (tmp_path / NEXT_SAMPLE).stat().st_mode & 0o077 == 0
    (tmp_path / NEXT_SAMPLE).write_text("damaged")
    with pytest.raises(DefiniteError, match="E_DATA_DIR"):
        take_samples(tmp_path, 1)


def test_a_directory_on_which_nothing_was_noted_goes_on_behind_its_log(tmp_path):
    shop = Shop(tmp_path, bank)
    shop.submit("key", "transfer", bank.saga("transfer").sample(1).model_dump())
    shop.close()
    assert take_samples(tmp_path, 1) >= 2


def test_a_trace_is_shared_out_order_by_order(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("InvoiceNo,StockCode,Quantity,UnitPrice,CustomerID\n" + "".join(
        f"{number},22423,{number - 536_364},12.75,17850\n" for number in range(536_365, 536_370)))
    parts = [prepare(plan(trace=path, processes=2).share(index)).workload for index in range(2)]
    assert [part.orders for part in parts] == [3, 2]
    with pytest.raises(DefiniteError, match="--processes: 6 cannot share the 5 orders"):
        prepare(plan(trace=path, processes=6))
    units = [work.input["lines"][0]["quantity"] for part in parts for work in works(part, part.orders)]
    assert sorted(units) == [1, 2, 3, 4, 5]
