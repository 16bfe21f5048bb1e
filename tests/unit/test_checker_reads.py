"""Isolation and cycles: what a reader saw between any two messages of a real run, and what nobody could have seen."""

from __future__ import annotations

import copy
from contextlib import closing

import pytest

from actors.orders import app
from loadgen.checker.limits import Limits
from loadgen.checker.report import CheckReport
from loadgen.checker.run import check_stores
from loadgen.history import History, Read
from loadgen.watching import ABSENT, HELD, LOOKS_AFTER, ORDERS_MAX, SETTLED, View
from orchestrator.deployment import DataDirectory
from unit.good_run import give_back
from unit.shop_in_process import Shop, order
from unit.stores_in_memory import MemoryLedger, in_memory

SERVICES = ("inventory", "payment", "shipping")


class WatchedShop(Shop):
    """A shop whose databases are read after every call of a service."""

    def __init__(self, path):
        self.reads = []
        self._views = {service: View(service) for service in SERVICES}
        super().__init__(path)

    def _call(self, service, commands):
        effects = super()._call(service, commands)
        for name, view in self._views.items():
            with closing(app.by_service[name].reader(DataDirectory(self.path).service_path(name))) as reader:
                held, books, phases = view.look(reader)
            self.reads.append(Read(len(self.reads), self.now_ms, service=name, held=held, books=books, phases=phases))
        return effects


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three orders committed, one that was held and rolled back for its money, one return; read all the while."""
    shop = WatchedShop(tmp_path_factory.mktemp("reads") / "data")
    shop.submit("books", "open_books", {
        "stock": [{"sku": "85123A", "quantity": 10}],
        "accounts": [{"account": "c-1", "amount_minor": 100_000}, {"account": "c-2", "amount_minor": 10}]})
    shop.submit("k-0", "place_order", order(0))
    shop.submit("k-4", "place_order", {**order(4), "customer": "c-2"})
    shop.submit("k-1", "place_order", order(1))
    shop.submit("r-1", "return_items", give_back(1, 1))
    shop.submit("k-2", "place_order", order(2))
    shop.close()
    return shop.reads, in_memory(shop.path, app)


@pytest.fixture
def reads(made):
    return copy.deepcopy(made[0])


@pytest.fixture
def judged(made):
    def judge(reads):
        report = CheckReport()
        check_stores(History(reads=reads), made[1], app, Limits(), report)
        return report

    return judge


def broken(report):
    return {invariant.value for invariant in report.findings}


def first(reads, service, fits):
    return next(read for read in reads if read.service == service and fits(read))


def last(reads, service, fits):
    return first(reads[::-1], service, fits)


def test_a_reader_sees_orders_come_and_go(reads, judged):
    report = judged(reads)
    assert report.findings == {}
    assert report.counts["reads"] == len(reads)
    assert report.counts["orders_watched"] == 4
    assert report.counts["versions_read"] > 20
    shown = [read.phases.get("o-4", "not followed") for read in reads if read.service == "inventory"]
    assert HELD in shown
    assert shown.index(ABSENT) > shown.index(HELD)
    assert any(read.phases.get("o-0") == SETTLED for read in reads)
    assert any(read.held and read.books["85123A"]["held"] == 2 for read in reads if read.service == "inventory")


def is_held(read):
    return bool(read.held and read.books)


def shows(name, phase):
    return lambda read: read.phases.get(name) == phase


def free_what_is_held(reads):
    first(reads, "inventory", is_held).books["85123A"]["held"] = 0


def keep_what_is_free(reads):
    first(reads, "payment", is_held).books["c-1"]["held"] += 1


def below_zero(reads):
    read = first(reads, "inventory", is_held)
    read.books["85123A"].update(on_hand=1, sold=read.books["85123A"]["sold"] + read.books["85123A"]["on_hand"] - 1)


def torn_books(reads):
    first(reads, "inventory", is_held).books["85123A"]["sold"] += 1


def aborted_sold(reads):
    last(reads, "inventory", shows("o-4", ABSENT)).phases["o-4"] = SETTLED


def committed_let_go(reads):
    at = reads.index(first(reads, "payment", shows("o-0", SETTLED)))
    between = copy.deepcopy(reads[at])
    between.phases = {"o-0": ABSENT}
    reads.insert(at, between)


def settled_and_gone(reads):
    last(reads, "shipping", shows("o-0", SETTLED)).phases["o-0"] = ABSENT


def held_once_more(reads):
    last(reads, "inventory", shows("o-4", ABSENT)).phases["o-4"] = HELD


def holder_not_shown(reads):
    first(reads, "payment", is_held).phases["o-0"] = ABSENT


def unknown_holder(reads):
    read = first(reads, "payment", is_held)
    read.held = {"f" * 32: next(iter(read.held.values()))}


def unknown_order(reads):
    reads[-1].phases["nobody's"] = HELD


@pytest.mark.parametrize(("spoil", "told"), [
    (free_what_is_held, "the difference shows as available"), (keep_what_is_free, "is kept from everybody"),
    (below_zero, "-1 available"), (torn_books, "do not add up"), (aborted_sold, "a reader saw it settled"),
    (committed_let_go, "a reader saw it let go"), (settled_and_gone, "was seen settled at shipping, then let go"),
    (held_once_more, "was let go at inventory, then seen HELD"), (holder_not_shown, "which was shown absent"),
    (unknown_holder, "the log does not know it"), (unknown_order, "the log does not know it"),
])
def test_what_nobody_may_see_is_found(reads, judged, spoil, told):
    spoil(reads)
    report = judged(reads)
    assert "I" in broken(report)
    found = next(one for invariant, one in report.findings.items() if invariant.value == "I")
    assert told in found.first.text or told in found.worst.text


def back_in_time(reads):
    """A later read shows older books."""
    of_inventory = [at for at, read in enumerate(reads) if read.service == "inventory" and read.books]
    old, new = of_inventory[0], of_inventory[-1]
    reads[old].books, reads[new].books = reads[new].books, reads[old].books
    reads[old].held, reads[new].held = {}, {}


def torn_snapshot(reads):
    """One order as it is now, beside one that committed later as if it were there already."""
    read = first(reads, "inventory", shows("o-0", HELD))
    read.phases["o-1"] = SETTLED


def impossible_value(reads):
    first(reads, "inventory", is_held).books["85123A"].update(on_hand=7, received=7)


@pytest.mark.parametrize(("spoil", "told"), [
    (back_in_time, "G-single"), (torn_snapshot, "G-single"), (impossible_value, "never so by the ledger")])
def test_what_no_order_explains_is_found(reads, judged, spoil, told):
    spoil(reads)
    report = judged(reads)
    assert "G" in broken(report)
    found = next(one for invariant, one in report.findings.items() if invariant.value == "G")
    assert told in found.first.text or told in found.worst.text


def test_transitions_of_one_millisecond_have_no_order(made, reads):
    """Where time cannot tell transitions apart, a reader between them is believed, and one outside of them is not."""
    stores = copy.deepcopy(made[1])
    for ledger in stores.ledgers.values():
        assert isinstance(ledger, MemoryLedger)
        ledger.all_rows = [
            type(row)(*(*(getattr(row, name) for name in row.__struct_fields__[:-2]), 5, 5 if row.finished_ms else 0))
            for row in ledger.all_rows]
    report = CheckReport()
    check_stores(History(reads=reads), stores, app, Limits(clock_ms=1 << 60), report)
    assert "G" not in broken(report)
    assert report.counts["reads_within_a_millisecond"] > 0
    impossible_value(reads)
    first(reads, "inventory", is_held).books["85123A"]["received"] = 11
    report = CheckReport()
    check_stores(History(reads=reads), stores, app, Limits(clock_ms=1 << 60), report)
    assert "G" in broken(report)


def test_purged_ledgers_have_no_versions(made, reads):
    stores = copy.deepcopy(made[1])
    for ledger in stores.ledgers.values():
        ledger.let_go = True
    report = CheckReport()
    check_stores(History(reads=reads), stores, app, Limits(), report)
    assert report.findings == {}
    assert "dependencies at inventory: rows were purged" in report.left_out


def test_a_view_follows_so_many_orders_and_no_longer_than_it_must(made):
    ledger = copy.deepcopy(made[1].ledgers["inventory"])
    sample = next(row for row in ledger.all_rows if row.operation == "reserve" and row.state == "COMMITTED")
    fields = {name: getattr(sample, name) for name in sample.__struct_fields__}
    ledger.all_rows = [
        type(sample)(**{**fields, "transaction": f"{number:032x}", "state": "PREPARED", "request": {
            "order_id": f"x-{number}", "lines": [["85123A", 1]]}}) for number in range(ORDERS_MAX + 5)]
    view = View("inventory")
    assert len(view.look(ledger).phases) == ORDERS_MAX
    ledger.all_rows = []
    assert len([None for _ in range(2 * LOOKS_AFTER) if view.look(ledger).phases]) == LOOKS_AFTER - 1
