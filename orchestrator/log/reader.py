"""Reading the transaction log beside its writer, or with everything down: one consistent snapshot, never a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.database import open_reader, refused
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.files import REAL_FILES
from orchestrator.log.rows import bound_to, load_stored, parking_rows
from orchestrator.log.schema import LOG_KIND, LOG_MIGRATIONS, decode_record
from orchestrator.log.verify import problems
from orchestrator.migration import check_readable
from orchestrator.protocol.identifiers import oldest_id
from orchestrator.protocol.records import Record, State, StoredTransaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from orchestrator.files import Files

LIMIT_MAX = 10_000
_STATES = {state.name.lower(): state for state in State}
_COLUMNS = (
    "txn, key, saga, version, state, business_key, began_ms, deadline_ms, decided_ms, ended_ms, code, message, service, "
    "step, attempts, parked")
# the literal terms are those of the partial indexes, which are used only where they are repeated
_TERMS = {
    "saga": "saga = ?",
    "code": "code = ? AND code != ''",
    "business_key": "business_key = ? AND business_key != ''",
    "after": "txn < ?",
}


class TransactionQuery(msgspec.Struct, frozen=True):
    """Which transactions to find; a field that is None (or empty) does not restrict.

    Args:
        state: preparing, committing, committed, aborting, aborted, or open (not ended).
        saga: name.
        code: of the abort.
        parked: whether a step needs an operator.
        business_key: as the saga derives it from the input.
        since_ms: begun at or after, Unix ms.
        until_ms: begun at or before, Unix ms.
        limit: at most so many, 1 to 10,000.
        after: only those older than this transaction: the last one of the page before.
    """

    state: str | None = None
    saga: str | None = None
    code: str | None = None
    parked: bool | None = None
    business_key: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    limit: int = 50
    after: str | None = None


class TransactionSummary(msgspec.Struct, frozen=True):
    """One line of a list of transactions; times in Unix ms, 0 = not yet."""

    transaction: str
    key: str
    saga: str
    version: int
    state: str
    business_key: str
    began_ms: int
    deadline_ms: int
    decided_ms: int
    ended_ms: int
    code: str
    message: str
    service: str
    step: str
    attempts: int
    parked: bool


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
        if not 1 <= query.limit <= LIMIT_MAX:
            raise DefiniteError(ErrorCode.INVALID_INPUT, f"limit must be 1 to {LIMIT_MAX}; got {query.limit}")
        terms, values = _conditions(query)
        where = f"WHERE {' AND '.join(terms)} " if terms else ""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM transactions {where}ORDER BY txn DESC LIMIT ?",  # noqa: S608 - constant terms
            [*values, query.limit])
        return [_summary(row) for row in rows]

    def iterate(self) -> Iterator[TransactionSummary]:
        """All transactions in the order of their ids; memory stays flat."""
        cursor = self._connection.execute(f"SELECT {_COLUMNS} FROM transactions ORDER BY txn")  # noqa: S608 - constant
        while rows := cursor.fetchmany(1_000):
            yield from map(_summary, rows)

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

    def epochs(self) -> dict[int, int]:
        """The current epoch of every partition that was ever taken."""
        return dict(self._connection.execute("SELECT partition, epoch FROM partitions").fetchall())

    def verify(self) -> list[str]:
        """What is wrong with the log, the first problems first; reads every record, memory stays flat."""
        return problems(self._connection)

    def counts(self) -> dict[str, int]:
        """How many transactions are in each state."""
        rows = self._connection.execute("SELECT state, COUNT(*) FROM transactions GROUP BY state")
        return dict.fromkeys(_STATES, 0) | {State(state).name.lower(): count for state, count in rows}

    def open_count(self) -> int:
        """How many transactions have not ended; cheap."""
        row = self._connection.execute("SELECT COUNT(*) FROM transactions WHERE ended_sequence = 0").fetchone()
        return int(row[0])

    def close(self) -> None:
        """Release the snapshot."""
        self._connection.close()


def _conditions(query: TransactionQuery) -> tuple[list[str], list[Any]]:
    terms, values = [], []
    for name, term in _TERMS.items():
        if getattr(query, name):
            terms.append(term)
            values.append(getattr(query, name))
    if query.since_ms is not None:
        terms.append("txn >= ?")
        values.append(oldest_id(query.since_ms))
    if query.until_ms is not None:
        terms.append("txn < ?")
        values.append(oldest_id(query.until_ms + 1))
    if query.parked is not None:
        terms.append("parked > 0" if query.parked else "parked = 0")
    if query.state:
        terms += _state_terms(query.state)
    return terms, values


def _state_terms(state: str) -> list[str]:
    if state == "open":
        return ["ended_sequence = 0"]
    if state not in _STATES:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"state must be one of {', '.join(_STATES)}, open; got {state!r}")
    terms = [f"state = {_STATES[state].value}"]
    if _STATES[state] in {State.PREPARING, State.COMMITTING, State.ABORTING}:
        terms.append("ended_sequence = 0")  # few are open: their index finds them
    return terms


def _summary(row: tuple[Any, ...]) -> TransactionSummary:
    return TransactionSummary(*(*row[:4], _NAMES[row[4]], *row[5:-1], row[-1] > 0))


_NAMES = [state.name.lower() for state in sorted(State)]
