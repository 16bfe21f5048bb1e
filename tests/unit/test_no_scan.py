"""No statement of a store's writer reads through a table that grows with the history, but for a handler that wants all keys."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Literal

import pytest

from actors.ledger import Row, RowState
from actors.reader import StoreReader
from actors.store import Retention, Store, create_store
from orchestrator.files import RealFiles
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import Act, Ended, Parked, Resolved
from unit.log_bench import COMMIT, NOW, Log, begun, decided

if TYPE_CHECKING:
    from pathlib import Path

# what has a row per partition, shard, service, pause, or step that waits for an operator
SMALL = {"meta", "partitions", "shards", "stores", "pauses", "resolutions", "epochs", "json_each"}
OF_WHAT_IS_OPEN = {"transactions_open", "transactions_parked", "ledger_prepared"}
CHECKS = re.compile(r"PRAGMA|BEGIN|COMMIT|ROLLBACK|EXPLAIN|--")  # no statement with a plan


class Watched(RealFiles):
    """Notes every statement that is run."""

    def __init__(self) -> None:
        self.statements: set[str] = set()

    def connect(self, path: Path, mode: Literal["rw", "ro"]) -> sqlite3.Connection:
        connection = super().connect(path, mode)
        connection.set_trace_callback(self.statements.add)
        return connection

    def scans(self, path: Path) -> list[str]:
        """Steps of plans that go through a whole table or index, with their statements."""
        connection = sqlite3.connect(path)
        found = []
        for statement in sorted(self.statements):
            if not CHECKS.match(statement):
                for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
                    if _goes_through(step):
                        found.append(f"{step}: {statement}")
        connection.close()
        return found


def _goes_through(step: str) -> bool:
    match = re.match(r"SCAN (\w+)(?:.* INDEX (\w+))?", step)
    return match is not None and match[1] not in SMALL and match[2] not in OF_WHAT_IS_OPEN


def test_a_plan_that_goes_through_a_table_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    create_log(path)
    watched = Watched()
    connection = watched.connect(path, "rw")
    connection.execute("SELECT txn FROM transactions WHERE txn > 'a' ORDER BY txn LIMIT 1").fetchall()
    assert watched.scans(path) == []
    connection.execute("SELECT txn FROM transactions WHERE ended_ms = 0 ORDER BY txn").fetchall()
    connection.close()
    (scan,) = watched.scans(path)
    assert scan.startswith("SCAN transactions")


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_the_log_in_all_it_does(tmp_path: Path, watched: Watched) -> None:
    path = tmp_path / "log.sqlite"
    create_log(path)
    log = Log(path)
    log.store.close()
    log.store = LogStore(path, "run", 10_000, clock=log.clock, files=watched)
    log.take()
    ended, held, parked = log.begin("ended"), log.begin("held"), log.begin("parked")
    log.append(decided(ended, COMMIT), Ended(ended, NOW), decided(parked, COMMIT), Parked(parked, "mail", "E_X", "", NOW))
    log.append(Resolved(parked, "mail", COMMIT, "ann", "told by hand", NOW), begun(log.id(), "ended"))
    log.append(Ended(parked, NOW))
    log.store.register_store("payment", "uuid", 1)
    log.store.pause(Act("", ActKind.PAUSE, "ann", "", NOW, saga="order"), NOW)
    log.store.close()
    log.store = LogStore(path, "run", 10_000, clock=log.clock, files=watched)
    reader = LogReader(path, files=watched)
    assert (reader.open_count(), reader.backlog(NOW).open) == (1, 1)
    reader.close()
    assert [one.begun.transaction for one in log.take("second").open] == [held, parked]  # the latter waits for its ledger
    for later in range(1, 4):
        log.append(incarnation="second", now_ms=NOW + later * 60_000)
        log.store.purge(NOW + later * 60_000, 10)
    log.append(decided(held, COMMIT), Ended(held, NOW), incarnation="second", now_ms=NOW + 300_000)
    log.store.purge(NOW + 400_000, 10)  # the watermark rises with it
    assert log.store.purge(NOW + 401_000, 10) == 2  # but for the one that waits for its ledger
    log.store.close()
    assert watched.scans(path) == []


def test_a_service_in_all_it_does(tmp_path: Path, watched: Watched) -> None:
    path = tmp_path / "payment.sqlite"
    create_store(path, "payment")
    store = Store(path, "payment", "run", files=watched)
    row = Row(make_id(NOW, 7, 1, 1), "pay", "authorize", RowState.PREPARED, b"f", b"r", b"", "", "", 1, NOW, 0)
    key = (row.transaction, row.step)
    store.begin()
    store.write({key: row}, {}, {"account/ann": b"\x01", "account/bob": b"\x01"}, {7: 1})
    store.commit({key: row}, {"account/ann": b"\x01", "account/bob": b"\x01"})
    store.close()
    store = Store(path, "payment", "run", files=watched)
    assert store.prepared_keys() == [key]
    assert store.value("account/ann") == b"\x01"
    store.begin()
    assert store.load([key]) == {key: row}
    assert store.retain(Retention(NOW + 60_000))
    done = Row(*key, "authorize", RowState.COMMITTED, b"f", b"r", b"", "", "", 1, NOW, NOW)
    store.write({key: done}, {key: row}, {"account/bob": None}, {})
    store.commit({key: done}, {"account/bob": None})
    store.begin()
    assert store.retain(Retention(NOW + 120_000))
    store.commit({}, {})
    assert store.load([key]) == {}
    reader = StoreReader(path, files=watched)
    assert list(reader.held()) == []
    reader.close()
    store.close()
    assert watched.scans(path) == []
