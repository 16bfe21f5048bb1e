"""The file discipline that the transaction log and every service's store share: SQLite in WAL mode with one owner.

A database is created once, durably, by the deployment; an actor only ever opens it. It is opened by one writer at a
time (flock, then an owner epoch that every write transaction checks), and refused where it is missing, of another
kind, damaged, or older than the mark beside it. The mark is created with the database, so that a missing mark is
itself a sign that files were moved, and is refused too.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid as uuids
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.mark import Mark, create_mark, mark_path, read_mark
from orchestrator.ownership import HeldError, OwnerLock

if TYPE_CHECKING:
    from pathlib import Path

DATABASE_SCHEMA = 1
QUICK_CHECK_BYTES_MAX = 64 << 20
_BUSY_TIMEOUT_S = 5.0
_META = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -24576",  # KiB: bounds the memory, whatever the length of the history
    "PRAGMA wal_autocheckpoint = 4000",  # pages
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA temp_store = MEMORY",
)


def create_database(path: Path, schema_sql: str, kind: str) -> str:
    """Create a database durably, or find the one that was created before; a crash in between is resumed.

    Args:
        path: where it shall lie; missing directories are created with mode 0700.
        schema_sql: statements that create its tables, beside the table `meta` that every database has.
        kind: what it is for; opening it demands the same.

    Returns:
        Its uuid, for ever the same.

    Raises:
        DefiniteError: E_STORE_REFUSED where something is there that is not this database whole; E_DATA_DIR where the
            directory cannot be written.
    """
    if path.exists():
        return _existing_uuid(path, kind)
    _refuse_remnants(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _create(path, schema_sql, kind)
    except OSError as error:
        raise DefiniteError(ErrorCode.DATA_DIR, f"cannot create {path}: {error}") from error
    except sqlite3.OperationalError as error:
        raise DefiniteError(ErrorCode.DATA_DIR, f"cannot create {path}: {error}") from error


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a database to read one snapshot of it, beside its live owner or with everything down.

    Raises:
        DefiniteError: E_STORE_REFUSED where it is missing or cannot be read as a database of raytx.
    """
    if not path.is_file():
        raise refused(path, "it is missing")
    failure: sqlite3.Error | None = None
    for mode in ("ro", "rw"):  # rw is for a write-ahead log left by a crash that only a writer may recover
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False,
            timeout=_BUSY_TIMEOUT_S,
        )
        try:
            _begin_snapshot(connection)
        except sqlite3.Error as error:
            connection.close()
            failure = error
        else:
            return connection
    raise refused(path, f"it cannot be read: {failure}")


def refused(path: Path, reason: str) -> DefiniteError:
    """E_STORE_REFUSED for one file, with the remedy."""
    return DefiniteError(
        ErrorCode.STORE_REFUSED,
        f"{path}: {reason}; restore the newest copy of the whole data directory, never a part of it",
    )


class OwnedDatabase:
    """A database open for its one writer; use it from one thread at a time.

    Args:
        path: an existing database.
        kind: what it must be for.
        run: the deployment's run; openings are counted within one.
        expected_uuid: refuse another database than this; "" = any.

    Attributes:
        connection: in autocommit mode; write between `begin` and `commit` only.
        uuid: of the database.
        epoch: of this ownership; every opening raises it.
        restarts: openings in this run before this one.
        sequence: number of commits, contiguous.

    Raises:
        DefiniteError: E_STORE_REFUSED, saying which file and why.
    """

    def __init__(self, path: Path, kind: str, run: str, *, expected_uuid: str = "") -> None:
        if not path.is_file():
            raise refused(path, "it is missing")
        self.path = path
        with contextlib.ExitStack() as undo:
            self._lock = _own(path)
            undo.callback(self._lock.release)
            self._mark = _open_mark(path)
            undo.callback(self._mark.close)
            self.connection = _connect(path)
            undo.callback(self.connection.close)
            self.uuid = _check(self.connection, path, kind, self._mark, expected_uuid)
            self.sequence: int = self.meta("sequence")
            self.epoch, self.restarts = self._take_over(run)
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
        sequence = self.sequence + 1
        self.set_meta("sequence", sequence)
        self.connection.execute("COMMIT")
        self.sequence = sequence
        self._mark.write(sequence)

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
        self.connection.close()
        self._mark.sync()
        self._mark.close()
        self._lock.release()

    def _take_over(self, run: str) -> tuple[int, int]:
        """Raise the owner epoch: a real fsync, so that nothing is answered from a page that was never synced."""
        self.connection.execute("BEGIN IMMEDIATE")
        epoch = self.meta("epoch") + 1
        opens = self.meta("opens", 0) + 1 if self.meta("run") == run else 1
        for name, value in (("epoch", epoch), ("run", run), ("opens", opens)):
            self.set_meta(name, value)
        self.commit()
        self._mark.sync()
        return epoch, opens - 1


def _own(path: Path) -> OwnerLock:
    try:
        return OwnerLock(path.with_name(path.name + ".lock"))
    except HeldError as error:
        raise refused(path, f"another process owns it: {error}") from error
    except OSError as error:
        raise refused(path, f"its lock cannot be taken: {error}") from error


def _open_mark(path: Path) -> Mark:
    try:
        return Mark(mark_path(path))
    except FileNotFoundError:
        raise refused(path, f"its mark {mark_path(path).name} is missing") from None
    except (OSError, ValueError) as error:
        raise refused(path, f"its mark {mark_path(path).name} is unreadable: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False,
        cached_statements=256, timeout=_BUSY_TIMEOUT_S,
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
    except sqlite3.Error as error:
        connection.close()
        raise refused(path, f"it cannot be opened: {error}") from error
    return connection


def _check(connection: sqlite3.Connection, path: Path, kind: str, mark: Mark, expected_uuid: str) -> str:
    try:
        found = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        damage = _damage(connection, path)
    except sqlite3.Error as error:
        raise refused(path, f"it cannot be read: {error}") from error
    if damage:
        raise refused(path, f"it is damaged: {damage}")
    _check_meta(found, path, kind)
    if expected_uuid and found["uuid"] != expected_uuid:
        raise refused(path, f"it is another database ({found['uuid']}) than the deployment's ({expected_uuid})")
    if found["uuid"] != mark.uuid:
        raise refused(path, f"it is another database ({found['uuid']}) than the one its mark belongs to ({mark.uuid})")
    if found["sequence"] < mark.sequence:
        raise refused(path, f"it is an older copy: it ends at commit {found['sequence']}, its mark at {mark.sequence}")
    return str(found["uuid"])


def _check_meta(found: dict[str, Any], path: Path, kind: str) -> None:
    if found.get("kind") != kind:
        raise refused(path, f"it is not a database of kind {kind!r} but {found.get('kind')!r}")
    if found["schema"] > DATABASE_SCHEMA:
        raise refused(path, f"its schema {found['schema']} is newer than this program's {DATABASE_SCHEMA}: upgrade")


def _damage(connection: sqlite3.Connection, path: Path) -> str:
    """What SQLite's own check finds; left out for a big file, where it would keep everybody waiting."""
    if path.stat().st_size > QUICK_CHECK_BYTES_MAX:
        return ""
    (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return "" if answer == "ok" else str(answer)


def _begin_snapshot(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = 1")
    connection.execute("PRAGMA cache_size = -8192")
    connection.execute("BEGIN")
    connection.execute("SELECT value FROM meta WHERE name = 'uuid'").fetchone()  # the first read fixes the snapshot


def _existing_uuid(path: Path, kind: str) -> str:
    connection = open_reader(path)
    try:
        found = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    finally:
        connection.close()
    _check_meta(found, path, kind)
    return str(found["uuid"])


def _refuse_remnants(path: Path) -> None:
    """A write-ahead log or a raised mark without its database: the database was lost, a new one would hide that."""
    for suffix in ("-wal", "-shm"):
        if path.with_name(path.name + suffix).exists():
            raise refused(path, f"it is missing, but {path.name + suffix} is still there")
    with contextlib.suppress(OSError, ValueError):
        _, sequence = read_mark(mark_path(path))
        if sequence > 0:
            raise refused(path, f"it is missing, but its mark says that it had {sequence} commits")


def _create(path: Path, schema_sql: str, kind: str) -> str:
    uuid = uuids.uuid4().hex
    draft = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript("BEGIN IMMEDIATE;" + _META + schema_sql)
        first = {"uuid": uuid, "kind": kind, "schema": DATABASE_SCHEMA, "epoch": 0, "sequence": 0}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", first.items())
        connection.execute("COMMIT")
    finally:
        connection.close()  # folds the write-ahead log into the file
    _sync(draft)
    create_mark(mark_path(path), uuid)  # before the rename: a database is never without its mark
    _sync(path.parent)
    draft.rename(path)
    _sync(path.parent)
    return uuid


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
