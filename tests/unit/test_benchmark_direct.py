"""What the benchmarks write directly is what the services leave, and the audit would notice if it were not."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.ledger import Row
from actors.runner import BatchRunner, Work
from actors.store import Retention, Store, row_of, value_crc
from benchmarks import orders, past
from benchmarks.direct.stores import DirectStores
from benchmarks.direct.writer import OrderWriter
from benchmarks.past import write_history
from benchmarks.plan import Measured, Plan, System
from benchmarks.run import run
from benchmarks.shop_in_memory import Money, Outbox, Parcels, Stock
from benchmarks.verdict import judge_stored
from loadgen.workload import Workload
from orchestrator.app import load_app
from orchestrator.audit import audit
from orchestrator.deployment import DataDirectory
from orchestrator.log.store import LogStore
from orchestrator.protocol.messages import Command, Kind
from orchestrator.saga import Context, Step, decode_plain, encode_plain

SHOP = load_app("actors.orders:app")
PLAN = Plan(system=System.FLOOR, orders=40, warm_up=5, concurrency=16)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def opened(stores: DirectStores, workload: Workload) -> None:
    for number, books in enumerate(workload.opening_books()):
        stores.open_books(f"{workload.run}-books-{number}", books)


def left(store: Store) -> tuple[list[Row], dict[str, bytes]]:
    """Rows and values of a service."""
    connection = store.database.connection
    rows = [row_of(columns) for columns in connection.execute(
        "SELECT * FROM ledger WHERE operation NOT IN ('receive', 'deposit')")]
    values = dict(connection.execute("SELECT key, value FROM state"))
    assert None not in rows
    return [row for row in rows if row is not None], values


def by_the_services(stores: DirectStores, workload: Workload) -> None:
    """One order, by the handlers of the services."""
    saga = stores.app.saga("place_order")
    model = saga.validate_input(workload.work(0).input)
    results: dict[str, Any] = {}
    txn = stores.new_id("key", now_ms())

    def handle(step: Step, kind: Kind) -> None:
        request = b"" if kind is Kind.COMMIT else encode_plain(step.request(Context(txn, model, results)))
        service: Any = stores.app.by_service[step.service]
        runner = BatchRunner(step.service, service.bound, stores.services[step.service])
        command = Command(txn, step.name, kind, 1, 1, step.operation, request)
        (outcome,) = runner.run([Work(command, "")], Retention(), now_ms())
        assert outcome.reply is not None
        results[step.name] = decode_plain(outcome.reply.result)

    for kind, steps in ((Kind.PREPARE, saga.prepares), (Kind.COMMIT, saga.prepares), (Kind.PERFORM, saga.performs)):
        for step in steps:
            handle(step, kind)


def test_an_order_written_directly_is_what_the_services_leave(tmp_path: Path) -> None:
    workload = orders.workload_of(PLAN)
    with DirectStores(tmp_path / "a", now_ms) as direct, DirectStores(tmp_path / "b", now_ms) as theirs:
        opened(direct, workload)
        opened(theirs, workload)
        OrderWriter(direct).write([workload.work(0).input])
        by_the_services(theirs, workload)
        for service in direct.services:
            mine, values = left(direct.services[service])
            other, other_values = left(theirs.services[service])
            same = [[msgspec.structs.replace(row, transaction="", prepared_ms=0, finished_ms=0) for row in rows]
                    for rows in (mine, other)]
            assert same[0] == same[1], service
            assert values == other_values, service


def test_the_record_of_a_begin_has_the_input_as_a_client_encodes_it() -> None:
    workload = orders.workload_of(PLAN)
    for number in range(PLAN.orders):
        placed = workload.work(number).input
        assert msgspec.msgpack.encode(placed) == SHOP.saga("place_order").encode_input(placed)


def test_the_floor_in_its_smallest_form() -> None:
    measured = run(PLAN)
    assert measured.ok, measured.notes
    assert measured.orders == measured.committed == 40
    assert measured.wall_s > 0
    assert measured.cpu_us_per_order["client"] > 0


@pytest.fixture(name="original", scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("history") / "data"
    write_history(data, 60, plan=PLAN, span_ms=3_600_000)
    return data


@pytest.fixture(name="history")
def copied(original: Path, tmp_path: Path) -> Path:
    """A copy without its ballast, which takes long to make."""
    return Path(shutil.copytree(original, tmp_path / "data", ignore=shutil.ignore_patterns("*.ballast")))


def test_a_history_is_right_and_a_log_goes_on_from_it(history: Path) -> None:
    report = audit(history, SHOP)
    assert report.ok, report.to_json()
    assert report.to_json()["committed"] == 60
    log = LogStore(DataDirectory(history).log_path, "next", 3_600_000, ballast_bytes=0)
    assert log.open_count == 0
    log.close()


def test_a_deployment_forgets_a_history_from_the_first_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "GROUP", 10)
    write_history(tmp_path / "data", 60, plan=PLAN, span_ms=600_000)
    log = LogStore(DataDirectory(tmp_path / "data").log_path, "next", 600_000)
    began_ms = now_ms() - 600_000
    assert abs(log.watermark_ms - began_ms) < 120_000, "a watermark that lies far behind takes its time to catch up"
    log.close()


def test_a_history_goes_as_far_back_as_it_is_asked_to(history: Path) -> None:
    with closing(sqlite3.connect(DataDirectory(history).log_path)) as connection:
        first, last = connection.execute("SELECT MIN(began_ms), MAX(began_ms) FROM transactions").fetchone()
    assert 0 <= now_ms() - first - 3_600_000 < 60_000
    assert last < now_ms()


@pytest.mark.parametrize("damage", ["stock", "row"])
def test_the_audit_notices_a_history_that_is_wrong(history: Path, damage: str) -> None:
    with closing(sqlite3.connect(DataDirectory(history).service_path("inventory"), isolation_level=None)) as connection:
        if damage == "row":
            connection.execute("DELETE FROM ledger WHERE txn = (SELECT MAX(txn) FROM ledger)")
        else:
            key, value = connection.execute("SELECT key, value FROM state WHERE key LIKE 'sku/%' LIMIT 1").fetchone()
            units = msgspec.msgpack.decode(value)
            units[0] += 1
            wrong = msgspec.msgpack.encode(units)
            connection.execute("UPDATE state SET value = ?, crc = ? WHERE key = ?", (wrong, value_crc(key, wrong), key))
    assert not audit(history, SHOP).ok


@pytest.mark.parametrize(("told", "counts"), [(60, True), (61, False), (59, False)])
def test_a_run_counts_only_if_the_log_has_what_was_told(history: Path, told: int, *, counts: bool) -> None:
    measured = Measured(ok=True, orders=told, committed=told, wall_s=1)
    judge_stored(measured, history, SHOP, began_ms=0, told=told)
    assert measured.ok is counts
    assert bool(measured.notes) is not counts


LINES = [{"sku": "A", "quantity": 2}, {"sku": "A", "quantity": 1}, {"sku": "B", "quantity": 1}]


def test_the_shop_in_memory_oversells_nothing() -> None:
    stock = Stock()
    stock.receive([{"sku": "A", "quantity": 4}, {"sku": "B", "quantity": 1}])
    assert stock.take("one", LINES)
    assert not stock.take("two", LINES)
    assert stock.adds_up(1)
    assert not stock.adds_up(2)
    stock.put_back("one")
    assert stock.take("two", LINES)


def test_the_shop_in_memory_spends_nothing_twice() -> None:
    money = Money()
    money.deposit([{"account": "x", "amount_minor": 10}])
    assert money.charge("one", "x", 7)
    assert not money.charge("two", "x", 7)
    assert money.adds_up(1)
    assert not money.adds_up(0)
    money.refund("one")
    assert money.charge("two", "x", 10)


def test_the_shop_in_memory_ships_and_tells_once() -> None:
    parcels, outbox = Parcels(), Outbox()
    assert parcels.create("one", "France")
    assert not parcels.create("one", "France")
    outbox.send("one", "a@example.com", "T1")
    assert parcels.adds_up(1)
    assert outbox.adds_up(1)
    parcels.cancel("one")
    assert not parcels.adds_up(1)
    assert not outbox.adds_up(2)
