"""The simulated disk forgets what was not synced, fills, fails, and kills; each rule of it is seen to bite."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, open_reader
from orchestrator.testing.disk.storage import Crashed, SimulatedDisk

if TYPE_CHECKING:
    from orchestrator.files import DataFile

DIRECTORY = Path("/data")
PATH = DIRECTORY / "shop.sqlite"
FILE = DIRECTORY / "file"
SEEDS = range(60)


def written(disk: SimulatedDisk, content: bytes = b"new") -> DataFile:
    file = disk.files.open(FILE, create=True)
    file.write(content, 0)
    return file


def durable_file(seed: int, content: bytes) -> SimulatedDisk:
    disk = SimulatedDisk(seed)
    written(disk, content).sync()
    disk.files.sync_directory(DIRECTORY)
    return disk


def read(disk: SimulatedDisk) -> bytes | None:
    return disk.contents().get(str(FILE))


def test_what_was_synced_survives_and_what_was_not_may() -> None:
    found = set()
    for seed in SEEDS:
        disk = durable_file(seed, b"old")
        disk.files.open(FILE).write(b"new", 0)
        disk.power_loss()
        found.add(read(disk))
    assert {b"old", b"new"} < found  # and some that are torn


def test_a_synced_write_is_never_lost() -> None:
    for seed in SEEDS:
        disk = durable_file(seed, b"old")
        file = disk.files.open(FILE)
        file.write(b"new", 0)
        file.sync()
        disk.power_loss()
        assert read(disk) == b"new"


def test_unsynced_writes_survive_in_any_subset() -> None:
    found = set()
    for seed in range(200):
        disk = durable_file(seed, bytes(1024))
        file = disk.files.open(FILE)
        file.write(b"a" * 512, 0)
        file.write(b"b" * 512, 512)
        disk.power_loss()
        content = read(disk)
        assert content is not None
        found.add((content[:1], content[512:513]))
    assert {(b"a", b"\0"), (b"\0", b"b"), (b"a", b"b"), (b"\0", b"\0")} <= found


def test_only_the_last_write_is_torn_within_a_sector() -> None:
    for seed in range(200):
        disk = durable_file(seed, bytes(2048))
        file = disk.files.open(FILE)
        file.write(b"a" * 1024, 0)
        file.write(b"b" * 1024, 1024)
        disk.power_loss()
        content = read(disk)
        assert content is not None
        if b"b" in content:
            assert content[:1024].count(b"a") % 512 == 0


def test_a_name_needs_a_sync_of_its_directory() -> None:
    found = set()
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        written(disk).sync()
        disk.power_loss()
        found.add(read(disk))
    assert found == {None, b"new"}


def test_a_rename_needs_one_too_and_is_one_change() -> None:
    found = set()
    for seed in SEEDS:
        disk = durable_file(seed, b"old")
        disk.files.rename(FILE, PATH)
        disk.power_loss()
        found.add(frozenset(disk.contents()))
    assert found == {frozenset({str(FILE)}), frozenset({str(PATH)})}


def test_a_killed_process_loses_nothing_that_it_wrote() -> None:
    disk = durable_file(1, b"old")
    file = disk.files.open(FILE)
    file.write(b"new", 0)
    disk.process_kill(FILE)
    assert read(disk) == b"new"
    with pytest.raises(Crashed):
        file.sync()


def test_a_failed_sync_takes_the_pages_for_clean() -> None:
    disk = durable_file(1, b"old")
    file = disk.files.open(FILE)
    file.write(b"new", 0)
    disk.fail("sync", errno.EIO, applied=False)
    with pytest.raises(OSError, match="Input/output error"):
        file.sync()
    file.sync()  # succeeds, and does nothing
    disk.power_loss()
    assert read(disk) == b"old"


@pytest.mark.parametrize("applied", [True, False])
def test_a_failed_write_is_applied_or_not(applied: bool) -> None:
    disk = durable_file(1, b"old")
    disk.fail("write", errno.EIO, after=1, times=1, applied=applied)
    file = disk.files.open(FILE)
    file.write(b"one", 0)
    with pytest.raises(OSError, match="Input/output error"):
        file.write(b"two", 0)
    assert read(disk) == (b"two" if applied else b"one")
    file.write(b"three", 0)


def test_a_full_disk_takes_what_fits_and_room_comes_from_removing() -> None:
    disk = SimulatedDisk(1, capacity=1000)
    file = written(disk, bytes(600))
    other = disk.files.open(PATH, create=True)
    with pytest.raises(OSError, match="No space left"):
        other.write(bytes(600), 0)
    file.write(b"x" * 600, 0)  # in place
    with pytest.raises(OSError, match="No space left"):
        other.allocate(401)
    other.allocate(400)
    disk.files.remove(FILE)
    other.write(bytes(900), 0)
    assert disk.used == 900


def test_the_same_seed_leaves_the_same() -> None:
    def left(seed: int) -> bytes | None:
        disk = durable_file(seed, bytes(4096))
        file = disk.files.open(FILE)
        for number in range(8):
            file.write(bytes([number + 1]) * 512, 512 * number)
        disk.power_loss()
        return read(disk)

    assert [left(seed) for seed in SEEDS] == [left(seed) for seed in SEEDS]
    assert len({left(seed) for seed in SEEDS}) > len(SEEDS) / 2


def database(seed: int = 1) -> tuple[SimulatedDisk, OwnedDatabase]:
    disk = SimulatedDisk(seed)
    create_database(PATH, "CREATE TABLE items (name TEXT PRIMARY KEY);", "shop", disk.files)
    return disk, OwnedDatabase(PATH, "shop", "run", files=disk.files)


def put(database: OwnedDatabase, name: str) -> None:
    database.begin()
    database.connection.execute("INSERT INTO items VALUES (?)", (name,))
    database.commit()


def items(disk: SimulatedDisk) -> list[str]:
    reader = open_reader(PATH, disk.files)
    found = [row[0] for row in reader.execute("SELECT name FROM items ORDER BY name")]
    reader.close()
    return found


def test_a_reader_beside_the_owner_sees_what_is_committed() -> None:
    disk, owned = database()
    put(owned, "pen")
    owned.begin()
    owned.connection.execute("INSERT INTO items VALUES ('ink')")
    assert items(disk) == ["pen"]
    owned.rollback()
    owned.close()
    assert items(disk) == ["pen"]


def test_the_owner_of_a_lost_disk_meets_its_end_at_every_call() -> None:
    disk, owned = database()
    disk.power_loss()
    for call in (owned.begin, owned.rollback, lambda: owned.meta("uuid")):
        with pytest.raises(Crashed):
            call()
    owned.connection.close()  # writes nothing
    OwnedDatabase(PATH, "shop", "run", files=disk.files).close()


def test_a_crash_in_the_middle_of_a_call_ends_that_call() -> None:
    disk, owned = database()
    seen: list[tuple[str, str]] = []

    def crash_at_sync(path: str, operation: str) -> None:
        seen.append((path, operation))
        if operation == "sync":
            disk.process_kill(PATH)

    owned.begin()
    owned.connection.execute("INSERT INTO items VALUES ('pen')")
    disk.on_point = crash_at_sync
    with pytest.raises(Crashed):
        owned.commit()
    assert seen[-1] == (f"{PATH}-wal", "sync")
    assert {operation for _, operation in seen[:-1]} == {"write"}
    disk.on_point = None
    OwnedDatabase(PATH, "shop", "run", files=disk.files).close()
    assert items(disk) == ["pen"]  # written, and the page cache lives on


def test_a_successor_ends_the_owner_that_still_lives() -> None:
    disk, first = database()
    second = OwnedDatabase(PATH, "shop", "run", files=disk.files)
    with pytest.raises(Crashed):
        first.begin()
    put(second, "pen")
    second.close()


def test_sqlite_is_told_what_the_disk_says() -> None:
    disk, owned = database()
    for operation, error, expected in (
        ("write", errno.ENOSPC, sqlite3.SQLITE_FULL), ("write", errno.EIO, sqlite3.SQLITE_IOERR_WRITE),
        ("sync", errno.EIO, sqlite3.SQLITE_IOERR_FSYNC),
    ):
        owned.begin()
        owned.connection.execute("INSERT INTO items VALUES (?)", (f"{operation} {error}",))
        disk.fail(operation, error, path="-wal", applied=False)  # type: ignore[arg-type]
        with pytest.raises(sqlite3.OperationalError) as caught:
            owned.commit()
        assert caught.value.sqlite_errorcode == expected
        owned.rollback()
    with pytest.raises(sqlite3.IntegrityError):
        owned.connection.executescript("BEGIN; INSERT INTO items VALUES ('a'); INSERT INTO items VALUES ('a');")
    owned.rollback()
    owned.close()


def test_a_fork_goes_its_own_way() -> None:
    disk, owned = database()
    put(owned, "pen")
    fork = disk.fork(2)
    other = OwnedDatabase(PATH, "shop", "run", files=fork.files)
    put(other, "ink")
    put(owned, "cap")
    assert items(disk) == ["cap", "pen"]
    assert items(fork) == ["ink", "pen"]
    other.close()
    owned.close()
