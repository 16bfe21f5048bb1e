"""Audit and timeline over real databases: the core, the log and the services' stores in one process, without Ray."""

from __future__ import annotations

import json
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from actors.orders import app
from actors.runner import BatchRunner
from actors.store import Retention, Store, value_crc
from orchestrator.audit import AuditReport, audit
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol.messages import OutcomeStatus
from orchestrator.saga import encode_plain
from orchestrator.timeline import timeline
from unit.shop_in_process import RETENTION_MS, Shop, order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Books opened, three orders committed, one refused, one returned."""
    made = Shop(tmp_path / "data")
    made.submit("books", "open_books", {
        "stock": [{"sku": "85123A", "quantity": 10}], "accounts": [{"account": "c-1", "amount_minor": 100_000}]})
    for number in range(3):
        made.submit(f"k-{number}", "place_order", order(number))
    made.submit("k-3", "place_order", order(3, quantity=50))
    back = {"return_id": "r-1", "order_id": "o-1", "customer": "c-1", "amount_minor": 150,
            "lines": [{"sku": "85123A", "quantity": 1, "unit_price_minor": 150}]}
    made.submit("r-1", "return_items", back)
    yield made
    made.close()


def purge(shop: Shop) -> None:
    """Let the retention period pass: the log forgets first, as it does for real, then every service."""
    shop.now_ms += RETENTION_MS + 60_000
    assert shop.log.purge(shop.now_ms, 1_000) == 0  # raises the watermark; it counts once it is durable
    assert shop.log.purge(shop.now_ms, 1_000) == 6
    for runner in shop.runners.values():
        runner.run([], Retention(shop.log.watermark_ms), shop.now_ms)


def found(report: AuditReport) -> set[str]:
    return {check for check, count in report.by_check.items() if count}


def damage(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(sql).rowcount > 0
    connection.close()


def test_a_run_is_right_beside_its_owners_and_after_them(shop: Shop) -> None:
    beside = audit(shop.path, app)
    shop.close()
    after = audit(shop.path, app)
    assert beside == after
    assert (beside.ok, beside.open, beside.committed, beside.aborted) == (True, 0, 3, 1)
    assert beside.left_out == []
    plain = json.loads(json.dumps(beside.to_json()))
    assert (plain["units_sold"], plain["captured_minor"], plain["refunded_minor"]) == (6, 900, 150)
    assert plain["by_saga"]["return_items"] == {"committed": 1, "aborted": 0, "open": 0}


def test_a_run_is_right_after_its_rows_were_purged(shop: Shop) -> None:
    before = audit(shop.path, app).totals
    purge(shop)
    assert shop.submit("k-5", "place_order", order(5, quantity=1)) is not None
    beside = audit(shop.path, app)
    assert (beside.examples, beside.totals["units_sold"]) == ([], before["units_sold"] + 1)
    for name, store in shop.stores.items():
        store.close()
        shop.stores[name] = Store(store.path, name, "run")
    assert audit(shop.path, app) == beside


def test_an_oversell_is_found_after_a_purge(shop: Shop) -> None:
    purge(shop)
    shop.close()
    path = DataDirectory(shop.path).service_path("inventory")
    sold_too_many = encode_plain([-2, 0, 13, 1, 10])  # on hand, reserved, sold, returned, received
    damage(path, "UPDATE state SET value = x'{}', crc = {} WHERE key = 'sku/85123A'".format(
        sold_too_many.hex(), value_crc("sku/85123A", sold_too_many)))
    report = audit(shop.path, app)
    assert found(report) == {"conservation"}
    assert any("units reserved of those on hand: 0 is not within 0 and -2" in one.text for one in report.examples)


def test_an_open_transaction_is_left_out_not_a_violation(shop: Shop) -> None:
    assert shop.submit("k-9", "place_order", order(9), until="shipping") is None
    report = audit(shop.path, app)
    assert (report.ok, report.open) == (True, 1)
    assert report.left_out == ["1 open transactions: what they hold, and how they will end"]


@pytest.mark.parametrize(("service", "sql", "check"), [
    ("payment", "DELETE FROM ledger WHERE step = 'authorize' AND state = 2", "atomicity"),
    ("inventory", "UPDATE state SET value = x'93010203' WHERE key LIKE 'sku/%'", "conservation"),  # not even readable
    ("inventory", "DELETE FROM state WHERE key LIKE 'sku/%'", "conservation"),
    ("shipping", "UPDATE ledger SET state = 0 WHERE state = 2", "conservation"),  # its checksum no longer fits
])
def test_a_ledger_that_was_tampered_with(shop: Shop, service: str, sql: str, check: str) -> None:
    shop.close()
    damage(DataDirectory(shop.path).service_path(service), sql)
    report = audit(shop.path, app)
    assert not report.ok
    assert check in found(report)


@pytest.mark.parametrize(("sql", "checks"), [
    ("UPDATE transactions SET state = 4 WHERE state = 2", {"atomicity", "transaction_log"}),
    ("DELETE FROM transactions WHERE state = 2", {"unknown_transaction", "transaction_log"}),
    ("DELETE FROM records WHERE sequence = 5", {"transaction_log"}),
])
def test_a_log_that_was_tampered_with(shop: Shop, sql: str, checks: set[str]) -> None:
    shop.close()
    damage(DataDirectory(shop.path).log_path, sql)
    assert checks <= found(audit(shop.path, app))


def test_damage_that_stops_the_services_own_checks_is_named_all_the_same(shop: Shop) -> None:
    shop.close()
    path = DataDirectory(shop.path).service_path("inventory")
    damage(path, "UPDATE state SET value = x'93010203' WHERE key LIKE 'sku/%'")
    damage(path, "UPDATE ledger SET attempts = 9 WHERE operation = 'receive'")
    texts = [one.text for one in audit(shop.path, app).examples if one.check == "conservation"]
    (transaction,) = [outcome.transaction for key, outcome in shop.outcomes.items() if key == "books"]
    assert texts[0] == f"inventory: the ledger row of {transaction} receive is damaged: its checksum does not fit"
    assert texts[1] == "inventory: the state's value of 'sku/85123A' is damaged: its checksum does not fit"
    assert "inventory: its checks failed with ValueError" in texts[2]


def test_a_service_restored_from_an_older_copy(shop: Shop, tmp_path: Path, occurred) -> None:
    path = DataDirectory(shop.path).service_path("payment")
    shop.stores["payment"].close()
    shutil.copy(path, tmp_path / "older.sqlite")
    shop.stores["payment"] = Store(path, "payment", "run")
    shop.runners["payment"] = BatchRunner(
        "payment", app.by_service["payment"].bound, shop.stores["payment"])  # type: ignore[attr-defined]
    assert shop.submit("k-8", "place_order", order(8)) is not None
    shop.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copy(tmp_path / "older.sqlite", path)
    report = audit(shop.path, app)
    assert report.worst_violation is not None
    assert (report.by_check["atomicity"], report.worst_violation.text) == (
        1, "step 'authorize' at payment is without a row, but the log says COMMITTED")
    occurred("94")


def test_a_missing_database_is_refused_unless_it_never_was(shop: Shop) -> None:
    shop.close()
    directory = DataDirectory(shop.path)
    directory.service_path("notification").unlink()
    with pytest.raises(DefiniteError) as caught:
        audit(shop.path, app)
    assert caught.value.code == ErrorCode.STORE_REFUSED
    manifest = json.loads((shop.path / "created.json").read_text())
    del manifest["services"]["notification"]
    (shop.path / "created.json").write_text(json.dumps(manifest))
    assert "service 'notification': it has no database here yet" in audit(shop.path, app).left_out


def test_the_timeline_of_a_committed_order(shop: Shop) -> None:
    outcome = shop.outcomes["k-0"]
    assert outcome.status is OutcomeStatus.COMMITTED
    view = timeline(shop.path, app, outcome.transaction)
    what = [event.what for event in view.events]
    assert what[0] == "begun: place_order version 1"
    assert what[-1] == "ended"
    assert what.index("create: PREPARED") < what.index("decided COMMIT") < what.index("create: COMMITTED")
    assert [one.state for one in view.steps] == ["COMMITTED", "COMMITTED", "COMMITTED", "DONE"]
    assert "tok_canary" not in json.dumps(view.to_json())


def test_the_timeline_of_a_refused_order(shop: Shop) -> None:
    outcome = shop.outcomes["k-3"]
    assert (outcome.status, outcome.code) == (OutcomeStatus.ABORTED, "OUT_OF_STOCK")
    view = timeline(shop.path, app, outcome.transaction)
    assert (view.state, view.code, view.step, view.business_key) == ("ABORTED", "OUT_OF_STOCK", "reserve", "o-3")
    assert {one.step: one.state for one in view.steps} == {
        "reserve": "REFUSED", "authorize": "ROLLED_BACK", "ship": "", "notify": ""}


def test_a_timeline_without_one_of_the_ledgers_says_so(shop: Shop) -> None:
    shop.close()
    DataDirectory(shop.path).service_path("shipping").unlink()
    view = timeline(shop.path, app, shop.outcomes["k-0"].transaction)
    assert len(view.notes) == 1
    assert "the ledger of shipping is left out" in view.notes[0]
