"""The real stores on a real file system that is filled in the middle of a load and freed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from actors.room import run_batch
from actors.runner import BatchRunner
from actors.store import Retention, Store, create_store
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.messages import Kind, Status
from orchestrator.protocol.records import Ended
from unit.disk_bench import Shard
from unit.log_bench import COMMIT, DAY, NOW, begun, decided, statuses
from unit.small_disk import fill, mount
from unit.test_disk_full import ACK, FULL, hold
from unit.test_service_base import Vault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BALLAST = 4 << 20
LATER = NOW + 5_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mount(tmp_path / "disk", 24) as where:
        yield where


def test_the_log_refuses_finishes_and_resumes(disk: Path) -> None:
    path = disk / "log.sqlite"
    create_log(path)
    shard = Shard(LogStore(path, "run", 7 * DAY, ballast_bytes=BALLAST))
    txns = [shard.id() for _ in range(400)]
    for txn in txns:
        assert statuses(shard.append(begun(txn, f"key {txn}"))) == ["STORED"]
    fill(disk)
    refused = 0
    for number, txn in enumerate(txns):
        refused += statuses(shard.append(begun(shard.id(), f"new {number}"))) == ["FULL"]
        assert statuses(shard.append(decided(txn, COMMIT))) == ["STORED"]
        assert statuses(shard.append(Ended(txn, NOW))) == ["STORED"]
    assert refused > 350
    (disk / "filler").unlink()
    assert statuses(shard.append(begun(shard.id(), "later"), now_ms=LATER)) == ["STORED"]
    shard.store.close()
    reader = LogReader(path)
    assert reader.verify() == []
    assert reader.counts()["committed"] == len(txns)
    reader.close()


def test_a_log_that_dies_on_the_full_disk_is_succeeded_on_it(disk: Path) -> None:
    path = disk / "log.sqlite"
    create_log(path)
    shard = Shard(LogStore(path, "run", 7 * DAY, ballast_bytes=BALLAST))
    txns = [shard.id() for _ in range(100)]
    shard.append(*(begun(txn, f"key {txn}") for txn in txns))
    shard.store.close()
    fill(disk)
    with pytest.raises(OSError, match="No space"):
        LogStore(path, "run", 7 * DAY, ballast_bytes=BALLAST)  # the lock, given up in order, has to be written: it waits


def test_a_service_refuses_finishes_and_resumes(disk: Path) -> None:
    path = disk / "vault.sqlite"
    create_store(path, "vault")
    store = Store(path, "vault", "run", ballast_bytes=BALLAST)
    runner = BatchRunner("vault", Vault().bound, store)

    def run(*works: object, now_ms: int = NOW) -> list[tuple[Status, str]]:
        outcomes = run_batch(runner, store, works, Retention(), now_ms)  # type: ignore[arg-type]
        return [(outcome.reply.status, outcome.reply.code) for outcome in outcomes if outcome.reply is not None]

    for number in range(400):
        assert run(hold(number)) == [(Status.YES, "")]
    fill(disk)
    refused = 0
    for number in range(400):
        refused += run(hold(number + 1_000)) == [FULL]
        kind = Kind.COMMIT if number % 2 else Kind.ROLLBACK
        assert run(hold(number, kind), hold(number + 1_000, Kind.ROLLBACK)) == [ACK, ACK]
    assert refused > 350
    (disk / "filler").unlink()
    assert run(hold(5_000), now_ms=LATER) == [(Status.YES, "")]
    store.close()
