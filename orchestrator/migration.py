"""How a database that an older program wrote becomes one of this program, within the transaction that opens it.

A database is created as its first schema and every migration after it, so that a new one and an old one that was
migrated cannot differ. The schema's number stands in the database, and rises by one with every migration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.ballast import is_full
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.rescue import is_io_error

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

Migration = Callable[["sqlite3.Connection"], None]
"""Brings a database from one schema to the next. It runs inside an open transaction, and must not end that."""

FIRST_SCHEMA = 1


class MigrationError(Exception):
    """A migration failed, and would fail again."""


def schema_after(migrations: tuple[Migration, ...]) -> int:
    """The number of the schema that all of these migrations lead to."""
    return FIRST_SCHEMA + len(migrations)


def statements(*sql: str) -> Migration:
    """A migration that is these SQL statements, one each: `executescript` would end the transaction."""
    def apply(connection: sqlite3.Connection) -> None:
        for one in sql:
            connection.execute(one)
    return apply


def migrate(connection: sqlite3.Connection, found: int, migrations: tuple[Migration, ...]) -> int:
    """Apply what is missing, inside the open transaction; whoever commits it commits all of it or nothing.

    Args:
        connection: with an open transaction.
        found: the schema that the database has.
        migrations: all there are, the first leads from schema 1 to 2.

    Returns:
        The schema that it has now.

    Raises:
        MigrationError: a migration failed for a reason of its own; nothing is changed once the transaction is undone.
        sqlite3.Error, OSError: the disk is full or fails; it may be tried again.
    """
    for number, apply in enumerate(migrations[found - FIRST_SCHEMA :], found + 1):
        try:
            apply(connection)
        except Exception as error:
            if is_io_error(error) or is_full(error):
                raise
            raise MigrationError(
                f"it cannot be brought to schema {number}: {type(error).__name__}: {error}") from error
    return schema_after(migrations)


def refuse_newer(path: Path, schema: int, migrations: tuple[Migration, ...]) -> None:
    """Refuse a database that a newer program has written, or migrated.

    Raises:
        DefiniteError: E_STORE_REFUSED.
    """
    known = schema_after(migrations)
    if schema > known:
        raise incompatible(
            path, f"its schema {schema} is newer than this program; upgrade (this one knows schema {known}, and there is "
            "no way back)")


def check_readable(connection: sqlite3.Connection, path: Path, migrations: tuple[Migration, ...]) -> None:
    """Refuse to read another schema than this program's, and close the connection; a reader never migrates.

    Raises:
        DefiniteError: E_STORE_REFUSED.
    """
    row = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    schema = row[0] if row else None
    try:
        if type(schema) is not int:
            raise incompatible(path, f"it is damaged: its meta value 'schema' is {schema!r}")
        refuse_newer(path, schema, migrations)
        if schema < schema_after(migrations):
            raise incompatible(
                path, f"its schema {schema} is older than this program's {schema_after(migrations)}: `raytx up` brings it "
                "up to date, and nothing is lost by that")
    except DefiniteError:
        connection.close()
        raise


def incompatible(path: Path, reason: str) -> DefiniteError:
    """E_STORE_REFUSED for one file that is whole, and of another version than this program."""
    return DefiniteError(ErrorCode.STORE_REFUSED, f"{path}: {reason}")
