"""After a failed sync nothing is trusted that was not written anew: the successor copies, or refuses."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, open_reader
from orchestrator.errors import DefiniteError
from orchestrator.mark import mark_path, read_mark
from orchestrator.rescue import has_failed, is_io_error, lacks_index, rescue, rescued_path
from orchestrator.testing.disk.storage import Crashed, SimulatedDisk

if TYPE_CHECKING:
    from orchestrator.files import Files

PATH = Path("/data/shop.sqlite")
NOTE = "/data/shop.sqlite.failed"


def new_disk(seed: int = 1) -> SimulatedDisk:
    disk = SimulatedDisk(seed)
    create_database(PATH, "CREATE TABLE items (name TEXT PRIMARY KEY);", "shop", disk.files)
    return disk


def opened(disk: SimulatedDisk) -> OwnedDatabase:
    return OwnedDatabase(PATH, "shop", "run", files=disk.files, ballast_bytes=1 << 20)


def put(database: OwnedDatabase, name: str) -> None:
    database.begin()
    database.connection.execute("INSERT INTO items VALUES (?)", (name,))
    database.commit()


def items(path: Path, files: Files) -> list[str]:
    reader = open_reader(path, files)
    try:
        return [row[0] for row in reader.execute("SELECT name FROM items ORDER BY name")]
    finally:
        reader.close()


def failed_at_commit(disk: SimulatedDisk) -> None:
    """A process that acknowledged a pen, met a failed sync with the ink, and ended."""
    database = opened(disk)
    put(database, "pen")
    disk.fail("sync", errno.EIO, path="-wal", applied=False)
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        put(database, "ink")
    disk.process_kill(PATH)
    assert disk.find(NOTE) is not None


@pytest.mark.parametrize("seed", range(30))
def test_what_is_committed_after_a_failed_sync_survives_a_power_loss(seed: int) -> None:
    disk = new_disk(seed)
    failed_at_commit(disk)
    database = opened(disk)
    put(database, "cap")
    disk.power_loss()
    opened(disk).close()
    assert items(PATH, disk.files) in (["cap", "pen"], ["cap", "ink", "pen"])
    assert not has_failed(disk.files, PATH)
    assert sorted(disk.contents()) == [
        "/data/shop.sqlite", "/data/shop.sqlite.ballast", "/data/shop.sqlite.mark"]


def test_the_mark_is_written_anew_and_never_lowered() -> None:
    disk = new_disk()
    failed_at_commit(disk)
    before = read_mark(mark_path(PATH), disk.files)
    old = disk.find(str(mark_path(PATH)))
    rescue(disk.files, PATH)
    assert read_mark(mark_path(PATH), disk.files) == before
    assert disk.find(str(mark_path(PATH))) is not old


def test_an_older_copy_is_not_made_good_by_the_note() -> None:
    disk = new_disk()
    contents = disk.contents()
    failed_at_commit(disk)
    disk.store(str(PATH), contents[str(PATH)])
    disk.files.remove(PATH.with_name("shop.sqlite-wal"))
    with pytest.raises(DefiniteError, match="an older copy"):
        opened(disk)


@pytest.mark.parametrize("power", [True, False])
def test_a_crash_at_any_point_of_the_rescue_leaves_the_old_or_the_new(power: bool) -> None:
    template = new_disk()
    failed_at_commit(template)
    points = 0
    while True:
        disk = template.fork(points)
        left = [points]

        def crash(_path: str, _operation: str, disk: SimulatedDisk = disk, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                disk.power_loss() if power else disk.process_kill(PATH)

        disk.on_point = crash
        try:
            rescue(disk.files, PATH)
        except Crashed:
            points += 1
        else:
            break
        disk.on_point = None
        database = opened(disk)
        put(database, "cap")
        disk.power_loss()
        opened(disk).close()
        assert items(PATH, disk.files) in (["cap", "pen"], ["cap", "ink", "pen"])
    assert points > 15


@pytest.mark.parametrize("operation", ["sync", "write", "sync_directory", "rename", "create"])
def test_a_disk_that_fails_again_is_rescued_again(operation: str) -> None:
    template = new_disk()
    failed_at_commit(template)
    struck = 0
    for number in range(12):
        disk = template.fork(number)
        disk.fail(operation, errno.EIO, after=number)  # type: ignore[arg-type]
        try:
            database = opened(disk)
        except (OSError, sqlite3.Error):
            struck += 1
            disk.process_kill(PATH)
            database = opened(disk)
        except DefiniteError as error:
            assert "nothing is lost" in error.message
            struck += 1
            database = opened(disk)
        disk.heal()
        put(database, "cap")
        disk.power_loss()
        opened(disk).close()
        assert "cap" in items(PATH, disk.files)
    assert struck


def test_what_cannot_be_copied_is_refused() -> None:
    disk = new_disk()
    failed_at_commit(disk)
    content = bytearray(disk.contents()[str(PATH)])
    content[4096:8192] = b"\xff" * 4096
    disk.files.remove(PATH.with_name("shop.sqlite-wal"))
    disk.store(str(PATH), bytes(content))
    with pytest.raises(DefiniteError, match="its disk has failed, and it cannot be copied"):
        opened(disk)
    assert has_failed(disk.files, PATH)


def test_a_full_disk_makes_a_rescue_wait_and_harms_nothing() -> None:
    disk = new_disk()
    failed_at_commit(disk)
    disk.capacity = disk.used + 5_000
    used = disk.used
    with pytest.raises(OSError, match="No space left"):
        opened(disk)
    assert disk.used <= used  # nothing of the copy stays: others need what room there is
    assert disk.find("/data/shop.sqlite.rescue") is None
    disk.capacity = None
    opened(disk).close()
    assert "pen" in items(PATH, disk.files)


def test_readers_do_not_fold_what_failed_and_wait_for_a_copy() -> None:
    disk = new_disk()
    failed_at_commit(disk)
    assert "pen" in items(PATH, disk.files)
    disk.files.rename(PATH.with_name("shop.sqlite-wal"), rescued_path(PATH))
    with pytest.raises(DefiniteError, match="a copy made after a disk error is taking its place"):
        open_reader(PATH, disk.files)


@pytest.mark.parametrize("seed", range(20))
def test_a_directory_that_was_not_synced_is_noticed_though_sqlite_does_not(seed: int, occurred) -> None:
    """The name of a new write-ahead log was lost with everything in it; SQLite ignores how that sync ends."""
    disk = new_disk(seed)
    disk.fail("sync_directory", errno.EIO, times=2, applied=False)
    with pytest.raises(OSError, match="Input/output error"):
        opened(disk)
    disk.process_kill(PATH)
    database = opened(disk)
    put(database, "pen")
    disk.power_loss()
    opened(disk).close()
    assert items(PATH, disk.files) == ["pen"]
    occurred("62")


@pytest.mark.parametrize(("error", "expected"), [
    (OSError(errno.EIO, "x"), True), (OSError(errno.ENOSPC, "x"), False), (ValueError("x"), False),
    (sqlite3.OperationalError("without a code"), False),
])
def test_which_errors_call_for_a_rescue(error: Exception, expected: bool) -> None:
    assert is_io_error(error) is expected


def test_an_index_of_the_log_that_found_no_room_is_no_failed_disk() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert (is_io_error(error), lacks_index(error)) == (False, True)
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    assert (is_io_error(error), lacks_index(error)) == (True, False)
