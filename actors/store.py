"""A service's database: its ledger, its state and the epochs it has seen, written together or not at all.

SQLite behind `OwnedDatabase`. One batch is one local transaction: `begin`, reads, `write`, `commit`. What is cached is
what is committed; a failed commit ends the process, so a cache never runs ahead of its database.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import astuple

from actors.cache import NewIds, RecentMap
from actors.ledger import Key, Row, RowState
from orchestrator.ballast import BALLAST_BYTES
from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, reading, refused
from orchestrator.errors import DefiniteError
from orchestrator.files import REAL_FILES
from orchestrator.protocol.identifiers import oldest_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from orchestrator.files import Files
    from orchestrator.migration import Migration

# as it was at first, for ever: what is changed, is changed by a migration
SCHEMA_SQL: Final = """
CREATE TABLE ledger (
    txn TEXT NOT NULL, step TEXT NOT NULL, operation TEXT NOT NULL, state INTEGER NOT NULL, fingerprint BLOB NOT NULL,
    request BLOB NOT NULL, result BLOB NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL, attempts INTEGER NOT NULL,
    prepared_ms INTEGER NOT NULL, finished_ms INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (txn, step)
) WITHOUT ROWID;
CREATE INDEX ledger_prepared ON ledger (txn) WHERE state = 0;
CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE epochs (partition INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);
"""
STORE_MIGRATIONS: Final[tuple[Migration, ...]] = ()
ROW_COLUMNS: Final = (
    "txn, step, operation, state, fingerprint, request, result, code, message, attempts, prepared_ms, finished_ms, crc")
STATE_ENTRIES_MAX = 50_000
PREPARED_ROWS_MAX = 50_000
NEW_IDS_MAX = 40_000
PURGE_ROWS_MAX = 256  # per batch: retention never makes a batch wait
PURGED: Final = "purged"  # named in the database once any row was purged: from then on the rows do not add up to the state

_LOAD = f"SELECT {ROW_COLUMNS} FROM ledger WHERE txn IN (SELECT value FROM json_each(?))"  # noqa: S608 - a constant
_INSERT = f"INSERT INTO ledger ({ROW_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant
_FINISH = "UPDATE ledger SET state = ?, attempts = ?, finished_ms = ?, crc = ? WHERE txn = ? AND step = ?"
_PUT = "INSERT OR REPLACE INTO state VALUES (?, ?, ?)"
_EPOCH = "INSERT OR REPLACE INTO epochs VALUES (?, ?)"
_PURGEABLE = "SELECT txn, step, state FROM ledger WHERE (txn, step) > (?, ?) AND txn < ? ORDER BY txn, step LIMIT ?"
_START: Final[Key] = ("", "")
_ABSENT: Final = b""  # no value encodes to nothing
_MISS: Final = b"\xc1"  # nor to a byte that msgpack never uses

_encode = msgspec.msgpack.Encoder().encode


class SupersededError(Exception):
    """A successor owns the database: this process must end without answering."""


class Retention(msgspec.Struct, frozen=True):
    """Up to where the log lets rows go; it only rises.

    Attributes:
        watermark_ms: transactions that began before it have ended, Unix ms.
        exempt: those older ones that have not; no row of theirs is purged.
    """

    watermark_ms: int = 0
    exempt: frozenset[str] = frozenset()

    def joined(self, watermark_ms: int, exempt: Iterable[str]) -> Retention:
        """What holds after another sender's word: the newer watermark; where they are equal, the exempt of both.

        A transaction may begin below the watermark (its shard's clock is behind), and other shards hear of it later.
        """
        if watermark_ms > self.watermark_ms:
            return Retention(watermark_ms, frozenset(exempt))
        if watermark_ms < self.watermark_ms or self.exempt.issuperset(exempt):
            return self
        return Retention(watermark_ms, self.exempt.union(exempt))


def store_kind(service: str) -> str:
    """What the database of a service is created and opened as."""
    return f"service/{service}"


def create_store(path: Path, service: str, files: Files = REAL_FILES) -> str:
    """Create a service's database durably, resumably and never over existing data.

    Returns:
        Its uuid.

    Raises:
        DefiniteError: E_STORE_REFUSED or E_DATA_DIR.
    """
    return create_database(path, SCHEMA_SQL, store_kind(service), files, STORE_MIGRATIONS)


def row_crc(row: Row) -> int:
    """Checksum of all of a row's content."""
    return zlib.crc32(_encode(row))


def value_crc(key: str, value: bytes) -> int:
    """Checksum of one value of the state with its key."""
    return zlib.crc32(value, zlib.crc32(key.encode()))


def row_of(columns: tuple[object, ...]) -> Row | None:
    """The row in the columns read, None where they are damaged."""
    *content, crc = columns
    try:
        row = msgspec.convert(content, Row)
    except msgspec.ValidationError:
        return None
    return row if row_crc(row) == crc else None


class Store:
    """A service's database open for its one writer; used from one thread.

    Args:
        path: an existing database.
        service: whose it is.
        run: the deployment's run.
        expected_uuid: refuse another database than this; "" = any.
        files: the disk.
        ballast_bytes: see `OwnedDatabase`.

    Raises:
        DefiniteError: E_STORE_REFUSED.
        sqlite3.Error, OSError: the disk is full or fails; open it again.
    """

    def __init__(
        self, path: Path, service: str, run: str, *, expected_uuid: str = "", files: Files = REAL_FILES,
        ballast_bytes: int = BALLAST_BYTES,
    ) -> None:
        self.path = path
        self.database = OwnedDatabase(
            path, store_kind(service), run, expected_uuid=expected_uuid, files=files, ballast_bytes=ballast_bytes,
            migrations=STORE_MIGRATIONS)
        try:
            with reading(path):
                self._load()
        except BaseException:
            self.database.close()  # it may be tried again
            raise

    def _load(self) -> None:
        self.retention = _retention(self.database)
        self._connection = self.database.connection
        self._values: RecentMap[str, bytes] = RecentMap(STATE_ENTRIES_MAX)
        self._prepared: RecentMap[Key, Row | None] = RecentMap(PREPARED_ROWS_MAX)
        (highest,) = self._connection.execute("SELECT max(txn) FROM ledger").fetchone()
        self._new = NewIds(highest or "", NEW_IDS_MAX)
        self._purged_to: Key = _START  # up to here only rows that are held or exempt are left

    def epochs(self) -> dict[int, int]:
        """Highest epoch seen per partition."""
        return dict(self._connection.execute("SELECT partition, epoch FROM epochs").fetchall())

    def prepared_keys(self) -> list[Key]:
        """What is held, oldest first."""
        held = self._connection.execute("SELECT txn, step FROM ledger WHERE state = 0 ORDER BY txn").fetchall()
        return [(txn, step) for txn, step in held]

    def still_prepared(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the keys whose rows are PREPARED."""
        return [key for key, row in self.load(keys).items() if row.state is RowState.PREPARED]

    def begin(self) -> None:
        """Start a batch's local transaction.

        Raises:
            SupersededError: another process has opened the database since.
        """
        try:
            self.database.begin()
        except DefiniteError as error:
            raise SupersededError(str(error)) from error

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        self.database.rollback()

    def undo(self) -> None:
        """Undo a batch that failed, what is known of the watermark included: it is what the database holds."""
        self.rollback()
        self.retention, self._purged_to = _retention(self.database), _START

    def load(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """The rows that exist among these, in one query.

        Raises:
            DefiniteError: E_STORE_REFUSED; a row is damaged.
        """
        found: dict[Key, Row] = {}
        missing: set[str] = set()
        for key in keys:
            transaction = key[0]
            if self._new.absent(transaction):
                continue
            row = self._prepared.get(key, None)
            if row is None:
                missing.add(transaction)
            else:
                found[key] = row
        if missing:
            self._load_missing(missing, found)
        return found

    def value(self, key: str) -> bytes | None:
        """The encoded value of a key of the state, None where it is absent.

        Raises:
            DefiniteError: E_STORE_REFUSED; the value is damaged.
        """
        value = self._values.get(key, _MISS)
        if value is _MISS:
            value = self._read_value(key)
            self._values.put(key, value)
        return None if value is _ABSENT else value

    def keys(self) -> Iterator[str]:
        """All keys of the state."""
        return (key for (key,) in self._connection.execute("SELECT key FROM state").fetchall())

    def write(
        self, rows: Mapping[Key, Row], was: Mapping[Key, Row], values: Mapping[str, bytes | None],
        epochs: Mapping[int, int],
    ) -> None:
        """Write what a batch changed into its local transaction.

        Args:
            rows: rows as they are now, changed ones only.
            was: rows as they were loaded.
            values: encoded values of the state; None deletes.
            epochs: partitions whose epoch was raised.
        """
        new = [_columns(row) for key, row in rows.items() if key not in was]
        changed = [_transition(row) for key, row in rows.items() if key in was]
        put = [(key, value, value_crc(key, value)) for key, value in values.items() if value is not None]
        gone = [(key,) for key, value in values.items() if value is None]
        for sql, parameters in ((_INSERT, new), (_FINISH, changed), (_PUT, put)):
            if parameters:
                self._connection.executemany(sql, parameters)
        if gone:
            self._connection.executemany("DELETE FROM state WHERE key = ?", gone)
        if epochs:
            self._connection.executemany(_EPOCH, list(epochs.items()))

    def commit(self, rows: Mapping[Key, Row], values: Mapping[str, bytes | None]) -> None:
        """Make the batch durable; the caches follow.

        Raises:
            sqlite3.Error, OSError: the outcome is unknown; this process must end.
        """
        self.database.commit()
        for key, value in values.items():
            self._values.put(key, _ABSENT if value is None else value)
        for row_key, row in rows.items():
            self._new.stored(row.transaction)
            if row.state is RowState.PREPARED:
                self._prepared.put(row_key, row)
            else:
                self._prepared.forget(row_key)
                if row_key <= self._purged_to:  # passed over while it was held: the purge comes by once more
                    self._purged_to = (row.transaction, "")

    def retain(self, retention: Retention) -> bool:
        """Note what is known of the watermark, and purge some rows below it, in the batch's local transaction.

        Returns:
            Whether anything was written.
        """
        wrote = False
        joined = self.retention.joined(retention.watermark_ms, retention.exempt)
        if joined is not self.retention:
            if not self.retention.exempt <= joined.exempt:
                self._purged_to = _START  # what was exempt may go now
            self.retention = joined
            self.database.set_meta("retention", _encode((joined.watermark_ms, sorted(joined.exempt))))
            wrote = True
        return self._purge() or wrote

    def close(self) -> None:
        """Give the database up."""
        self.database.close()

    def _load_missing(self, transactions: set[str], found: dict[Key, Row]) -> None:
        wanted = msgspec.json.encode(sorted(transactions)).decode()
        for columns in self._connection.execute(_LOAD, (wanted,)):
            row = row_of(columns)
            if row is None:
                raise refused(self.path, f"the ledger row of {columns[0]} {columns[1]} is damaged")
            found[row.transaction, row.step] = row

    def _read_value(self, key: str) -> bytes:
        columns = self._connection.execute("SELECT value, crc FROM state WHERE key = ?", (key,)).fetchone()
        if columns is None:
            return _ABSENT
        value, crc = columns
        if type(value) is not bytes or value_crc(key, value) != crc:
            raise refused(self.path, f"the state's value of {key!r} is damaged")
        return value

    def _purge(self) -> bool:
        end = oldest_id(self.retention.watermark_ms)
        if self._purged_to[0] >= end:
            return False
        found = self._connection.execute(_PURGEABLE, (*self._purged_to, end, PURGE_ROWS_MAX)).fetchall()
        exempt = self.retention.exempt
        gone = [(txn, step) for txn, step, state in found if state != RowState.PREPARED and txn not in exempt]
        if gone:
            self._connection.executemany("DELETE FROM ledger WHERE txn = ? AND step = ?", gone)
            self.database.set_meta(PURGED, 1)
        self._purged_to = found[-1][:2] if len(found) == PURGE_ROWS_MAX else (end, "")
        return bool(gone)


def _retention(database: OwnedDatabase) -> Retention:
    stored = database.meta("retention")
    if stored is None:
        return Retention()
    try:
        watermark_ms, exempt = msgspec.msgpack.decode(stored, type=tuple[int, list[str]])
    except (msgspec.MsgspecError, TypeError) as error:
        raise refused(database.path, f"it is damaged: its meta value 'retention': {error}") from error
    return Retention(watermark_ms, frozenset(exempt))


def _columns(row: Row) -> tuple[object, ...]:
    transaction, step, operation, state, *others = astuple(row)
    return (transaction, step, operation, int(state), *others, row_crc(row))


def _transition(row: Row) -> tuple[object, ...]:
    return (int(row.state), row.attempts, row.finished_ms, row_crc(row), row.transaction, row.step)
