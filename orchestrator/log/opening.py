"""What opening a transaction log reads: its newest records, to be sure of them, and what is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.database import refused
from orchestrator.log.batch import OpenTransaction
from orchestrator.log.rows import as_decided, load_parked
from orchestrator.log.schema import is_whole

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from orchestrator.database import OwnedDatabase

TAIL_RECORDS = 10_000
_NUMBERS = ("base_sequence", "last_record", "watermark_ms")
_COLUMNS = (
    "SELECT t.txn, t.partition, t.begun_sequence, t.decided_sequence, d.data, t.parked, t.recoveries, t.taken_sequence FROM")
# the index is named, since SQLite would rather read all transactions, which are in order, than sort the few that are open
_OPEN = (
    f"{_COLUMNS} transactions t INDEXED BY transactions_open LEFT JOIN records d ON d.sequence = t.decided_sequence "
    "WHERE t.ended_sequence = 0 ORDER BY t.txn")
_UNSETTLED = (
    f"{_COLUMNS} transactions t LEFT JOIN records d ON d.sequence = t.decided_sequence "  # noqa: S608 - constants
    "WHERE t.txn IN (SELECT txn FROM resolutions WHERE awaited > 0) AND t.ended_sequence > 0")
_NEWEST_PARKINGS = (
    "SELECT t.txn, MAX(p.sequence) FROM transactions t INDEXED BY transactions_open CROSS JOIN parkings p ON p.txn = t.txn "
    "WHERE t.ended_sequence = 0 GROUP BY t.txn")


def load_open(connection: sqlite3.Connection) -> tuple[dict[str, OpenTransaction], dict[str, OpenTransaction]]:
    """By id, the transactions that have not ended, and those that have while a ledger is still to agree with an operator.

    What has ended is not read, however much of it there is.
    """
    found = {txn: _open(connection, txn, columns) for txn, *columns in connection.execute(_OPEN)}
    unsettled = {txn: _open(connection, txn, columns) for txn, *columns in connection.execute(_UNSETTLED)}
    for txn, sequence in connection.execute(_NEWEST_PARKINGS):
        found[txn].last_sequence = max(found[txn].last_sequence, sequence)
    for txn, step, awaited in connection.execute("SELECT txn, step, awaited FROM resolutions"):
        known = found.get(txn) or unsettled.get(txn)
        if known is not None:  # else it is a perform of a transaction that has ended
            known.resolved = {**(known.resolved or {}), step: bool(awaited)}
    return found, unsettled


def _open(connection: sqlite3.Connection, txn: str, columns: Sequence[Any]) -> OpenTransaction:
    partition, begun_sequence, decided_sequence, decided, parked, recoveries, taken_sequence = columns
    transaction = OpenTransaction(partition, max(begun_sequence, decided_sequence))
    transaction.decided = None if decided is None else as_decided(decided)
    transaction.parked = load_parked(connection, txn) if parked else {}
    transaction.recoveries, transaction.taken_sequence = recoveries, taken_sequence
    return transaction


def check_tail(database: OwnedDatabase, path: Path) -> None:
    """The newest records are all there and whole; the older ones are `LogReader.verify`'s, which takes its time.

    Raises:
        DefiniteError: E_STORE_REFUSED, naming the record.
    """
    for name in _NUMBERS:
        if type(database.meta(name)) is not int:
            raise refused(path, f"it is damaged: its meta value {name!r} is {database.meta(name)!r}")
    base, last = database.meta("base_sequence"), database.meta("last_record")
    expected = last
    for sequence, crc, data in database.connection.execute(
            "SELECT sequence, crc, data FROM records WHERE sequence >= ? ORDER BY sequence DESC LIMIT ?",
            (base, TAIL_RECORDS)):
        if sequence != expected:
            raise refused(path, f"record {expected} is missing")
        if not is_whole(sequence, crc, data):
            raise refused(path, f"record {sequence} is damaged")
        expected -= 1
    if last - expected < min(TAIL_RECORDS, last - base + 1):
        raise refused(path, f"record {expected} is missing")
