"""What the transaction log stores, refuses and gives back."""

from __future__ import annotations

import itertools
import sqlite3
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import DefiniteError
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import (
    AppendReply,
    AppendRequest,
    AppendResult,
    AppendStatus,
    Begun,
    CancelledKey,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Parked,
    Record,
    State,
    StoredTransaction,
    TakeReply,
    TakeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = 1_700_000_000_000
DAY = 24 * 3_600_000
COMMIT, ABORT = Decision.COMMIT, Decision.ABORT


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


class Log:
    """A store with one shard that numbers its appends."""

    def __init__(self, path: Path, retention_ms: int = 7 * DAY) -> None:
        self.path, self.retention_ms = path, retention_ms
        self.clock: Callable[[], int] = itertools.count(0, DAY).__next__  # days pass from one look to the next
        self.store = LogStore(path, "run", retention_ms, clock=self.clock)
        self.sequence = 0
        self.counter = 0
        self.epoch = 0

    def reopen(self) -> None:
        self.store.close()
        self.store = LogStore(self.path, "run", self.retention_ms, clock=self.clock)

    def take(self, incarnation: str = "first", shard: int = 0, run: str = "run", now_ms: int = NOW) -> TakeReply:
        reply = self.store.take(TakeRequest(1, shard, incarnation, [7, 8], 1, run), now_ms)
        self.epoch, self.sequence = reply.epochs[0], 0
        return reply

    def id(self, at_ms: int = NOW, epoch: int | None = None) -> str:
        self.counter += 1
        return make_id(at_ms, 7, self.epoch if epoch is None else epoch, self.counter)

    def request(self, *records: Record, incarnation: str = "first", epoch: int | None = None) -> AppendRequest:
        self.sequence += 1
        epoch = self.epoch if epoch is None else epoch
        return AppendRequest(1, 0, incarnation, self.sequence, [EpochRecord(epoch, record) for record in records])

    def append(self, *records: Record, now_ms: int = NOW, **where: object) -> list[AppendResult]:
        (reply,) = self.store.append([self.request(*records, **where)], now_ms)  # type: ignore[arg-type]
        return reply.results

    def begin(self, key: str, at_ms: int = NOW) -> str:
        txn = self.id(at_ms)
        assert self.append(begun(txn, key), now_ms=at_ms) == [AppendResult(AppendStatus.STORED)]
        return txn


def begun(txn: str, key: str, fingerprint: bytes = b"a" * 16) -> Begun:
    return Begun(txn, key, fingerprint, "order", 1, b"input", NOW, NOW + 30_000, 30_000, "order-1")


def decided(txn: str, decision: Decision, code: str = "") -> Decided:
    return Decided(txn, decision, NOW, code)


def statuses(results: list[AppendResult]) -> list[str]:
    return [result.status.name for result in results]


def only(results: list[AppendResult]) -> AppendResult:
    (result,) = results
    return result


def sole(replies: list[AppendReply]) -> AppendReply:
    (reply,) = replies
    return reply


def test_a_whole_transaction_in_one_batch(log: Log) -> None:
    log.take()
    txn = log.id()
    results = log.append(begun(txn, "k"), decided(txn, COMMIT), Ended(txn, NOW))
    assert statuses(results) == ["STORED"] * 3
    assert results[1].decided == decided(txn, COMMIT)
    assert log.store.open_count == 0
    assert [stored.state for stored in log.take("second").open] == []


def test_nothing_is_stored_before_a_partition_is_taken(log: Log) -> None:
    assert statuses(log.append(begun(log.id(), "k"))) == ["FENCED"]
    assert log.store.last_record == 0


def test_a_stale_epoch_is_fenced(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    log.take("second")
    assert statuses(log.append(decided(txn, ABORT), epoch=1)) == ["FENCED"]
    assert statuses(log.append(decided(txn, ABORT), epoch=2)) == ["FENCED"]  # the epoch of its successor, not its own
    assert statuses(log.append(decided(txn, COMMIT), incarnation="second")) == ["STORED"]


def test_a_late_begun_of_an_earlier_epoch_is_fenced(log: Log) -> None:
    log.take()
    late = log.id()
    log.take("second")
    assert statuses(log.append(begun(late, "k"), incarnation="second")) == ["FENCED"]


def test_an_older_append_of_an_incarnation_is_dropped(log: Log) -> None:
    log.take()
    txn = log.id()
    older, newer = log.request(begun(txn, "k")), log.request()
    assert not sole(log.store.append([newer], NOW)).dropped
    reply = sole(log.store.append([older], NOW))
    assert (reply.dropped, reply.results) == (True, [])
    assert log.store.open_count == 0
    log.reopen()
    assert sole(log.store.append([older], NOW)).dropped


def test_the_newest_append_is_answered_again(log: Log) -> None:
    log.take()
    txn = log.id()
    request = log.request(begun(txn, "k"), decided(txn, COMMIT))
    first = sole(log.store.append([request], NOW))
    log.reopen()
    assert sole(log.store.append([request], NOW)) == first
    assert log.store.last_record == 2


def test_a_key_is_bound_once(log: Log) -> None:
    log.take()
    first = log.begin("k")
    same, fitting, other = log.id(), log.id(), log.id()
    results = log.append(begun(same, "k"), begun(fitting, "k", b""), begun(other, "k", b"b" * 16), begun(first, "k"))
    assert statuses(results) == ["BOUND", "BOUND", "CONFLICT", "STORED"]
    assert [found.stored and found.stored.begun for found in results] == [begun(first, "k")] * 3 + [None]
    assert log.store.last_record == 1


def test_the_same_key_twice_in_one_batch(log: Log) -> None:
    log.take()
    first, second, third = log.id(), log.id(), log.id()
    results = log.append(begun(first, "k"), decided(first, ABORT, "E_X"), begun(second, "k"), begun(third, "k", b"b" * 16))
    assert statuses(results) == ["STORED", "STORED", "BOUND", "CONFLICT"]
    assert results[2].stored is not None
    assert results[2].stored.state is State.ABORTING


def test_the_same_key_from_two_requests_of_one_group(log: Log) -> None:
    log.take()
    first, second = log.id(), log.id()
    replies = log.store.append([log.request(begun(first, "k")), log.request(begun(second, "k"))], NOW)
    assert [statuses(reply.results) for reply in replies] == [["STORED"], ["BOUND"]]


def test_keys_that_look_alike_are_different_keys(log: Log) -> None:
    log.take()
    for key in ("k", "K", "k ", "k\0", "k\0x", "ключ", "1", "01"):
        log.begin(key)
    assert log.store.open_count == 8


def test_the_first_decision_wins(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    assert only(log.append(decided(txn, COMMIT))).decided == decided(txn, COMMIT)
    rival = only(log.append(decided(txn, ABORT, "E_TIMEOUT")))
    assert rival == AppendResult(AppendStatus.STORED, decided(txn, COMMIT))
    log.append(Ended(txn, NOW))
    assert only(log.append(decided(txn, ABORT, "E_TIMEOUT"))).decided == decided(txn, COMMIT)
    log.reopen()
    assert only(log.append(decided(txn, ABORT, "E_TIMEOUT"))).decided == decided(txn, COMMIT)
    assert log.store.last_record == 3


def test_rival_decisions_in_one_batch(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    results = log.append(decided(txn, ABORT, "E_TIMEOUT"), decided(txn, COMMIT))
    assert [result.decided for result in results] == [decided(txn, ABORT, "E_TIMEOUT")] * 2


def test_records_of_what_was_never_begun_are_unknown(log: Log) -> None:
    log.take()
    txn = log.id()
    assert statuses(log.append(decided(txn, COMMIT), Ended(txn, NOW), Parked(txn, "pay", "E_X", "", NOW))) == ["UNKNOWN"] * 3
    assert log.store.last_record == 0


def test_the_end_needs_a_decision_and_may_be_repeated(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    assert statuses(log.append(Ended(txn, NOW))) == ["UNKNOWN"]
    assert statuses(log.append(decided(txn, ABORT, "E_X"), Ended(txn, NOW), Ended(txn, NOW + 1))) == ["STORED"] * 3
    assert statuses(log.append(Ended(txn, NOW + 2))) == ["STORED"]
    assert log.store.last_record == 3


def test_parked_steps_come_and_go_and_are_not_repeated(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    first, again = Parked(txn, "pay", "E_X", "no", NOW), Parked(txn, "pay", "E_X", "still no", NOW + 5)
    assert statuses(log.append(first, again, Parked(txn, "ship", "", "", NOW))) == ["STORED"] * 3
    assert log.store.last_record == 2
    log.reopen()
    assert log.take("second").open[0].parked == [first]
    assert statuses(log.append(Parked(txn, "pay", "", "", NOW), incarnation="second")) == ["STORED"]
    log.reopen()
    assert log.take("third").open[0].parked == []


def test_a_cancel_binds_an_unknown_key_to_an_aborted_transaction(log: Log) -> None:
    log.take()
    txn, late = log.id(), log.id()
    result = only(log.append(CancelledKey(txn, "k", NOW)))
    assert result.decided is not None
    assert (result.status, result.decided.decision, result.decided.code) == (AppendStatus.STORED, ABORT, "E_CANCELLED")
    assert only(log.append(CancelledKey(txn, "k", NOW))) == result
    submit = only(log.append(begun(late, "k")))
    assert submit.status is AppendStatus.BOUND
    assert submit.stored is not None
    assert (submit.stored.begun.transaction, submit.stored.state) == (txn, State.ABORTED)


def test_a_cancel_of_a_known_key_is_told_of_its_transaction(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    result = only(log.append(CancelledKey(log.id(), "k", NOW)))
    assert result.status is AppendStatus.BOUND
    assert result.stored is not None
    assert (result.stored.begun.transaction, result.stored.state) == (txn, State.PREPARING)


def test_taking_raises_epochs_and_returns_what_is_open(log: Log) -> None:
    assert log.take().epochs == [1, 1]
    open_txn, done = log.begin("open"), log.begin("done")
    log.append(decided(open_txn, COMMIT), decided(done, COMMIT), Ended(done, NOW))
    reply = log.take("second")
    assert reply.epochs == [2, 2]
    assert [(s.begun.transaction, s.state, s.decided) for s in reply.open] == [
        (open_txn, State.COMMITTING, decided(open_txn, COMMIT))]
    assert log.store.owner(7) == (0, 2, "second")
    assert log.store.owner(9) is None


def test_a_repeated_take_of_the_owner_changes_nothing(log: Log) -> None:
    log.take()
    log.begin("k")
    first = log.take("second")
    assert log.take("second") == first


def test_restarts_are_counted_within_one_run(log: Log) -> None:
    assert [log.take("a").restarts, log.take("b").restarts, log.take("b").restarts, log.take("c").restarts] == [0, 1, 1, 2]
    assert log.take("d", run="next").restarts == 0


def test_recoveries_rise_only_without_progress(log: Log) -> None:
    log.take("a")
    txn = log.id()
    log.append(begun(txn, "k"), incarnation="a")
    counts = [stored(log.take(name), txn).recoveries for name in ("b", "c", "d")]
    log.append(decided(txn, COMMIT), incarnation="d")
    counts += [stored(log.take(name), txn).recoveries for name in ("e", "f")]
    log.reopen()
    counts.append(stored(log.take("g"), txn).recoveries)
    log.append(Parked(txn, "pay", "E_X", "", NOW), incarnation="g")
    log.reopen()
    counts.append(stored(log.take("h"), txn).recoveries)
    assert counts == [1, 2, 3, 1, 2, 3, 1]


def stored(reply: TakeReply, txn: str) -> StoredTransaction:
    return next(found for found in reply.open if found.begun.transaction == txn)


def test_partitions_move_between_shards(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    moved = log.store.take(TakeRequest(1, 1, "other", [7], 1, "run"), NOW)
    assert (moved.epochs, [s.begun.transaction for s in moved.open]) == ([2], [txn])
    assert statuses(log.append(decided(txn, COMMIT))) == ["FENCED"]
    assert log.store.owner(8) == (0, 1, "first")


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


def test_purging_forgets_what_ended_before_the_watermark(log: Log) -> None:
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


def test_a_parked_transaction_keeps_its_own_records_and_no_others(compacted: tuple[Log, str]) -> None:
    log, parked = compacted
    assert sequences(log) == [1, 2, 3, 34]
    assert problems(log) == []
    reader = LogReader(log.path)
    assert len(reader.history(parked)) == 3
    reader.close()
    log.reopen()
    assert [found.begun.key for found in log.take("second").open] == ["parked", "young"]


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


def test_a_services_database_may_not_fall_behind_what_it_reported(log: Log) -> None:
    assert log.store.register_store("payment", "u1", 5) == ""
    assert log.store.register_store("payment", "u1", 7) == ""
    log.reopen()
    assert "older copy: it ends at commit 6, it had 7" in log.store.register_store("payment", "u1", 6)
    assert "another one" in log.store.register_store("payment", "u2", 8)


def test_memory_is_read_anew_after_a_failed_turn(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    broken = Decided(txn, COMMIT, 2**63)  # does not fit the database: fails in the middle of the batch
    with pytest.raises(OverflowError):
        log.append(broken)
    assert log.store.last_record == 1
    assert only(log.append(decided(txn, ABORT, "E_X"))).decided == decided(txn, ABORT, "E_X")


@pytest.mark.parametrize(("damage", "message"), [
    ("DELETE FROM records WHERE sequence = 2", "record 2 is missing"),
    ("DELETE FROM records WHERE sequence = 3", "record 3 is missing"),
    ("DELETE FROM records", "record 3 is missing"),
    ("UPDATE records SET data = x'00' WHERE sequence = 2", "record 2 is damaged"),
    ("UPDATE records SET data = (SELECT data FROM records WHERE sequence = 1) WHERE sequence = 2", "record 2 is damaged"),
])
def test_a_damaged_tail_is_refused(path: Path, damage: str, message: str) -> None:
    log = Log(path)
    log.take()
    txn = log.begin("k")
    log.append(decided(txn, COMMIT), Ended(txn, NOW))
    log.store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(damage)
    connection.close()
    with pytest.raises(DefiniteError, match=f"E_STORE_REFUSED.*{message}"):
        LogStore(path, "run", DAY)


def test_another_log_is_refused(path: Path) -> None:
    with pytest.raises(DefiniteError, match="E_STORE_REFUSED"):
        LogStore(path, "run", DAY, expected_uuid="f" * 32)
