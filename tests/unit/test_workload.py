from __future__ import annotations

from decimal import Decimal

import pytest

from actors.orders import app
from loadgen.baskets import Baskets, Line
from loadgen.returns import Return
from loadgen.workload import OPEN_BOOKS, PLACE_ORDER, RETURN_ITEMS, BooksFeed, OrderFeed, Told, Workload, new_run
from orchestrator.errors import DefiniteError

MUG, TRAY = Line("22423", 4, 1_275), Line("23407", 2, 995)


def baskets(orders: int = 3) -> Baskets:
    made = Baskets()
    for number in range(orders):
        made.add(str(536_365 + number), str(17_850 + number), "France", [MUG, TRAY, MUG])
    return made


def workload(orders: int = 3, *, of: int = 3, **options) -> Workload:
    return Workload(baskets(of), orders=orders, run="run", **options)


def drain(feed: OrderFeed, told: Told = Told.COMMITTED) -> list[str]:
    keys = []
    while (work := feed.take()) is not None:
        keys.append(work.key)
        feed.settle(work.number, told, "")
    return keys


def test_runs_have_tokens_of_their_own_without_digits():
    assert new_run() != new_run()
    assert new_run().isalpha()


def test_every_input_fits_the_sagas():
    load = workload(5, returns=[Return("C1", 1, 0, (TRAY,))])
    for number in range(load.orders + load.returns):
        work = load.work(number)
        app.saga(work.saga).encode_input(work.input)
    for books in load.opening_books():
        app.saga(OPEN_BOOKS).encode_input(books)


def test_amount_is_what_the_lines_add_up_to():
    work = workload().work(1)
    assert (work.saga, work.key, work.input["order_id"]) == (PLACE_ORDER, "run-536366-0", "run-536366-0")
    assert work.input["amount_minor"] == 8 * 1_275 + 2 * 995
    assert len(work.input["lines"]) == 3


def test_a_longer_run_repeats_with_ids_of_its_own_and_needs_more():
    load = workload(7)
    keys = [load.work(number).key for number in range(7)]
    assert len(set(keys)) == 7
    assert keys[3] == "run-536365-1"
    assert load.demand.lines == 21
    assert load.demand.units_by_sku == {"22423": 56, "23407": 14}
    assert load.demand.minor_by_customer["17850"] == 3 * (8 * 1_275 + 2 * 995)
    assert load.demand.amount_minor == sum(load.work(number).input["amount_minor"] for number in range(7))


def test_a_shorter_run_cuts():
    load = workload(2, returns=[Return("C1", 1, 0, (TRAY,)), Return("C2", 3, 0, (TRAY,))])
    assert load.demand.lines == 6
    assert load.returns == 1


def test_opening_books_hold_what_is_needed():
    stock, accounts = workload().opening_books()
    assert stock["stock"] == [{"sku": "22423", "quantity": 24}, {"sku": "23407", "quantity": 6}]
    assert sum(line["amount_minor"] for line in accounts["accounts"]) == workload().demand.amount_minor


def test_a_stock_share_is_rounded_but_never_to_nothing():
    load = workload(1, stock_share=Decimal("0.2"))
    assert load.opening_books()[0]["stock"] == [{"sku": "22423", "quantity": 2}, {"sku": "23407", "quantity": 1}]


def test_large_sums_are_split_into_lines_that_fit():
    made = Baskets()
    for number in range(150):
        made.add(str(number), "1", "France", [Line("22423", 10_000_000, 1_000_000)])
    load = Workload(made, orders=150, run="run")
    stock, accounts = load.opening_books()
    assert [line["quantity"] for line in stock["stock"]] == [1_000_000_000, 500_000_000]
    assert sum(line["amount_minor"] for line in accounts["accounts"]) == load.demand.amount_minor
    for books in (stock, accounts):
        app.saga(OPEN_BOOKS).encode_input(books)


def test_keys_lead_back_to_numbers():
    load = workload(7, returns=[Return("C1", 1, 0, (TRAY,)), Return("C1", 1, 1, (TRAY,))])
    for number in range(load.orders + load.returns):
        assert load.number_of(load.work(number).key) == number
    for stranger in ("other-536365-0", "run-books-0-0", "run-999999-0", "x", ""):
        assert load.number_of(stranger) is None


def test_no_orders_is_refused():
    with pytest.raises(DefiniteError, match="no order"):
        Workload(Baskets(), orders=1, run="run")


def test_a_return_comes_in_its_place_once_its_order_has_committed():
    load = workload(6, returns=[Return("C1", 1, 0, (TRAY,)), Return("C2", 3, 2, (MUG,))])
    assert drain(OrderFeed(load)) == [
        "run-536365-0", "run-C1-536365-0", "run-536366-0", "run-536367-0", "run-C2-536367-0",
        "run-536365-1", "run-C1-536365-1", "run-536366-1", "run-536367-1", "run-C2-536367-1"]


def test_a_return_waits_for_the_outcome_of_its_order():
    load = workload(3, returns=[Return("C1", 1, 0, (TRAY,))])
    feed = OrderFeed(load)
    assert [feed.take().key for _ in range(3)] == ["run-536365-0", "run-536366-0", "run-536367-0"]
    assert feed.take() is None
    feed.settle(0, Told.COMMITTED, "")
    work = feed.take()
    assert (work.saga, work.number, work.input["order_id"]) == (RETURN_ITEMS, 3, "run-536365-0")


@pytest.mark.parametrize("told", [Told.ABORTED, Told.REJECTED, Told.UNKNOWN])
def test_a_return_of_an_order_that_did_not_commit_is_skipped(told):
    load = workload(3, returns=[Return("C1", 1, 0, (TRAY,)), Return("C2", 3, 0, (TRAY,))])
    feed = OrderFeed(load)
    drain(feed, told)
    assert feed.skipped == 2


def test_what_is_kept_of_a_feed_grows_with_what_was_placed_not_with_what_may_be():
    feed = OrderFeed(workload(10**15, returns=[Return("C1", 1, 0, (TRAY,))]))
    for _ in range(10):
        work = feed.take()
        feed.settle(work.number, Told.COMMITTED, "")
    assert len(feed.told) == 7, "three were returns"


def test_opening_that_aborts_is_placed_again_under_a_new_key():
    feed = BooksFeed("run", [{"stock": [], "accounts": []}])
    first = feed.take()
    feed.settle(first.number, Told.ABORTED, "SIMULATED_DECLINE")
    second = feed.take()
    assert (first.key, second.key) == ("run-books-0-0", "run-books-0-1")
    feed.settle(second.number, Told.COMMITTED, "")
    assert feed.take() is None


def test_opening_that_is_refused_ends_the_run():
    feed = BooksFeed("run", [{"stock": [], "accounts": []}])
    with pytest.raises(DefiniteError) as caught:
        feed.settle(feed.take().number, Told.REJECTED, "E_UNKNOWN_SAGA")
    assert caught.value.code == "E_UNKNOWN_SAGA"
