"""Figures of the log and of a service, over their real stores."""

from __future__ import annotations

from pathlib import Path

import msgspec

from actors.doubt import Doubts
from actors.meter import ServiceMeter
from actors.store import Store, create_store
from orchestrator.config import Settings
from orchestrator.log.actor import LogSpec, TransactionLog
from orchestrator.log.store import create_log
from orchestrator.metrics.reading import series, total
from orchestrator.metrics.sizes import database_bytes, directory_bytes, free_bytes
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Kind, Status
from orchestrator.protocol.records import AppendRequest, Begun, Decided, Decision, EpochRecord, Parked, TakeRequest, encode

NOW_MS = 1_700_000_000_000


async def test_the_log_tells_what_it_stored_and_what_is_parked(tmp_path: Path) -> None:
    create_log(tmp_path / "log" / "log.sqlite")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "log-1.jsonl").write_bytes(b"12345")
    log = TransactionLog(LogSpec(str(tmp_path), "raytx-test", "run", Settings(log_level="OFF").pack()))
    before = msgspec.msgpack.decode(await log.status())["figures"]
    assert (total(before, "serving"), set(before["metrics"])) == (0, {"serving"})
    await log.take(encode(TakeRequest(1, 0, "first", [7], 1, "run")))
    txn = make_id(NOW_MS, 7, 1, 1)
    records = [
        Begun(txn, "k", b"a" * 16, "order", 1, b"input", NOW_MS, NOW_MS + 30_000, 30_000),
        Decided(txn, Decision.COMMIT, NOW_MS),
        Parked(txn, "pay", "E_VIOLATION", "", NOW_MS), Parked(txn, "ship", "E_X", "", NOW_MS)]
    await log.append(encode(AppendRequest(1, 0, "first", 1, [EpochRecord(1, record) for record in records])))
    found = msgspec.msgpack.decode(await log.status())["figures"]
    assert (total(found, "serving"), total(found, "log_open"), total(found, "parked")) == (1, 1, 1)
    assert {one["code"]: one["value"] for one in series(found, "parked_steps")} == {"E_VIOLATION": 1, "E_X": 1}
    assert (total(found, "log_appends"), total(found, "log_records"), total(found, "log_commit_records")) == (1, 4, 1)
    assert total(found, "commit_ms") >= 3  # it was opened, taken and appended to
    assert total(found, "log_files_bytes") == 5
    log._endpoint.count("oversized")
    told = msgspec.msgpack.decode(await log.status())["figures"]
    assert series(told, "connections_refused") == [{"reason": "oversized", "value": 1}]
    log._purging.cancel()
    log._writer.close()
    log._readers.shutdown()


def test_a_service_tells_its_answers_batches_and_doubts(tmp_path: Path) -> None:
    path = tmp_path / "payment.sqlite"
    create_store(path, "payment")
    doubts, meter = Doubts(1_000), ServiceMeter("payment", {"malformed": 2})
    assert set(meter.figures(None, doubts, 0)["metrics"]) == {"serving", "connections_refused"}
    store = Store(path, "payment", "run")
    doubts.heard(("a", "pay"), 0)
    doubts.heard(("b", "pay"), 1_500)
    assert doubts.due(1_000, 10) == [("a", "pay")]
    meter.answers[Kind.PREPARE][Status.YES] += 2
    meter.began_s = 10.0
    meter.finished(2, 10.25)
    found = meter.figures(store, doubts, 3)
    assert series(found, "answers") == [{"service": "payment", "message": "prepare", "status": "yes", "value": 2}]
    assert (total(found, "held"), total(found, "in_doubt"), total(found, "pending")) == (2, 1, 3)
    (batch,) = series(found, "batch_ms")
    assert (batch["count"], batch["sum"]) == (1, 250)
    assert total(found, "commit_ms") == 1  # its opening
    assert total(found, "database_bytes") == database_bytes(path) > 0
    assert series(found, "connections_refused") == [{"reason": "malformed", "value": 2}]
    store.close()


def test_sizes_of_what_is_not_there_are_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert (database_bytes(missing), directory_bytes(missing), free_bytes(missing)) == (0, 0, 0)
    assert free_bytes(tmp_path) > 0
