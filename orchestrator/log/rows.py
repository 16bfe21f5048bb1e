"""Stored transactions put together from their rows; for the log's writer and for its readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.log.schema import decode_record, digest_of_key
from orchestrator.protocol.records import Act, Begun, Decided, Parked, Resolved, State, StoredTransaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

_CHUNKS = (256, 16, 1)  # a few widths, so that the prepared statements are found again
_STORED = """
SELECT t.txn, t.state, t.ended_ms, t.parked, t.recoveries, b.data, d.data
FROM transactions t JOIN records b ON b.sequence = t.begun_sequence
LEFT JOIN records d ON d.sequence = t.decided_sequence
WHERE t.txn IN"""


def select_in(connection: sqlite3.Connection, sql: str, values: Sequence[str | bytes]) -> Iterator[tuple[Any, ...]]:
    """Rows of a statement that ends in `IN`, for many values with few calls."""
    start = 0
    for width in _CHUNKS:
        marks = ",".join("?" * width)
        while len(values) - start >= width:
            yield from connection.execute(f"{sql} ({marks})", values[start : start + width])
            start += width


def load_stored(connection: sqlite3.Connection, transactions: Sequence[str]) -> list[StoredTransaction]:
    """The transactions of these ids that the log knows, in no particular order."""
    found = []
    for txn, state, ended_ms, parked, recoveries, begun, decided in select_in(connection, _STORED, transactions):
        found.append(StoredTransaction(
            _begun(begun),
            State(state),
            None if decided is None else as_decided(decided),
            ended_ms,
            list(load_parked(connection, txn).values()) if parked else [],
            recoveries,
        ))
    resolved = load_resolved(connection, transactions)
    if not resolved:
        return found
    return [msgspec.structs.replace(one, resolved=resolved.get(one.begun.transaction, [])) for one in found]


def load_resolved(connection: sqlite3.Connection, transactions: Sequence[str]) -> dict[str, list[Resolved]]:
    """What operators asserted of these transactions while no ledger agrees with it, in the order of the log."""
    found: dict[str, list[Resolved]] = {}
    rows = select_in(
        connection, "SELECT s.sequence, r.data FROM resolutions s JOIN records r ON r.sequence = s.sequence WHERE s.txn IN",
        transactions)
    for _, data in sorted(rows):
        record = decode_record(data).record
        assert isinstance(record, Resolved)
        found.setdefault(record.transaction, []).append(record)
    return found


def bound_to(connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, str]:
    """Key to transaction id, for those keys that the log knows."""
    rows = select_in(
        connection, "SELECT r.data FROM keys k JOIN records r ON r.sequence = k.begun_sequence WHERE k.digest IN",
        [digest_of_key(key) for key in keys])
    return {begun.key: begun.transaction for begun in (_begun(data) for (data,) in rows)}


def load_parked(connection: sqlite3.Connection, transaction: str) -> dict[str, Parked]:
    """The steps of a transaction that are parked now, with the record that says so."""
    parked: dict[str, Parked] = {}
    for _, data in parking_rows(connection, transaction):
        record = decode_record(data).record
        assert isinstance(record, (Parked, Resolved, Act))
        if isinstance(record, Act):
            continue
        parked.pop(record.step, None)
        if isinstance(record, Parked) and record.code:
            parked[record.step] = record
    return parked


def parking_rows(connection: sqlite3.Connection, transaction: str) -> list[tuple[int, bytes]]:
    """Sequence and data of a transaction's Parked, Resolved and Act records, in order."""
    return connection.execute(
        "SELECT r.sequence, r.data FROM parkings p JOIN records r ON r.sequence = p.sequence "
        "WHERE p.txn = ? ORDER BY p.sequence", (transaction,)).fetchall()


def as_decided(data: bytes) -> Decided:
    """The decision that a record's data holds."""
    record = decode_record(data).record
    assert isinstance(record, Decided)
    return record


def _begun(data: bytes) -> Begun:
    record = decode_record(data).record
    assert isinstance(record, Begun)
    return record
