"""SQLite over a simulated disk: a VFS of APSW, and a connection with as much of `sqlite3`'s surface as the stores use.

APSW brings an SQLite of its own (newer than Python's), whose code for pages, locks and the write-ahead log runs here
unchanged. Two things differ from production. The index of the write-ahead log lies in the heap and not in shared memory
(`locking_mode = EXCLUSIVE`, since APSW's files have no shared memory): production does without that mode because readers
come beside the owner, and here a reader gets a copy of what the page cache holds. And rows are fetched at once.

APSW raises whatever a file raised, also where SQLite goes on without it: in the checkpoint after a commit, whose failure
is no failure of the commit. So that checkpoint is made here, by the same rule and with the same call.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import sqlite3
import weakref
from typing import TYPE_CHECKING, Any, Final, cast

import apsw

from orchestrator.testing.simulation.life import Crashed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orchestrator.testing.disk.inode import Handle
    from orchestrator.testing.disk.storage import SimulatedDisk

_NAME: Final = "raytx-simulated"
_STATEMENTS_MAX: Final = 256
_ERRORS: Final[dict[int, type[sqlite3.Error]]] = {
    apsw.SQLITE_CORRUPT: sqlite3.DatabaseError, apsw.SQLITE_NOTADB: sqlite3.DatabaseError,
    apsw.SQLITE_CONSTRAINT: sqlite3.IntegrityError, apsw.SQLITE_MISUSE: sqlite3.ProgrammingError,
}
_DISKS: weakref.WeakValueDictionary[str, SimulatedDisk] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)
_TEXTS: Final = {  # as Python's own library has them
    apsw.SQLITE_CANTOPEN: "unable to open database file", apsw.SQLITE_FULL: "database or disk is full"}
_AUTOCHECKPOINT: Final = "PRAGMA wal_autocheckpoint = "
_CHECKPOINT_PAGES: Final = 1_000  # SQLite's own default
_NEW_NAMES: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL  # with their first sync SQLite syncs the directory


def open_connection(disk: SimulatedDisk, path: str) -> sqlite3.Connection:
    """Connect to a database on a simulated disk.

    Raises:
        sqlite3.OperationalError: there is none.
    """
    return cast("sqlite3.Connection", SimulatedConnection(disk, path))  # it has what the stores use


class SimulatedConnection:
    """A connection of a simulated process; once that is killed, every call meets `Crashed`.

    Args:
        disk: where the database lies.
        path: of the database.
    """

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        self.path = path
        self.text_factory: object = str
        self._disk = disk
        self._alive, self._busy = True, False
        self._name = _name_of(disk)
        self._connection = self._call(lambda: apsw.Connection(
            f"/{self._name}{path}", vfs=_vfs(), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=_STATEMENTS_MAX))
        self._wal_pages, self._checkpoint_pages = 0, _CHECKPOINT_PAGES
        disk.connections.append(self)
        self.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.set_wal_hook(self._committed)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return bool(self._call(lambda: self._connection.in_transaction))

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> SimulatedCursor:
        """Run one statement and fetch its rows."""
        if sql.startswith(_AUTOCHECKPOINT):  # SQLite would put a hook of its own in the place of ours
            self._checkpoint_pages = int(sql.removeprefix(_AUTOCHECKPOINT))
            return SimulatedCursor([])
        self._wal_pages = 0
        rows = self._call(lambda: self._connection.execute(sql, parameters or None).fetchall())
        if self._wal_pages >= self._checkpoint_pages:
            self._call(self._checkpoint)
        return SimulatedCursor(rows)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> SimulatedCursor:
        """Run one statement for many parameters."""
        return SimulatedCursor(self._call(lambda: self._connection.executemany(sql, parameters).fetchall()))

    def executescript(self, sql: str) -> SimulatedCursor:
        """Run several statements."""
        return self.execute(sql)

    def close(self) -> None:
        """Give the database up; a dead process writes nothing more."""
        alive, self._busy = self._alive, True
        self._close()  # still known to the disk: it writes, and may be killed in doing so
        self._busy = False
        if self in self._disk.connections:
            self._disk.connections.remove(self)
        if alive and not self._alive:
            raise Crashed

    def kill(self) -> None:
        """For the disk: the process is dead."""
        self._alive = False
        if not self._busy:
            self._close()

    def _committed(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        with contextlib.suppress(apsw.Error):
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _close(self) -> None:
        with contextlib.suppress(apsw.Error, OSError):
            self._connection.set_wal_hook(None)  # a circle through APSW, which the collector does not see
            self._connection.close()

    def _call(self, work: Callable[[], Any]) -> Any:
        if not self._alive:
            raise Crashed
        self._busy = True
        try:
            return work()
        except apsw.Error as error:
            raise _translated(error) from None
        except UnicodeDecodeError as error:  # of a damaged file
            raise sqlite3.OperationalError(f"Could not decode to UTF-8: {error}") from None
        finally:
            self._busy = False
            if not self._alive:
                self._close()
                raise Crashed


class SimulatedCursor:
    """Rows that were fetched."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[Any]) -> None:
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchone(self) -> Any:
        """The next row, None after the last."""
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[Any]:
        """Up to so many more."""
        return list(itertools.islice(self._rows, size))

    def fetchall(self) -> list[Any]:
        """All that are left."""
        return list(self._rows)


class _File:
    """One file as SQLite has it open."""

    def __init__(self, disk: SimulatedDisk, handle: Handle, *, syncs_name: bool) -> None:
        self._disk, self._handle, self._syncs_name = disk, handle, syncs_name

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - as SQLite names them
        _expect(self._handle.alive)
        return bytes(self._handle.inode.cached[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        try:  # and not `_io`: there are hundreds of these in a schedule
            self._disk.write(self._handle, bytes(data), offset)
        except (Crashed, OSError) as error:
            raise _as_sqlite(error, apsw.SQLITE_IOERR_WRITE) from None

    def xTruncate(self, size: int) -> None:  # noqa: N802
        with _io(apsw.SQLITE_IOERR_TRUNCATE):
            self._disk.truncate(self._handle, size)

    def xSync(self, _flags: int) -> None:  # noqa: N802
        with _io(apsw.SQLITE_IOERR_FSYNC):
            self._disk.sync(self._handle)
        if self._syncs_name:
            with contextlib.suppress(Crashed, OSError):  # SQLite does not look at what becomes of this sync
                self._disk.sync_directory(self._handle.path.rpartition("/")[0])
            self._syncs_name = False

    def xFileSize(self) -> int:  # noqa: N802
        _expect(self._handle.alive)
        return len(self._handle.inode.cached)

    def xFileControl(self, _operation: int, _pointer: int) -> bool:  # noqa: N802
        return False

    def xLock(self, _level: int) -> None:  # noqa: N802 - one connection at a time: the owner's lock stands before
        _expect(self._handle.alive)

    def xUnlock(self, _level: int) -> None:  # noqa: N802
        """Nobody else is there."""

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return int(apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE)

    def xClose(self) -> None:  # noqa: N802
        self._disk.close(self._handle)


class _Vfs(apsw.VFS):
    """All simulated disks: the first part of a name says which."""

    def __init__(self) -> None:
        super().__init__(_NAME, base="")

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:  # noqa: N802
        assert isinstance(name, (str, apsw.URIFilename)), "temporary files are kept in memory"
        disk, path = _place(name if isinstance(name, str) else name.filename())
        create = bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        flags[1] = flags[0]
        with _io(apsw.SQLITE_CANTOPEN):
            handle = disk.open(path, create=create)
            return _File(disk, handle, syncs_name=create and bool(flags[0] & _NEW_NAMES))

    def xAccess(self, name: str, _flags: int) -> bool:  # noqa: N802
        disk, path = _place(name)
        return disk.find(path) is not None

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: FBT001, N802
        disk, path = _place(name)
        with _io(apsw.SQLITE_IOERR_DELETE):
            disk.remove(path)
            if syncdir:
                disk.sync_directory(path.rpartition("/")[0])


def _vfs() -> str:
    global _registered  # noqa: PLW0603 - a VFS is registered with the library once, for the process
    if _registered is None:
        _registered = _Vfs()
    return _NAME


_registered: _Vfs | None = None


def _name_of(disk: SimulatedDisk) -> str:
    for name, known in _DISKS.items():
        if known is disk:
            return name
    name = str(next(_numbers))
    _DISKS[name] = disk
    return name


def _place(name: str) -> tuple[SimulatedDisk, str]:
    _, disk, path = name.split("/", 2)
    return _DISKS[disk], f"/{path}"


@contextlib.contextmanager
def _io(code: int) -> Iterator[None]:
    try:
        yield
    except (Crashed, OSError) as error:
        raise _as_sqlite(error, code) from None


def _as_sqlite(error: BaseException, code: int) -> apsw.Error:
    """What the disk says, as SQLite's own layer for Unix would say it."""
    if isinstance(error, Crashed):
        return _io_error(apsw.SQLITE_IOERR)  # `SimulatedConnection` tells what it really was
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and code == apsw.SQLITE_IOERR_WRITE:
        return _io_error(apsw.SQLITE_FULL)
    return _io_error(code)


def _io_error(code: int) -> apsw.Error:
    kind: Any = {apsw.SQLITE_CANTOPEN: apsw.CantOpenError, apsw.SQLITE_FULL: apsw.FullError}.get(code, apsw.IOError)
    error = kind(_TEXTS.get(code, "disk I/O error"))
    error.extendedresult = code
    return cast("apsw.Error", error)


def _expect(alive: bool) -> None:  # noqa: FBT001
    if not alive:
        raise _io_error(apsw.SQLITE_IOERR)


def _translated(error: apsw.Error) -> sqlite3.Error:
    code = int(getattr(error, "extendedresult", 0) or apsw.SQLITE_ERROR)
    translated = _ERRORS.get(code & 0xFF, sqlite3.OperationalError)(str(error))
    translated.sqlite_errorcode = code
    translated.sqlite_errorname = type(error).__name__
    return translated
