"""What cannot be opened is told clearly and changes nothing: no rights, a read-only file system, no files left, no room."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, open_reader, reading
from orchestrator.errors import DefiniteError
from orchestrator.files import RealFiles
from orchestrator.ownership import OwnerLock
from unit.small_disk import fill, mount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.files import Lock

SCHEMA = "CREATE TABLE items (name TEXT PRIMARY KEY);"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "data" / "shop.sqlite"
    create_database(found, SCHEMA, "shop")
    OwnedDatabase(found, "shop", "run").close()
    return found


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if not entry.name.endswith(".lock")}


def refusal(path: Path, **more: Any) -> str:
    with pytest.raises(DefiniteError) as caught:
        OwnedDatabase(path, "shop", "run", **more)
    assert caught.value.code == "E_STORE_REFUSED"
    assert "nothing is lost" in caught.value.message
    return caught.value.message


class FailingLock(RealFiles):
    """A disk on which the lock cannot be taken."""

    def __init__(self, error: int) -> None:
        self._error = error

    def lock(self, path: Path) -> Lock:
        raise OSError(self._error, os.strerror(self._error), str(path))


@pytest.mark.parametrize(("error", "remedy"), [
    (errno.EACCES, "give its directory and files back"), (errno.EROFS, "make the file system writable"),
    (errno.EMFILE, "raise the process's limit of open files"), (errno.ENFILE, "raise the system's limit"),
])
def test_the_reason_and_the_remedy_are_told(path: Path, error: int, remedy: str, occurred) -> None:
    before = contents(path)
    told = refusal(path, files=FailingLock(error))
    assert os.strerror(error) in told
    assert remedy in told
    assert contents(path) == before
    occurred("59")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_what_may_be_over_soon_is_no_refusal(path: Path, error: int) -> None:
    with pytest.raises(OSError, match=os.strerror(error)):
        OwnedDatabase(path, "shop", "run", files=FailingLock(error))


def test_without_a_file_descriptor_nothing_is_opened(path: Path, occurred) -> None:
    before = contents(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for left in range(8):  # with so many left, the lock, the mark, the database or its write-ahead log gets none
            if left:
                os.close(taken.pop())
            try:
                OwnedDatabase(path, "shop", "run").close()
                break
            except DefiniteError as error:
                assert "nothing is lost" in error.message
            except OSError as error:
                assert error.errno == errno.EMFILE
        else:
            pytest.fail("eight more file descriptors were not enough")
        assert left > 2
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert contents(path).keys() == before.keys()
    OwnedDatabase(path, "shop", "run").close()
    occurred("59")


def test_a_directory_that_may_not_be_written_is_told(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    path.parent.chmod(0o500)
    try:
        assert "Permission denied" in refusal(path)
    finally:
        path.parent.chmod(0o700)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    with mount(tmp_path / "mounted", 3) as where:
        yield where


def test_a_read_only_file_system_is_told_and_can_be_read(mounted: Path) -> None:
    path = mounted / "shop.sqlite"
    create_database(path, SCHEMA, "shop")
    OwnedDatabase(path, "shop", "run", ballast_bytes=1 << 20).close()
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    assert "make the file system writable" in refusal(path)
    with pytest.raises(DefiniteError, match="E_DATA_DIR"):
        create_database(mounted / "other.sqlite", SCHEMA, "shop")
    subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
    OwnedDatabase(path, "shop", "run", ballast_bytes=1 << 20).close()


def test_a_dead_owners_lock_is_taken_on_a_full_disk(mounted: Path) -> None:
    """The record of who holds it is written over the last one: that needs no room."""
    path = mounted / "lock"
    lock = OwnerLock(path)
    os.close(lock._fd)  # as the kernel does it when the process dies
    fill(mounted)
    OwnerLock(path).release()


def test_a_reader_of_what_is_gone_says_so(path: Path) -> None:
    path.with_name("shop.sqlite").write_bytes(b"")
    with pytest.raises((DefiniteError, sqlite3.Error), match="cannot be read"):
        open_reader(path)


class Lacking(RealFiles):
    """A disk on which opening a database, or a look at its length, fails at first."""

    def __init__(self, where: str, code: int) -> None:
        self.error = sqlite3.OperationalError("disk I/O error")
        self.error.sqlite_errorcode = code
        self.where = where

    def connect(self, path: Path, mode: str) -> sqlite3.Connection:
        connection = super().connect(path, mode)
        return Stumbling(connection, self.error) if self.where == "pragma" else connection

    def size(self, path: Path) -> int:
        if self.where == "size" and path.suffix == ".sqlite":
            raise self.error
        return super().size(path)


class Stumbling:
    """A connection whose first statement fails."""

    def __init__(self, connection: sqlite3.Connection, error: sqlite3.Error) -> None:
        self._connection, self._error = connection, error

    def execute(self, _sql: str) -> None:
        raise self._error

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize("where", ["pragma", "size"])
@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE])
def test_what_may_be_over_soon_is_no_refusal_while_it_is_opened(path: Path, where: str, code: int) -> None:
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        OwnedDatabase(path, "shop", "run", files=Lacking(where, code))
    OwnedDatabase(path, "shop", "run").close()


def test_what_may_be_over_soon_is_no_refusal_while_it_is_read(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError), reading(path):
        raise Lacking("", sqlite3.SQLITE_FULL).error


def test_a_value_that_is_not_what_its_column_holds_is_damage(path: Path) -> None:
    with pytest.raises(DefiniteError, match="it is damaged: TypeError"), reading(path):
        sorted(["text", b"bytes"])


def test_a_commit_that_finds_no_room_for_the_index_leaves_the_ballast_to_its_successor(path: Path) -> None:
    class NoIndex:
        def write(self, _sequence: int) -> None:
            raise Lacking("", sqlite3.SQLITE_IOERR_SHMSIZE).error

    database = OwnedDatabase(path, "shop", "run", ballast_bytes=1 << 20)
    ballast = path.with_name("shop.sqlite.ballast")
    assert ballast.exists()
    mark, database._mark = database._mark, NoIndex()
    database.begin()
    with pytest.raises(sqlite3.OperationalError):
        database.commit()
    assert not ballast.exists()
    assert not path.with_name("shop.sqlite.failed").exists()
    database._mark = mark
    database.close()
