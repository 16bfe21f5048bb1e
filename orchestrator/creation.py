"""How a database comes into being: once, durably, resumed after a crash, and never over what was there before."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from orchestrator.database import check_meta, open_reader, refused
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.files import REAL_FILES
from orchestrator.mark import create_mark, mark_path, read_mark
from orchestrator.migration import FIRST_SCHEMA, migrate, refuse_newer

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.files import Files
    from orchestrator.migration import Migration

_META = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""


def create_database(
    path: Path, schema_sql: str, kind: str, files: Files = REAL_FILES, migrations: tuple[Migration, ...] = (),
) -> str:
    """Create a database durably, or find the one that was created before; a crash in between is resumed.

    Args:
        path: where it shall lie; missing directories are created with mode 0700.
        schema_sql: statements that create its tables as they were at first, beside the table `meta` that every database has.
        kind: what it is for; opening it demands the same.
        files: the disk.
        migrations: what has become of the tables since.

    Returns:
        Its uuid, for ever the same.

    Raises:
        DefiniteError: E_STORE_REFUSED where something is there that is not this database whole; E_DATA_DIR where the
            directory cannot be written.
    """
    try:
        if files.identity(path):
            return _existing_uuid(path, kind, files, migrations)
        _refuse_remnants(path, files)
        files.make_directory(path.parent)
        return _create(path, schema_sql, kind, files, migrations)
    except (OSError, sqlite3.OperationalError) as error:
        raise DefiniteError(ErrorCode.DATA_DIR, f"cannot create {path}: {error}") from error


def _existing_uuid(path: Path, kind: str, files: Files, migrations: tuple[Migration, ...]) -> str:
    connection = open_reader(path, files)
    try:
        found = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    finally:
        connection.close()
    check_meta(found, path, kind)
    refuse_newer(path, found["schema"], migrations)
    return str(found["uuid"])


def _refuse_remnants(path: Path, files: Files) -> None:
    """A write-ahead log or a raised mark without its database: the database was lost, a new one would hide that."""
    for suffix in ("-wal", "-shm"):
        if files.identity(path.with_name(path.name + suffix)):
            raise refused(path, f"it is missing, but {path.name + suffix} is still there")
    with contextlib.suppress(OSError, ValueError):
        _, sequence = read_mark(mark_path(path), files)
        if sequence > 0:
            raise refused(path, f"it is missing, but its mark says that it had {sequence} commits")


def _create(path: Path, schema_sql: str, kind: str, files: Files, migrations: tuple[Migration, ...]) -> str:
    uuid = files.new_uuid()
    draft = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm"):
        files.remove(draft.with_name(draft.name + suffix))
    files.open(draft, create=True).close()
    connection = files.connect(draft, "rw")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript("BEGIN IMMEDIATE;" + _META + schema_sql)
        schema = migrate(connection, FIRST_SCHEMA, migrations)
        first = {"uuid": uuid, "kind": kind, "schema": schema, "epoch": 0, "sequence": 0}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", first.items())
        connection.execute("COMMIT")
    finally:
        connection.close()  # folds the write-ahead log into the file
    file = files.open(draft)
    try:
        file.sync()
    finally:
        file.close()
    create_mark(mark_path(path), uuid, files)  # before the rename: a database is never without its mark
    files.sync_directory(path.parent)
    files.rename(draft, path)
    files.sync_directory(path.parent)
    return uuid
