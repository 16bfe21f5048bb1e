"""The retention watermark, purging and compaction of the transaction log."""


from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from orchestrator.log.reader import LogReader
from orchestrator.log.store import create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import (
    Ended,
    Parked,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
from unit.log_bench import ABORT, COMMIT, DAY, NOW, Log, begun, decided, sole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "log.sqlite"
    create_log(found)
    return found


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    log = Log(path)
    yield log
    log.store.close()


def test_the_watermark_is_held_back_by_the_oldest_open_transaction(log: Log) -> None:
    log.retention_ms = 10_000
    log.reopen()
    log.take()
    txn = log.begin("k")
    reply = sole(log.store.append([log.request()], NOW + 60_000))
    assert (reply.watermark_ms, reply.exempt) == (NOW, [])
    log.append(decided(txn, COMMIT), Ended(txn, NOW), now_ms=NOW + 61_000)
    assert sole(log.store.append([log.request()], NOW + 63_000)).watermark_ms == NOW + 53_000


def test_a_parked_transaction_is_exempt_instead(log: Log) -> None:
    log.retention_ms = 10_000
    log.reopen()
    log.take()
    txn = log.begin("k")
    log.append(decided(txn, COMMIT), Parked(txn, "mail", "E_X", "", NOW))
    reply = sole(log.store.append([log.request()], NOW + 60_000))
    assert (reply.watermark_ms, reply.exempt) == (NOW + 50_000, [txn])
    log.append(Parked(txn, "mail", "", "", NOW), now_ms=NOW + 60_500)  # not parked any more, and still not purged
    reply = sole(log.store.append([log.request()], NOW + 64_000))
    assert (reply.watermark_ms, reply.exempt) == (NOW + 50_000, [txn])
    assert log.store.purge(NOW + 66_000, 100) == 0
    assert sole(log.store.append([log.request(Ended(txn, NOW))], NOW + 68_000)).exempt == []


def test_what_begins_below_the_watermark_is_exempt_at_once(log: Log) -> None:
    """Of a shard whose clock is behind, and which has not heard of the watermark yet."""
    log.retention_ms = 10_000
    log.reopen()
    log.take()
    log.append(now_ms=NOW + 60_000)
    txn, brief = log.id(), log.id()
    late = log.request(begun(txn, "k"), begun(brief, "l"), decided(brief, ABORT, "E_X"), Ended(brief, NOW))
    reply = sole(log.store.append([late], NOW + 60_100))
    assert (reply.watermark_ms, reply.exempt) == (NOW + 50_000, [txn])
    young = log.request(begun(log.id(NOW + 60_200), "m"))
    assert sole(log.store.append([young], NOW + 60_200)).exempt == [txn]


def test_the_watermark_never_falls(log: Log) -> None:
    log.retention_ms = 10_000
    log.reopen()
    log.take()
    assert sole(log.store.append([log.request()], NOW + 60_000)).watermark_ms == NOW + 50_000
    log.reopen()
    assert sole(log.store.append([log.request()], NOW)).watermark_ms == NOW + 50_000
    assert log.store.watermark_ms == NOW + 50_000


def test_a_wall_clock_that_jumps_makes_nothing_be_forgotten(log: Log) -> None:
    elapsed_ms = 5_000_000
    log.retention_ms, log.clock = 10_000, lambda: elapsed_ms
    log.reopen()
    log.take()  # the first watermark of a log is taken as it is
    txn = log.begin("k")
    log.append(decided(txn, COMMIT), Ended(txn, NOW))
    seen = []
    for jump_ms in (1_000, 365 * DAY, 366 * DAY, 2 * DAY):
        elapsed_ms += 1_000
        seen.append(sole(log.store.append([log.request()], NOW + jump_ms)).watermark_ms - NOW)
        log.reopen()
        assert log.store.purge(NOW + jump_ms, 10) == 0
    assert seen == [-9_000, -7_875, -6_750, -5_625]


def test_the_watermark_catches_up_once_what_held_it_has_ended(log: Log) -> None:
    elapsed_ms = 5_000_000
    log.retention_ms, log.clock = 10_000, lambda: elapsed_ms
    log.reopen()
    log.take()
    txn = log.begin("k")
    for _ in range(60):
        elapsed_ms += 1_000
        log.append(now_ms=NOW + elapsed_ms - 5_000_000)
    assert log.store.watermark_ms == NOW
    log.append(decided(txn, COMMIT), Ended(txn, NOW), now_ms=NOW + 60_100)
    elapsed_ms += 2_000
    log.append(now_ms=NOW + 62_000)
    assert log.store.watermark_ms == NOW + 52_000


def test_purging_forgets_what_ended_before_the_watermark(log: Log, occurred) -> None:
    log.retention_ms = 10_000
    log.reopen()
    log.take()
    for number in range(10):
        txn = log.begin(f"old-{number}")
        log.append(decided(txn, COMMIT), Parked(txn, "a", "E_X", "", NOW), Parked(txn, "a", "", "", NOW), Ended(txn, NOW))
    young = log.begin("young", NOW + 40_000)
    assert [log.store.purge(NOW + 60_000, 4) for _ in range(4)] == [4, 4, 2, 0]
    reader = LogReader(log.path)
    assert [found.transaction for found in reader.iterate()] == [young]
    assert reader.by_key("old-3") is None
    assert reader.verify() == []
    reader.close()
    with sqlite3.connect(log.path) as connection:
        assert connection.execute("SELECT sequence FROM records").fetchall() == [(51,)]
        assert connection.execute("SELECT COUNT(*) FROM parkings").fetchone() == (0,)
    connection.close()
    log.reopen()
    assert log.store.last_record == 51
    occurred("91")


@pytest.fixture
def compacted(log: Log) -> tuple[Log, str]:
    """A log whose one parked transaction outlived the ten that came after it."""
    log.retention_ms = 10_000
    log.reopen()
    log.take()
    parked = log.begin("parked")
    log.append(decided(parked, COMMIT), Parked(parked, "a", "E_X", "", NOW))
    for number in range(10):
        txn = log.begin(f"old-{number}")
        log.append(decided(txn, COMMIT), Ended(txn, NOW))
    log.begin("young", NOW + 59_000)
    log.append(now_ms=NOW + 60_000)
    assert log.store.purge(NOW + 60_000, 100) == 10
    return log, parked


def sequences(log: Log) -> list[int]:
    with sqlite3.connect(log.path) as connection:
        found = [row[0] for row in connection.execute("SELECT sequence FROM records ORDER BY sequence")]
    connection.close()
    return found


def problems(log: Log) -> list[str]:
    reader = LogReader(log.path)
    found = reader.verify()
    reader.close()
    return found


def test_a_parked_transaction_keeps_its_own_records_and_no_others(compacted: tuple[Log, str], occurred) -> None:
    log, parked = compacted
    assert sequences(log) == [1, 2, 3, 34]
    assert problems(log) == []
    reader = LogReader(log.path)
    assert len(reader.history(parked)) == 3
    reader.close()
    live = log.take().open
    log.reopen()
    assert log.take().open == live
    assert [found.begun.key for found in log.take("second").open] == ["parked", "young"]
    occurred("64")


def test_records_that_were_kept_go_with_their_transaction(compacted: tuple[Log, str]) -> None:
    log, parked = compacted
    log.append(Parked(parked, "a", "", "", NOW + 60_000), Ended(parked, NOW + 60_000), now_ms=NOW + 60_000)
    assert log.store.purge(NOW + 69_000, 100) == 0  # it ended only just now
    assert problems(log) == []
    log.append(now_ms=NOW + 80_000)
    assert sequences(log) == [1, 2, 3, 34, 35, 36]
    assert log.store.purge(NOW + 80_000, 100) == 0  # the young one is open and holds the watermark
    txn = make_id(NOW + 59_000, 7, log.epoch, log.counter)
    log.append(decided(txn, COMMIT), Ended(txn, NOW + 81_000), now_ms=NOW + 81_000)
    log.append(now_ms=NOW + 100_000)
    assert [log.store.purge(NOW + 100_000, 1) for _ in range(3)] == [1, 1, 0]
    log.store.purge(NOW + 100_000, 100)
    assert (sequences(log), problems(log)) == ([], [])
    log.reopen()
    assert log.store.last_record == 38


@pytest.mark.parametrize(("damage", "problem"), [
    ("DELETE FROM records WHERE sequence = 1", "the index has 2 Begun records, the log holds 1"),
    ("DELETE FROM records WHERE sequence = 2", "the index has 1 Decided records, the log holds 0"),
    ("DELETE FROM records WHERE sequence = 3", "the index has 1 Parked records, the log holds 0"),
    ("DELETE FROM transactions WHERE txn < '{young}'", "record 2 (Decided) is of {parked}, which was never begun"),
    ("DELETE FROM records WHERE sequence = 34", "records 34 to 34 are missing at the end"),
])
def test_damage_of_kept_records_is_found(compacted: tuple[Log, str], damage: str, problem: str) -> None:
    log, parked = compacted
    with sqlite3.connect(log.path) as connection:
        connection.execute(damage.format(young=make_id(NOW + 59_000, 7, 0, 0)))
    connection.close()
    assert problem.format(parked=parked) in problems(log)


def test_a_key_is_remembered_for_the_retention_period_though_its_shards_clock_was_behind(log: Log) -> None:
    """The machine slept for as long as things are remembered, and the clock of its shard with it."""
    log.retention_ms = DAY
    log.reopen()
    log.take()
    for days in range(1, 11):
        now_ms = NOW + days * DAY
        watermark_ms = sole(log.store.append([log.request()], now_ms)).watermark_ms
    assert watermark_ms == now_ms - DAY
    shards_ms = watermark_ms + 30_000
    txn = log.id(shards_ms)
    log.append(begun(txn, "k"), decided(txn, COMMIT), Ended(txn, shards_ms), now_ms=now_ms)
    for later_ms in (60_000, 120_000, DAY // 2):
        log.append(now_ms=now_ms + later_ms)
        log.store.purge(now_ms + later_ms, 1_000)
        (again,) = log.append(begun(log.id(now_ms + later_ms), "k"), now_ms=now_ms + later_ms)
        assert again.status.name == "BOUND"
