"""Reading the transaction log beside its writer, or with everything down: one consistent snapshot, never a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator.database import open_reader, refused
from orchestrator.files import REAL_FILES
from orchestrator.log.acts import StoredAct, load_acts, load_pauses
from orchestrator.log.backlog import Backlog, backlog_of
from orchestrator.log.finding import COLUMNS, STATES, TransactionQuery, TransactionSummary, find, lookup, summary_of
from orchestrator.log.rows import bound_to, load_stored, parking_rows
from orchestrator.log.schema import LOG_KIND, LOG_MIGRATIONS, decode_record
from orchestrator.log.verify import problems
from orchestrator.migration import check_readable
from orchestrator.protocol.records import Pauses, Record, Resolved, State, StoredTransaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from orchestrator.files import Files

__all__ = ["LogReader", "StoredRecord", "TransactionQuery", "TransactionSummary"]


class StoredRecord(msgspec.Struct, frozen=True):
    """A record as it lies in the log; `at_ms` is when the log stored it, Unix ms."""

    sequence: int
    at_ms: int
    record: Record


class LogReader:
    """One snapshot of a transaction log.

    Args:
        path: of the log's database.
        files: the disk.

    Raises:
        DefiniteError: E_STORE_REFUSED where it is missing, or no transaction log.
    """

    def __init__(self, path: Path, files: Files = REAL_FILES) -> None:
        self._connection = open_reader(path, files)
        meta = dict(self._connection.execute("SELECT name, value FROM meta").fetchall())
        if meta.get("kind") != LOG_KIND:
            self._connection.close()
            raise refused(path, f"it is not a transaction log but {meta.get('kind')!r}")
        check_readable(self._connection, path, LOG_MIGRATIONS)
        self.uuid: str = meta["uuid"]
        self.watermark_ms: int = meta["watermark_ms"]
        self.last_record: int = meta["last_record"]

    def find(self, query: TransactionQuery) -> list[TransactionSummary]:
        """The newest transactions that fit.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field.
        """
        return find(self._connection, query)

    def iterate(self) -> Iterator[TransactionSummary]:
        """All transactions in the order of their ids; memory stays flat."""
        cursor = self._connection.execute(f"SELECT {COLUMNS} FROM transactions ORDER BY txn")  # noqa: S608 - constant
        while rows := cursor.fetchmany(1_000):
            yield from map(summary_of, rows)

    def stored(self, transaction: str) -> StoredTransaction | None:
        """A transaction by its id."""
        found = load_stored(self._connection, [transaction])
        return found[0] if found else None

    def by_key(self, key: str) -> StoredTransaction | None:
        """The transaction that a key is bound to."""
        transaction = bound_to(self._connection, [key]).get(key)
        return None if transaction is None else self.stored(transaction)

    def load(self, keys: Sequence[str], transactions: Sequence[str]) -> list[StoredTransaction]:
        """The transactions that these keys are bound to or that have these ids; in no particular order."""
        return load_stored(self._connection, list({*transactions, *bound_to(self._connection, keys).values()}))

    def history(self, transaction: str) -> list[StoredRecord]:
        """All records of a transaction, in the order in which they became durable."""
        rows = parking_rows(self._connection, transaction)
        rows += self._connection.execute(
            "SELECT r.sequence, r.data FROM transactions t JOIN records r "
            "ON r.sequence IN (t.begun_sequence, t.decided_sequence, t.ended_sequence) WHERE t.txn = ?", (transaction,))
        history = []
        for sequence, data in sorted(rows):
            envelope = decode_record(data)
            history.append(StoredRecord(sequence, envelope.at_ms, envelope.record))
        return history

    def acts(self, transaction: str | None = None, limit: int = 100) -> list[StoredAct]:
        """What operators did, the newest first; on one transaction, or ("") pauses and resumptions alone."""
        return load_acts(self._connection, transaction, limit)

    def pauses(self) -> Pauses:
        """The sagas and services that are paused."""
        return load_pauses(self._connection)

    def resolved(self) -> dict[str, list[Resolved]]:
        """By transaction, what operators asserted of its steps while no ledger agrees with it."""
        found: dict[str, list[Resolved]] = {}
        for (data,) in self._connection.execute(
                "SELECT r.data FROM resolutions s JOIN records r ON r.sequence = s.sequence ORDER BY s.sequence"):
            record = decode_record(data).record
            assert isinstance(record, Resolved)
            found.setdefault(record.transaction, []).append(record)
        return found

    def records(self) -> Iterator[StoredRecord]:
        """All records in the order in which they became durable; memory stays flat.

        Raises:
            ValueError: a record cannot be read; `verify` says which.
        """
        cursor = self._connection.execute("SELECT sequence, data FROM records ORDER BY sequence")
        while rows := cursor.fetchmany(1_000):
            for sequence, data in rows:
                envelope = decode_record(data)
                yield StoredRecord(sequence, envelope.at_ms, envelope.record)

    def records_after(self, sequence: int) -> Iterator[StoredRecord]:
        """The records above a sequence in the order in which they became durable."""
        for found, data in self._connection.execute(
                "SELECT sequence, data FROM records WHERE sequence > ? ORDER BY sequence", (sequence,)):
            envelope = decode_record(data)
            yield StoredRecord(found, envelope.at_ms, envelope.record)

    def lookup(self, transaction: str, query: TransactionQuery | None = None) -> TransactionSummary | None:
        """One transaction; None where the log does not know it, or it does not fit the query."""
        return lookup(self._connection, transaction, query or TransactionQuery())

    def renew(self) -> bool:
        """Give the snapshot up for one of now; whether a record has become durable in between."""
        self._connection.execute("COMMIT")
        self._connection.execute("BEGIN")
        (last,) = self._connection.execute("SELECT value FROM meta WHERE name = 'last_record'").fetchone()
        grown = bool(last != self.last_record)
        self.last_record = last
        return grown

    def epochs(self) -> dict[int, int]:
        """The current epoch of every partition that was ever taken."""
        return dict(self._connection.execute("SELECT partition, epoch FROM partitions").fetchall())

    def verify(self) -> list[str]:
        """What is wrong with the log, the first problems first; reads every record, memory stays flat."""
        return problems(self._connection)

    def counts(self) -> dict[str, int]:
        """How many transactions are in each state."""
        rows = self._connection.execute("SELECT state, COUNT(*) FROM transactions GROUP BY state")
        return dict.fromkeys(STATES, 0) | {State(state).name.lower(): count for state, count in rows}

    def open_count(self) -> int:
        """How many transactions have not ended; cheap."""
        row = self._connection.execute("SELECT COUNT(*) FROM transactions WHERE ended_sequence = 0").fetchone()
        return int(row[0])

    def backlog(self, now_ms: int) -> Backlog:
        """What is open, and which of it should long have come further.

        Args:
            now_ms: Unix time.
        """
        return backlog_of(self._connection, now_ms)

    def close(self) -> None:
        """Release the snapshot."""
        self._connection.close()
