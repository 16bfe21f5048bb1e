"""Reading a service's database beside its owner, or with everything down: the ledger's rows and the service's audit."""

from __future__ import annotations

import sqlite3
from collections.abc import ItemsView, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from actors.ledger import RowState
from actors.store import PURGED, ROW_COLUMNS, STORE_MIGRATIONS, row_of, value_crc
from orchestrator.app import LedgerRow, ServiceAudit, StepState
from orchestrator.database import open_reader, refused
from orchestrator.files import REAL_FILES
from orchestrator.logs import redact
from orchestrator.migration import check_readable
from orchestrator.saga import decode_plain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from orchestrator.files import Files

_STATES = "SELECT txn, step, operation, state FROM ledger ORDER BY txn, step"
_STATE_NAMES: Mapping[object, str] = {state.value: state.name for state in RowState}
_ROWS = f"SELECT {ROW_COLUMNS} FROM ledger"  # noqa: S608 - a constant


class Audit(Protocol):
    """A service's own checks; `Service.audit` is one."""

    def __call__(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], /, *, purged: bool) -> ServiceAudit:
        """Totals and violations of one snapshot."""


def _no_checks(_state: Mapping[str, Any], _rows: Iterable[LedgerRow], *, purged: bool) -> ServiceAudit:  # noqa: ARG001
    return ServiceAudit({}, [])


class StoreReader:
    """A `LedgerReader` over one snapshot of a service's database.

    Args:
        path: the database.
        audit: the service's own checks.
        files: the disk.

    Raises:
        DefiniteError: E_STORE_REFUSED where it is missing or cannot be read.
    """

    def __init__(self, path: Path, audit: Audit = _no_checks, *, files: Files = REAL_FILES) -> None:
        self._path = path
        self._connection = open_reader(path, files)
        check_readable(self._connection, path, STORE_MIGRATIONS)
        self._connection.text_factory = _text
        self._audit = audit

    def rows(self, transaction: str | None = None) -> Iterator[LedgerRow]:
        """All rows, or one transaction's, in id order; damaged ones are left out here and named by `audit`."""
        return self._rows(transaction, [])

    def states(self) -> Iterator[StepState]:
        """Where every step stands, in id order; damage that its checksum would show is named by `audit`.

        Raises:
            DefiniteError: E_STORE_REFUSED where the ledger cannot be read to its end.
        """
        try:
            for transaction, step, operation, state in self._connection.execute(_STATES):
                if type(transaction) is type(step) is type(operation) is str:
                    yield StepState(transaction, step, operation, _STATE_NAMES.get(state) or str(state))
        except sqlite3.Error as error:
            raise refused(self._path, f"its ledger cannot be read: {error}") from error

    def held(self) -> Iterator[LedgerRow]:
        """The rows that are PREPARED, in id order; cheap, whatever the length of the history."""
        for columns in self._connection.execute(f"{_ROWS} WHERE state = 0 ORDER BY txn"):
            row = _ledger_row(columns)
            if row is not None:
                yield row

    def state(self) -> Mapping[str, Any]:
        """The service's state, read on demand; gone when the snapshot is released."""
        return SnapshotState(self._connection)

    def epochs(self) -> dict[int, int]:
        """The highest epoch that the service has seen of every partition."""
        return dict(self._connection.execute("SELECT partition, epoch FROM epochs").fetchall())

    def purged(self) -> bool:
        """Whether rows older than the retention period are gone, so that the rows do not add up to the state."""
        return self._connection.execute("SELECT 1 FROM meta WHERE name = ?", (PURGED,)).fetchone() is not None

    def audit(self) -> ServiceAudit:
        """The service's checks, and every row and value whose checksum does not fit; also where damage stops the checks."""
        damaged: list[str] = []
        rows = self._audited_rows(damaged)
        report = self._checked(rows)
        for _ in rows:  # what the service's checks left unread has its checksums verified all the same
            pass
        damaged.extend(self._damaged_values())
        return ServiceAudit(report.totals, damaged + report.violations)

    def close(self) -> None:
        """Release the snapshot."""
        self._connection.close()

    def _checked(self, rows: Iterator[LedgerRow]) -> ServiceAudit:
        try:
            return self._audit(self.state(), rows, purged=self.purged())
        except Exception as error:  # noqa: BLE001 - the service's code, over a state that may be damaged
            return ServiceAudit({}, [f"its checks failed with {type(error).__name__}: {redact(str(error))}"])

    def _audited_rows(self, damaged: list[str]) -> Iterator[LedgerRow]:
        try:
            yield from self._rows(None, damaged)
        except sqlite3.Error as error:
            damaged.append(f"the ledger cannot be read to its end: {error}")

    def _rows(self, transaction: str | None, damaged: list[str]) -> Iterator[LedgerRow]:
        if transaction is None:
            cursor = self._connection.execute(f"{_ROWS} ORDER BY txn, step")
        else:
            cursor = self._connection.execute(f"{_ROWS} WHERE txn = ? ORDER BY txn, step", (transaction,))
        for columns in cursor:
            row = _ledger_row(columns)
            if row is None:
                damaged.append(f"the ledger row of {columns[0]} {columns[1]} is damaged: its checksum does not fit")
            else:
                yield row

    def _damaged_values(self) -> Iterator[str]:
        try:
            for key, value, crc in self._connection.execute("SELECT key, value, crc FROM state ORDER BY key"):
                if type(key) is not str or type(value) is not bytes or value_crc(key, value) != crc:
                    yield f"the state's value of {key!r} is damaged: its checksum does not fit"
        except sqlite3.Error as error:
            yield f"the state cannot be read to its end: {error}"


class SnapshotState(Mapping[str, Any]):
    """A snapshot of a service's state, read on demand; `items()` streams in key order."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getitem__(self, key: str) -> Any:
        columns = self._connection.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        if columns is None:
            raise KeyError(key)
        return decode_plain(columns[0])

    def __iter__(self) -> Iterator[str]:
        return (key for (key,) in self._connection.execute("SELECT key FROM state ORDER BY key"))

    def __len__(self) -> int:
        (count,) = self._connection.execute("SELECT count(*) FROM state").fetchone()
        return int(count)

    def items(self) -> ItemsView[str, Any]:
        """All keys and values; one query."""
        return _StreamedItems(self, self._connection)


class _StreamedItems(ItemsView[str, Any]):
    def __init__(self, state: SnapshotState, connection: sqlite3.Connection) -> None:
        super().__init__(state)
        self._connection = connection

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for key, value in self._connection.execute("SELECT key, value FROM state ORDER BY key"):
            yield key, decode_plain(value)


def _ledger_row(columns: tuple[object, ...]) -> LedgerRow | None:
    row = row_of(columns)
    if row is None:
        return None
    return LedgerRow(
        row.transaction, row.step, row.operation, RowState(row.state).name, _plain(row.request), _plain(row.result),
        row.code, row.message, row.attempts, row.prepared_ms, row.finished_ms)


def _text(stored: bytes) -> str:
    """Text that is no UTF-8 any more is readable all the same: its checksum tells."""
    return stored.decode("utf-8", "backslashreplace")


def _plain(payload: bytes) -> Any:
    """Plain data; a request that was refused because it is not msgpack stands as its bytes."""
    try:
        return decode_plain(payload)
    except msgspec.DecodeError:
        return payload
