"""The checker on good runs: nothing is found, whatever the unknowns allow; and on those that take too long, or too little."""

from __future__ import annotations

import copy
import dataclasses
import tracemalloc

import msgspec
import pytest

from actors.orders import app
from loadgen.checker.books import Books
from loadgen.checker.limits import Limits
from loadgen.checker.logged import read_log
from loadgen.checker.report import CheckReport
from loadgen.checker.run import check, take_audit
from loadgen.checker.stores import Stores
from loadgen.history import History, Note
from loadgen.workload import Told
from orchestrator.audit import AuditReport
from orchestrator.log.reader import StoredRecord
from orchestrator.protocol.identifiers import make_id, partition_of_key
from orchestrator.protocol.records import Begun, Decided, Decision, Ended
from orchestrator.verdict import Check, Violation
from unit.good_run import good_run, told
from unit.shop_in_process import Shop, order
from unit.stores_in_memory import MemoryLog


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "data"
    return path, good_run(path)


@pytest.fixture
def run(made):
    return copy.deepcopy(made[1])


def broken(report: CheckReport) -> set[str]:
    return {invariant.value for invariant in report.findings}


def test_a_good_run_is_good(made):
    path, run = made
    report = check(run.history, path, app, Limits(commits_min=4, aborts_min=2, settle_ms=1_000))
    assert report.findings == {}
    assert report.left_out == []
    assert report.counts["told_committed"] == 5
    assert report.counts["told_aborted"] == 2
    assert report.counts["refusals_compared"] == 2
    assert report.counts["transitions_replayed"] > 0
    assert run.check().findings == {}  # and so is its copy


def test_whatever_the_unknowns_allow_is_good(run):
    for one in run.history.operations:
        one.told, one.transaction, one.code = Told.UNKNOWN, "", ""
    run.ask("never-arrived", Told.UNKNOWN)
    run.ask("k-0", Told.COMMITTED, run.id_of["k-0"])
    run.ask("refused-at-first", Told.REJECTED, code="E_OVERLOADED")
    run.ask("k-1", Told.REJECTED, code="E_OVERLOADED")  # the first request may have begun it
    run.ask("k-2", Told.REJECTED, code="E_KEY_CONFLICT")
    report = run.check()
    assert report.findings == {}
    assert (report.counts["unknown_committed"], report.counts["unknown_aborted"], report.counts["unknown_absent"]) == (4, 2, 1)
    assert report.counts["duplicates"] == 3


def test_what_does_not_end_in_time_is_not_live(run):
    run.history.notes.append(Note(0, run.log.stored[0].at_ms - 1, what="healed"))
    took_ms = run.check().counts["longest_to_end_ms"]
    assert run.check(settle_ms=took_ms).findings == {}
    assert broken(run.check(settle_ms=took_ms - 1)) == {"L"}
    run.history.notes.append(Note(0, run.log.stored[-1].at_ms, what="healed"))  # the last one counts
    assert run.check(settle_ms=0).findings == {}


def test_what_does_not_end_at_all_is_not_live(run):
    run.log.drop(Ended, run.id_of["k-0"])
    assert broken(run.check(settle_ms=1_000_000)) == {"L"}
    assert run.check().findings == {}  # nothing was asked
    assert run.check().counts["open"] == 1


def test_open_transactions_are_given_the_benefit_of_the_doubt(tmp_path):
    shop = Shop(tmp_path / "data")
    shop.submit("books", "open_books", {
        "stock": [{"sku": "85123A", "quantity": 10}], "accounts": [{"account": "c-1", "amount_minor": 100_000}]})
    shop.submit("k-1", "place_order", order(1))
    assert shop.submit("k-2", "place_order", order(2), until="shipping") is None  # held for ever, as far as anyone knows
    history = History([told(shop, "k-1", 300), told(shop, "k-2", 300)])
    shop.close()
    report = check(history, shop.path, app)
    assert report.findings == {}
    assert (report.counts["open"], report.counts["unknown_open"]) == (1, 1)
    assert report.left_out == ["audit: 1 open transactions: what they hold, and how they will end"]


def test_what_went_on_while_the_stores_were_opened_is_not_judged_by_its_state(run):
    """Inventory was read before the last commit of k-2 reached it; the log, read later, knows that it has ended."""
    row = run.ledger("inventory").replace(
        lambda row: row.transaction == run.id_of["k-2"], state="PREPARED", finished_ms=0)
    run.values("inventory")["order/o-2"] = "RESERVED"
    run.add_units(on_hand=2, reserved=2, sold=-2)
    assert row.state == "COMMITTED"
    assert "H" in {invariant.value for invariant in run.check().findings}
    settled = run.log.stored[run.log.of(Ended, run.id_of["k-2"])].sequence - 1
    run.stores = dataclasses.replace(run.stores, settled_sequence=settled)
    assert run.check().findings == {}


class EarlierOrders(MemoryLog):
    """Committed orders, each record decoded when it is asked for, as a reader's are."""

    def __init__(self, orders):
        super().__init__([], dict.fromkeys(range(256), 1))
        self.encoded = []
        for key in (f"run-{number}-0" for number in range(orders)):
            transaction = make_id(1_000, partition_of_key(key), 1, len(self.encoded))
            placed = msgspec.msgpack.encode({**order(0), "order_id": key})
            begun = Begun(transaction, key, b"", "place_order", 1, placed, 0, 0, 0, key)
            for record in (begun, Decided(transaction, Decision.COMMIT, 0), Ended(transaction, 0)):
                self.encoded.append(msgspec.msgpack.encode(record))

    def records(self):
        for sequence, encoded in enumerate(self.encoded, 1):
            yield StoredRecord(sequence, 1_000 + sequence, msgspec.msgpack.decode(encoded, type=Begun | Decided | Ended))


def test_little_is_kept_of_each_order_that_a_directory_held_before():
    log, report = EarlierOrders(2_000), CheckReport()
    tracemalloc.start()
    books = Books({"run-7-0"})
    found = read_log(Stores(log, {}), report, books.decided)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.ok
    assert len(found.by_id) == len(found.by_key) == len(books.orders) == 2_000
    assert books.amounts == {"run-7-0": 300}
    assert kept / 2_000 < 650


def test_a_process_that_was_killed_may_have_asked_before(run):
    run.lie("k-3", Told.REJECTED)
    run.history.killed.append("driver")
    report = run.check()
    assert report.findings == {}
    assert "driver" in report.left_out[0]


def test_purged_rows_are_no_violation(run):
    for name in ("inventory", "payment", "shipping", "notification"):
        ledger = run.ledger(name)
        ledger.let_go = True
        ledger.all_rows = [row for row in ledger.all_rows if row.transaction > run.id_of["k-1"]]
    del run.log.stored[:4]
    run.log.watermark_ms = int(run.id_of["k-1"][:12], 16) + 1
    run.history.operations = [one for one in run.history.operations if run.id_of[one.key] > run.id_of["k-1"]]
    report = run.check()
    assert report.findings == {}
    assert len(report.left_out) > 3


def test_the_audit_counts_too():
    audited = AuditReport()
    for _ in range(12):
        audited.add(Violation(Check.ATOMICITY, "t", "torn"))
    audited.add(Violation(Check.ORPHAN_HOLD, "t", "held"))
    report = CheckReport()
    take_audit(audited, report)
    assert {invariant.value: found.count for invariant, found in report.findings.items()} == {"A": 12, "H": 1}
    assert str(report.worst) == "A t: audit, atomicity: torn"


def test_an_app_that_is_not_the_shop_is_judged_without_its_books(run):
    del run.stores.ledgers["notification"]
    report = run.check()
    assert "stock and money: the app is not the shop" in report.left_out
    assert report.findings == {}
