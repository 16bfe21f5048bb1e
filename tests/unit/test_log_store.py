"""What the transaction log stores, refuses and gives back."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import DefiniteError
from orchestrator.log.reader import LogReader, TransactionQuery
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.records import (
    AppendResult,
    AppendStatus,
    CancelledKey,
    Decided,
    Ended,
    Parked,
    State,
    TakeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
from unit.log_bench import ABORT, COMMIT, DAY, NOW, Log, begun, decided, only, sole, statuses, stored


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


def test_an_append_that_is_repeated_is_answered_again_under_its_new_sequence(log: Log) -> None:
    log.take()
    txn = log.id()
    records = (begun(txn, "k"), decided(txn, COMMIT))
    first = sole(log.store.append([log.request(*records)], NOW))
    log.reopen()
    assert sole(log.store.append([log.request(*records)], NOW)) == first
    assert log.store.last_record == 2


def test_a_late_duplicate_of_the_newest_append_does_not_run_again(log: Log) -> None:
    """It may run after its key was forgotten: it would begin a transaction that its shard knows to be another's."""
    log.take()
    request = log.request(begun(log.id(), "k"))
    assert not sole(log.store.append([request], NOW)).dropped
    assert sole(log.store.append([request], NOW)).dropped
    log.reopen()
    assert sole(log.store.append([request], NOW)).dropped


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


def test_what_ends_is_parked_no_more(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    log.append(Parked(txn, "pay", "E_X", "no", NOW), decided(txn, COMMIT), Ended(txn, NOW))
    reader = LogReader(log.path)
    assert reader.find(TransactionQuery(parked=True)) == []
    (found,) = reader.find(TransactionQuery(state="committed"))
    assert (found.transaction, found.parked) == (txn, False)
    reader.close()


def test_a_late_cancel_of_an_earlier_epoch_is_fenced(log: Log) -> None:
    log.take()
    late = CancelledKey(log.id(), "k", NOW)
    log.take("second")
    assert statuses(log.append(late, incarnation="second")) == ["FENCED"]
    assert log.store.last_record == 0


def test_an_error_that_is_no_full_disk_is_not_tried_again(log: Log) -> None:
    log.take()
    connection = log.store._database.connection
    connection.execute("PRAGMA query_only = 1")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        log.store.register_store("payment", "u1", 1)
    connection.execute("PRAGMA query_only = 0")
    assert log.store.register_store("payment", "u1", 1) == ""


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


def test_a_cancel_binds_an_unknown_key_to_an_aborted_transaction(log: Log, occurred) -> None:
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
    occurred("47b")


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
    log.reopen(run="next")
    assert log.take("d", run="next").restarts == 0


def test_a_taking_of_another_run_takes_nothing(log: Log) -> None:
    """A shard of an earlier run may wake up, and have had other partitions: nobody would serve what it took."""
    log.take("mine")
    stranger = log.store.take(TakeRequest(1, 2, "of an earlier run", [7], 1, "earlier"), NOW)
    assert (stranger.epochs, stranger.open) == ([], [])
    owner = log.store.owner(7)
    assert owner is not None
    assert (owner.shard, owner.epoch, owner.incarnation) == (0, 1, "mine")


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


def test_partitions_move_between_shards(log: Log) -> None:
    log.take()
    txn = log.begin("k")
    moved = log.store.take(TakeRequest(1, 1, "other", [7], 1, "run"), NOW)
    assert (moved.epochs, [s.begun.transaction for s in moved.open]) == ([2], [txn])
    assert statuses(log.append(decided(txn, COMMIT))) == ["FENCED"]
    assert log.store.owner(8) == (0, 1, "first")


def test_a_services_database_may_not_fall_behind_what_it_reported(log: Log, occurred) -> None:
    assert log.store.register_store("payment", "u1", 5) == ""
    assert log.store.register_store("payment", "u1", 7) == ""
    log.reopen()
    assert "older copy: it ends at commit 6, it had 7" in log.store.register_store("payment", "u1", 6)
    assert "another one" in log.store.register_store("payment", "u2", 8)
    occurred("25")


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
    ("UPDATE records SET data = 5 WHERE sequence = 2", "record 2 is damaged"),
    ("UPDATE records SET data = 'text' WHERE sequence = 2", "record 2 is damaged"),
    ("UPDATE meta SET value = 'x' WHERE name = 'watermark_ms'", "it is damaged: its meta value 'watermark_ms' is 'x'"),
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
