"""A full disk: nothing new begins, what has begun is finished on the ballast, and all goes on once there is room."""

from __future__ import annotations

import errno
import sqlite3

import msgspec
import pytest

from actors.room import run_batch
from actors.runner import BatchRunner, Work
from actors.store import Retention
from orchestrator.ballast import REFILL_EVERY_MS, is_full
from orchestrator.protocol.messages import Kind, Status
from orchestrator.protocol.records import CancelledKey, Ended
from orchestrator.saga import encode_plain
from orchestrator.testing.disk.storage import SimulatedDisk
from unit.disk_bench import BALLAST, LOG, TEMPLATE, Shard, command, open_log, open_store, read_store
from unit.log_bench import COMMIT, NOW, begun, decided, sole, statuses
from unit.test_service_base import Vault

BIG = b"x" * 20_000


def full_log(begin: int = 20) -> tuple[SimulatedDisk, Shard, list[str]]:
    """A log with open transactions whose disk has just become full."""
    disk = TEMPLATE.fork(1)
    shard = Shard(open_log(disk))
    txns = [shard.id() for _ in range(begin)]
    shard.append(*(begun(txn, f"k{number}") for number, txn in enumerate(txns)))
    disk.capacity = disk.used
    return disk, shard, txns


def fill(disk: SimulatedDisk, shard: Shard) -> None:
    """Begin until one is refused."""
    for number in range(1_000):
        if statuses(shard.append(begun(shard.id(), f"filler{number}"))) == ["FULL"]:
            return
    pytest.fail("the disk never filled")


def test_new_transactions_are_refused_and_open_ones_end(occurred) -> None:
    disk, shard, txns = full_log()
    fill(disk, shard)
    for txn in txns:
        assert statuses(shard.append(decided(txn, COMMIT), Ended(txn, NOW))) == ["STORED", "STORED"]
        assert statuses(shard.append(begun(shard.id(), f"new {txn}"))) == ["FULL"]
        assert statuses(shard.append(CancelledKey(shard.id(), f"new {txn}", NOW))) == ["FULL"]
    assert disk.crashes["disk_full"] >= 1
    occurred("58")


def test_a_group_is_split_where_the_disk_fills_in_its_middle(occurred) -> None:
    _, shard, txns = full_log()
    new = [begun(shard.id(), f"new{number}", BIG) for number in range(100)]
    results = statuses(shard.append(decided(txns[0], COMMIT), *new, decided(txns[1], COMMIT)))
    assert results == ["STORED", *["FULL"] * 100, "STORED"]
    assert shard.store.open_count == len(txns)
    occurred("67")


def test_a_key_that_is_bound_is_answered_as_ever() -> None:
    disk, shard, txns = full_log()
    fill(disk, shard)
    again = shard.append(begun(txns[3], "k3"), begun(shard.id(), "k3"))
    assert statuses(again) == ["STORED", "BOUND"]


def test_it_resumes_by_itself_and_the_ballast_is_made_anew(occurred) -> None:
    disk, shard, _ = full_log()
    fill(disk, shard)
    disk.capacity = None
    assert statuses(shard.append(begun(shard.id(), "soon"), now_ms=NOW)) == ["FULL"]
    later = NOW + 2 * REFILL_EVERY_MS
    assert statuses(shard.append(begun(shard.id(), "later"), now_ms=later)) == ["STORED"]
    ballast = disk.find(f"{LOG}.ballast")
    assert ballast is not None
    assert ballast.size == BALLAST
    occurred("58")


def test_too_little_room_for_the_ballast_is_not_enough() -> None:
    disk, shard, txns = full_log()
    fill(disk, shard)
    disk.capacity = disk.used + BALLAST // 2
    for second in range(1, 5):
        assert statuses(shard.append(begun(shard.id(), "k"), now_ms=NOW + second * 2_000)) == ["FULL"]
        assert statuses(shard.append(decided(txns[second], COMMIT), now_ms=NOW + second * 2_000)) == ["STORED"]


def test_what_was_refused_stays_refused_when_the_same_append_comes_again() -> None:
    """Its sender has told its caller that nothing was begun."""
    disk, shard, _ = full_log()
    fill(disk, shard)
    request = shard.request(begun(shard.id(), "once"))
    assert statuses(sole(shard.store.append([request], NOW)).results) == ["FULL"]
    disk.capacity = None
    for later_ms in (1, 2_000, 4_000):
        assert sole(shard.store.append([request], NOW + later_ms)).dropped
    assert statuses(shard.append(begun(shard.id(), "once"), now_ms=NOW + 4_000)) == ["STORED"]


def test_when_the_ballast_is_used_up_too_the_append_fails_and_memory_is_what_is_durable() -> None:
    disk, shard, txns = full_log(begin=3_000)
    fill(disk, shard)
    disk.capacity = disk.used
    before = shard.store.last_record

    def decide_all() -> None:
        for txn in txns:
            shard.append(decided(txn, COMMIT, "x" * 5_000))

    with pytest.raises(sqlite3.OperationalError) as caught:
        decide_all()
    assert is_full(caught.value)
    stored = shard.store.last_record - before
    assert 0 < stored < len(txns)
    disk.capacity = None
    assert statuses(shard.append(decided(txns[stored], COMMIT))) == ["STORED"]


def test_a_full_log_is_opened_taken_and_finished() -> None:
    disk, shard, txns = full_log()
    fill(disk, shard)
    disk.process_kill(LOG)
    successor = Shard(open_log(disk), "second")
    assert successor.epoch == 2
    assert statuses(successor.append(begun(successor.id(), "new"))) == ["FULL"]
    assert statuses(successor.append(decided(txns[0], COMMIT))) == ["STORED"]
    assert successor.store.register_store("vault", "u", 1) == ""


def test_partitions_are_taken_on_the_ballast() -> None:
    disk, shard, _ = full_log(begin=300)
    disk.capacity = disk.used
    successor = Shard(shard.store, "second")
    assert successor.epoch == 2
    assert statuses(successor.append(begun(successor.id(), "new"))) == ["FULL"]


def test_opening_on_a_disk_that_is_full_to_the_last_byte_uses_the_ballast() -> None:
    disk, shard, txns = full_log()
    shard.store.close()
    disk.capacity = disk.used
    successor = Shard(open_log(disk), "second")
    assert statuses(successor.append(decided(txns[0], COMMIT), begun(successor.id(), "new"))) == ["STORED", "FULL"]


class Service:
    """A service whose disk fills, with `held` holds."""

    def __init__(self, held: int = 20) -> None:
        self.disk = TEMPLATE.fork(1)
        self.open()
        assert self.run(*(hold(number) for number in range(held))) == [(Status.YES, "")] * held
        self.disk.capacity = self.disk.used

    def open(self) -> None:
        self.store = open_store(self.disk)
        self.runner = BatchRunner("vault", Vault().bound, self.store)

    def run(self, *works: Work, now_ms: int = NOW, retention: Retention = Retention()) -> list[tuple[Status, str]]:  # noqa: B008
        outcomes = run_batch(self.runner, self.store, works, retention, now_ms)
        return [(outcome.reply.status, outcome.reply.code) for outcome in outcomes if outcome.reply is not None]

    def fill(self) -> None:
        for number in range(10_000, 11_000):
            if self.run(hold(number)) == [FULL]:
                return
        pytest.fail("the disk never filled")


FULL = (Status.NO, "E_DISK_FULL")
ACK = (Status.ACK, "")


def hold(number: int, kind: Kind = Kind.PREPARE, operation: str = "hold", amount: int = 0) -> Work:
    request = b"" if kind in (Kind.COMMIT, Kind.ROLLBACK) else encode_plain({"amount": amount or -1})
    return Work(msgspec.structs.replace(command(number, kind), operation=operation, request=request), "peer")


def test_a_full_service_refuses_prepares_and_finishes_what_it_holds() -> None:
    service = Service()
    service.fill()
    for number in range(0, 20, 2):
        new = number + 500
        found = service.run(hold(number, Kind.COMMIT), hold(number + 1, Kind.ROLLBACK), hold(new), hold(new, Kind.ROLLBACK))
        assert sorted(found) == sorted([ACK, ACK, FULL, ACK])
    rows = {(row.transaction, row.state) for row in read_store(service.disk).rows()}
    assert (command(0).transaction, "COMMITTED") in rows
    assert (command(1).transaction, "ROLLED_BACK") in rows
    assert (command(500).transaction, "ROLLED_BACK") in rows  # the tombstone


def test_a_refused_prepare_holds_nothing_and_may_be_repeated_once_there_is_room() -> None:
    service = Service()
    service.fill()
    assert service.run(hold(700)) == [FULL]
    assert service.store.load([(command(700).transaction, "pay")]) == {}
    service.disk.capacity = None
    assert service.run(hold(700), now_ms=NOW + 1) == [FULL]
    assert service.run(hold(700), now_ms=NOW + 2 * REFILL_EVERY_MS) == [(Status.YES, "")]


def test_a_stored_vote_is_given_whatever_the_disk() -> None:
    service = Service()
    service.fill()
    assert service.run(hold(3)) == [(Status.YES, "")]


def test_a_perform_is_told_to_come_again() -> None:
    service = Service()
    service.fill()
    assert service.run(hold(800, Kind.PERFORM, "tell", 1)) == [(Status.ERROR, "E_DISK_FULL")]


def test_the_batch_that_meets_the_full_disk_loses_nothing_of_what_it_raised() -> None:
    """Epochs and watermark of a failed batch are written with the one that takes its place."""
    service = Service()
    big = [msgspec.structs.replace(hold(number).command, epoch=9) for number in range(2_000, 4_000)]
    old = hold(0, Kind.COMMIT)
    retention = Retention(NOW - 5, frozenset({"x"}))
    assert service.store.epochs()[7] == 1
    found = service.run(old._replace(command=msgspec.structs.replace(old.command, epoch=9)),
                        *(Work(command, "peer") for command in big), retention=retention)
    assert found == [ACK, *[FULL] * 2_000]
    service.disk.process_kill(service.store.path)
    service.open()
    assert service.store.epochs()[7] == 9
    assert service.store.retention == retention


def test_when_a_services_ballast_is_used_up_too_the_batch_fails() -> None:
    service = Service(held=4_000)
    service.fill()
    service.disk.capacity = service.disk.used

    def bury_many() -> None:
        for number in range(50_000, 90_000, 500):
            service.run(*(hold(tombstone, Kind.ROLLBACK) for tombstone in range(number, number + 500)))

    with pytest.raises(sqlite3.OperationalError) as caught:
        bury_many()
    assert is_full(caught.value)


def test_another_error_is_not_taken_for_a_full_disk() -> None:
    service = Service()
    service.disk.capacity = None
    service.disk.fail("sync", errno.EIO, path="-wal", applied=False)
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        service.run(hold(900))
    assert not is_full(sqlite3.OperationalError("x"))
    assert is_full(OSError(errno.EDQUOT, "quota"))
    assert not is_full(OSError(errno.EIO, "broken"))
