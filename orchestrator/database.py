"""The file discipline that the transaction log and every service's store share: SQLite in WAL mode with one owner.

A database is created once, durably, by the deployment; an actor only ever opens it. It is opened by one writer at a
time (flock, then an owner epoch that every write transaction checks), and refused where it is missing, of another
kind, damaged, or older than the mark beside it. The mark is created with the database, so that a missing mark is
itself a sign that files were moved, and is refused too.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from orchestrator.ballast import BALLAST_BYTES, Ballast, is_full
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.files import REAL_FILES
from orchestrator.logs import log_event
from orchestrator.mark import Mark, mark_path
from orchestrator.migration import FIRST_SCHEMA, MigrationError, incompatible, migrate, refuse_newer
from orchestrator.ownership import HeldError
from orchestrator.protocol.counts import BOUNDS_OF_COMMITS_MS, Histogram
from orchestrator.rescue import UnrescuedError, has_failed, is_io_error, lacks_index, note_failure, rescue, rescued_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.files import Files, Lock
    from orchestrator.migration import Migration

QUICK_CHECK_BYTES_MAX = 64 << 20
WAL_PAGES: Final = 4_000  # the write-ahead log is folded into the database when it has so many
WAL_PAGES_FULL: Final = 200  # while the disk is full
_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -24576",  # KiB: bounds the memory, whatever the length of the history
    f"PRAGMA wal_autocheckpoint = {WAL_PAGES}",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA temp_store = MEMORY",
)
_META_TYPES = {"kind": str, "uuid": str, "schema": int, "epoch": int, "sequence": int}
_OUTSIDE = frozenset({
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY})
_REMEDIES = {
    errno.EMFILE: "raise the process's limit of open files, then start again",
    errno.ENFILE: "raise the system's limit of open files, then start again",
    errno.EROFS: "make the file system writable, then start again",
    errno.EACCES: "give its directory and files back to the user that raytx runs as, then start again",
    errno.EPERM: "give its directory and files back to the user that raytx runs as, then start again",
}


def open_reader(path: Path, files: Files = REAL_FILES) -> sqlite3.Connection:
    """Open a database to read one snapshot of it, beside its live owner or with everything down.

    Raises:
        DefiniteError: E_STORE_REFUSED where it is missing or cannot be read as a database of raytx.
    """
    try:
        before = files.identity(path)
        connection = _snapshot(path, files)
        if not files.identity(rescued_path(path)) and files.identity(path) == before:
            return connection
        connection.close()
    except OSError as error:
        raise unusable(path, error) from error
    raise unusable(path, "a copy made after a disk error is taking its place: start the deployment, or ask again")


def refused(path: Path, reason: str) -> DefiniteError:
    """E_STORE_REFUSED for one file, with the remedy."""
    return DefiniteError(
        ErrorCode.STORE_REFUSED,
        f"{path}: {reason}; restore the newest copy of the whole data directory, never a part of it",
    )


def unusable(path: Path, reason: Exception | str) -> DefiniteError:
    """E_STORE_REFUSED for one file that is whole, as far as anybody knows, but cannot be used as things are."""
    remedy = _REMEDIES.get(getattr(reason, "errno", 0) or 0, "mend that, then start again")
    return DefiniteError(ErrorCode.STORE_REFUSED, f"{path}: it cannot be opened: {reason}; nothing is lost: {remedy}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """While a database is opened: what cannot be read is damaged, unless the disk is full or fails, which may be over soon.

    Raises:
        DefiniteError: E_STORE_REFUSED.
        sqlite3.Error: the disk is full or fails.
    """
    try:
        yield
    except sqlite3.Error as error:
        if _may_pass(error):
            raise
        raise _unreadable(path, error) from error
    except (TypeError, ValueError, msgspec.MsgspecError) as error:  # a value that is not what its column holds
        raise refused(path, f"it is damaged: {type(error).__name__}: {error}") from error


class OwnedDatabase:
    """A database open for its one writer; use it from one thread at a time.

    Args:
        path: an existing database.
        kind: what it must be for.
        run: the deployment's run; openings are counted within one.
        expected_uuid: refuse another database than this; "" = any.
        files: the disk.
        ballast_bytes: how much room is kept for finishing what has begun when the disk is full.
        migrations: of its kind; those that an older program did not know are made up for.

    Attributes:
        connection: in autocommit mode; write between `begin` and `commit` only.
        uuid: of the database.
        epoch: of this ownership; every opening raises it.
        restarts: openings in this run before this one.
        sequence: number of commits, contiguous.
        commit_ms: how long they took.

    Raises:
        DefiniteError: E_STORE_REFUSED, saying which file and why.
        sqlite3.Error, OSError: the disk is full or fails; open it again.
    """

    def __init__(
        self, path: Path, kind: str, run: str, *, expected_uuid: str = "", files: Files = REAL_FILES,
        ballast_bytes: int = BALLAST_BYTES, migrations: tuple[Migration, ...] = (),
    ) -> None:
        self.path, self._files, self._migrations = path, files, migrations
        self.commit_ms = Histogram(BOUNDS_OF_COMMITS_MS)
        with contextlib.ExitStack() as undo:
            self._lock = _own(path, files)
            undo.callback(self._lock.release)
            _rescue(path, files)
            self._mark = _open_mark(path, files)
            undo.callback(self._mark.close)
            self.connection = _connect(path, files)
            undo.callback(self.connection.close)
            _check_pages(self.connection, path, files)
            self.uuid = _check(self.connection, path, kind, self._mark, expected_uuid)
            refuse_newer(path, self.meta("schema"), migrations)
            self.sequence: int = self.meta("sequence")
            self._ballast = Ballast(files, path, ballast_bytes)
            self.epoch, self.restarts = self._owned(run)
            undo.pop_all()

    def begin(self) -> None:
        """Start a write transaction.

        Raises:
            DefiniteError: E_STORE_REFUSED; a successor owns the database, this process must end. Nothing was written.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        if self.meta("epoch") != self.epoch:
            self.connection.execute("ROLLBACK")
            raise refused(self.path, f"a successor of epoch {self.epoch} owns it")

    def commit(self) -> None:
        """Make the transaction durable, then raise the mark.

        Raises:
            sqlite3.Error, OSError: the outcome is unknown; this process must end without answering anybody.
        """
        sequence, began_s = self.sequence + 1, time.perf_counter()
        try:
            self.set_meta("sequence", sequence)
            self.connection.execute("COMMIT")
            self.sequence = sequence
            self._mark.write(sequence)
        except (sqlite3.Error, OSError) as error:
            self._note(error)
            if lacks_index(error):
                self._ballast.release(error)  # the successor needs the room
            raise
        self.commit_ms.observe((time.perf_counter() - began_s) * 1_000)

    def has_room(self, now_ms: int) -> bool:
        """Whether new work may begin: the ballast is held, or could be made anew just now.

        Args:
            now_ms: any clock, ms; it is tried once a second.
        """
        if not self._ballast.held and self._ballast.refill(now_ms):
            self.connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        return self._ballast.held

    def make_room(self, error: BaseException) -> bool:
        """Give the ballast up where this error says that the disk is full; roll back before.

        Returns:
            Whether what failed can be tried again; what begins anything must be left out.
        """
        if not is_full(error) or not self._ballast.release(error):
            return False
        self.connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_FULL}")
        return True

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def meta(self, name: str, default: Any = None) -> Any:
        """A named value of the database."""
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if row is None else row[0]

    def set_meta(self, name: str, value: str | int | bytes) -> None:
        """Write a named value as part of the open transaction."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Give the database up; what was not committed is undone."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            undo.callback(self._mark.close)
            self.connection.close()
            self._sync_beside()

    def _owned(self, run: str) -> tuple[int, int]:
        try:
            return self._take_over(run)
        except (sqlite3.Error, OSError) as error:
            self.rollback()
            if not self.make_room(error):
                raise
            return self._take_over(run)
        except MigrationError as error:
            self.rollback()
            raise incompatible(self.path, f"{error}; nothing was changed: use the program that wrote it") from error

    def _take_over(self, run: str) -> tuple[int, int]:
        """Raise the owner epoch: a real fsync, so that nothing is answered from a page that was never synced.

        What an older program left is migrated in the same transaction: old or new, never between, and never by an owner
        that has been succeeded.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        found = self.meta("schema")
        schema = migrate(self.connection, found, self._migrations)
        self.set_meta("schema", schema)
        epoch = self.meta("epoch") + 1
        before = self.meta("opens", 0) if self.meta("run") == run else 0
        opens = before + 1 if type(before) is int else 1
        for name, value in (("epoch", epoch), ("run", run), ("opens", opens)):
            self.set_meta(name, value)
        self.commit()
        self._sync_beside()
        if schema != found:
            log_event("migrated", message=f"{self.path.name}: from schema {found} to {schema}")
        return epoch, opens - 1

    def _sync_beside(self) -> None:
        """The mark, and the names: SQLite syncs the directory of a new write-ahead log, but ignores it where that fails."""
        try:
            self._mark.sync()
            self._files.sync_directory(self.path.parent)
        except OSError as error:
            self._note(error)
            raise

    def _note(self, error: Exception) -> None:
        if is_io_error(error):
            note_failure(self._files, self.path, error)


def _own(path: Path, files: Files) -> Lock:
    try:
        if not files.identity(path):
            raise refused(path, "it is missing")
        return files.lock(path.with_name(path.name + ".lock"))
    except HeldError as error:
        raise refused(path, f"another process owns it: {error}") from error
    except OSError as error:
        if _may_pass(error):
            raise
        raise unusable(path, error) from error


def _rescue(path: Path, files: Files) -> None:
    try:
        rescue(files, path)
    except (UnrescuedError, FileNotFoundError, ValueError) as error:
        raise refused(path, f"its disk has failed, and it cannot be copied: {error}") from error


def _open_mark(path: Path, files: Files) -> Mark:
    try:
        return Mark(mark_path(path), files)
    except FileNotFoundError:
        raise refused(path, f"its mark {mark_path(path).name} is missing") from None
    except ValueError as error:
        raise refused(path, f"its mark {mark_path(path).name} is unreadable: {error}") from error
    except OSError as error:
        raise unusable(mark_path(path), error) from error


def _connect(path: Path, files: Files) -> sqlite3.Connection:
    try:
        connection = files.connect(path, "rw")
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
    except sqlite3.Error as error:
        connection.close()
        if _may_pass(error):
            raise
        raise _unreadable(path, error) from error
    return connection


def _may_pass(error: Exception) -> bool:
    """Whether it may be over soon: the database is opened again."""
    return is_full(error) or is_io_error(error) or lacks_index(error)


def _unreadable(path: Path, error: sqlite3.Error) -> DefiniteError:
    """Whether it is the file, or only the way to it."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OUTSIDE:
        return unusable(path, error)
    return refused(path, f"it cannot be read: {error}")


def _check(connection: sqlite3.Connection, path: Path, kind: str, mark: Mark, expected_uuid: str) -> str:
    found = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    check_meta(found, path, kind)
    for name in _META_TYPES:  # a page whose order is damaged is scanned as ever, and looked up in vain
        if connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone() != (found[name],):
            raise refused(path, f"it is damaged: its meta value {name!r} cannot be looked up")
    if expected_uuid and found["uuid"] != expected_uuid:
        raise refused(path, f"it is another database ({found['uuid']}) than the deployment's ({expected_uuid})")
    if found["uuid"] != mark.uuid:
        raise refused(path, f"it is another database ({found['uuid']}) than the one its mark belongs to ({mark.uuid})")
    if found["sequence"] < mark.sequence:
        raise refused(path, f"it is an older copy: it ends at commit {found['sequence']}, its mark at {mark.sequence}")
    return str(found["uuid"])


def check_meta(found: dict[str, Any], path: Path, kind: str) -> None:
    """Refuse what is no whole database of this kind.

    Args:
        found: its named values.
        path: where it lies.
        kind: what it must be for.

    Raises:
        DefiniteError: E_STORE_REFUSED.
    """
    for name, expected in _META_TYPES.items():
        if type(found.get(name)) is not expected:
            raise refused(path, f"it is damaged: its meta value {name!r} is {found.get(name)!r}")
    if found.get("kind") != kind:
        raise refused(path, f"it is not a database of kind {kind!r} but {found.get('kind')!r}")
    if found["schema"] < FIRST_SCHEMA:
        raise refused(path, f"it is damaged: its meta value 'schema' is {found['schema']!r}")


def _check_pages(connection: sqlite3.Connection, path: Path, files: Files) -> None:
    """SQLite's own check; left out for a big file, where it would keep everybody waiting."""
    try:
        connection.execute("SELECT name, value FROM meta").fetchall()
        if files.size(path) > QUICK_CHECK_BYTES_MAX:
            return
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        if _may_pass(error):
            raise
        raise _unreadable(path, error) from error
    if answer != "ok":
        raise refused(path, f"it is damaged: {answer}")


def _snapshot(path: Path, files: Files) -> sqlite3.Connection:
    if not files.identity(path):
        raise refused(path, "it is missing")
    failure: sqlite3.Error | None = None
    # rw is for a write-ahead log left by a crash that only a writer may recover; but see `orchestrator.rescue`
    modes: tuple[Literal["ro", "rw"], ...] = ("ro",) if has_failed(files, path) else ("ro", "rw")
    for mode in modes:
        try:
            connection = files.connect(path, mode)
        except sqlite3.Error as error:
            failure = error
            continue
        try:
            _begin_snapshot(connection)
        except sqlite3.Error as error:
            connection.close()
            failure = error
        else:
            return connection
    raise refused(path, f"it cannot be read: {failure}")


def _begin_snapshot(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = 1")
    connection.execute("PRAGMA cache_size = -8192")
    connection.execute("BEGIN")
    connection.execute("SELECT value FROM meta WHERE name = 'uuid'").fetchone()  # the first read fixes the snapshot
