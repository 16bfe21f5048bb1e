"""Full verification of a transaction log: every record is there and whole, and the index says what the records say.

One pass in the order of the records. Each record must be the very one that its transaction's index row points at, so
that two decisions or a second Begun cannot hide; then equal counts prove that no row points at nothing. Compaction has
passed over what lies below the base: there are gaps, and every record there belongs to a transaction that is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from orchestrator.log.acts import act_problems
from orchestrator.log.rows import select_in
from orchestrator.log.schema import decode_record, digest_of_key, is_whole
from orchestrator.protocol.identifiers import oldest_id
from orchestrator.protocol.records import Act, Begun, Decided, Decision, Ended, Parked, Record, Resolved, State

if TYPE_CHECKING:
    import sqlite3

PROBLEMS_MAX = 100
_CHUNK = 1_000
_FINAL = {Decision.COMMIT: State.COMMITTED, Decision.ABORT: State.ABORTED}
_DECIDED = {Decision.COMMIT: State.COMMITTING, Decision.ABORT: State.ABORTING}


class _Row(NamedTuple):
    """The index row of a transaction."""

    txn: str
    key: str
    begun_sequence: int
    state: int
    decided_sequence: int
    code: str
    ended_sequence: int


def problems(connection: sqlite3.Connection) -> list[str]:
    """What is wrong, the first problems first, at most a hundred; nothing wrong: empty."""
    return _Verification(connection).run()


class _Verification:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        self._base: int = self._meta["base_sequence"]
        self._oldest = oldest_id(self._meta["watermark_ms"])
        self._found: list[str] = []
        self._resolved: dict[int, tuple[str, str]] = {}  # by sequence: what it resolves
        self._counts: dict[type, int] = {Begun: 0, Decided: 0, Ended: 0, Parked: 0, Resolved: 0, Act: 0}

    def run(self) -> list[str]:
        expected = self._base
        cursor = self._connection.execute("SELECT sequence, crc, data FROM records ORDER BY sequence")
        while (rows := cursor.fetchmany(_CHUNK)) and len(self._found) < PROBLEMS_MAX:
            expected = self._contiguous(rows, expected)
            decoded = [(row[0], self._decode(*row)) for row in rows]
            self._check_chunk([(sequence, record) for sequence, record in decoded if record is not None])
        if not rows:
            if expected != self._meta["last_record"] + 1:
                self._report(f"records {expected} to {self._meta['last_record']} are missing at the end")
            self._check_counts()
            self._found += act_problems(self._connection)
        return self._found[:PROBLEMS_MAX]

    def _contiguous(self, rows: list[tuple[Any, ...]], expected: int) -> int:
        for sequence, _, _ in rows:
            if sequence < self._base:
                continue
            if sequence != expected:
                self._report(f"records {expected} to {sequence - 1} are missing")
            expected = sequence + 1
        return expected

    def _decode(self, sequence: int, crc: int, data: bytes) -> Record | None:
        if not is_whole(sequence, crc, data):
            self._report(f"record {sequence} is damaged: its checksum does not fit")
            return None
        try:
            return decode_record(data).record
        except (ValueError, msgspec.MsgspecError) as error:
            self._report(f"record {sequence} cannot be read: {error}")
            return None

    def _check_chunk(self, records: list[tuple[int, Record]]) -> None:
        ids = list(dict.fromkeys(record.transaction for _, record in records))
        rows = {row[0]: _Row(*row) for row in select_in(
            self._connection,
            "SELECT txn, key, begun_sequence, state, decided_sequence, code, ended_sequence FROM transactions "
            "WHERE txn IN", ids)}
        keys = self._keys([record.key for _, record in records if isinstance(record, Begun)])
        for sequence, record in records:
            row = rows.get(record.transaction)
            if row is not None:
                self._check_record(sequence, record, row, keys)
            elif sequence < self._base or record.transaction >= self._oldest:
                self._report(f"record {sequence} ({_kind(record)}) is of {record.transaction}, which was never begun")

    def _keys(self, keys: list[str]) -> dict[bytes, int]:
        return dict(select_in(
            self._connection, "SELECT digest, begun_sequence FROM keys WHERE digest IN",
            [digest_of_key(key) for key in keys]))

    def _check_record(self, sequence: int, record: Record, row: _Row, keys: dict[bytes, int]) -> None:
        problem = ""
        if isinstance(record, Begun):
            problem = _check_begun(sequence, record, row, keys)
        elif isinstance(record, Decided):
            problem = _check_decided(sequence, record, row)
        elif isinstance(record, Ended):
            problem = _check_ended(sequence, row)
        elif isinstance(record, Resolved):
            self._resolved[sequence] = (record.transaction, record.step)
            problem = _check_resolved(sequence, record, row)
        elif isinstance(record, (Parked, Act)) and not row.begun_sequence < sequence:
            problem = "it stands before its Begun"
        if problem:
            self._report(f"record {sequence} ({_kind(record)}) of {record.transaction}: {problem}")
        self._counts[type(record)] += 1

    def _check_counts(self) -> None:
        """Every record has been led to by exactly one row; a row too many points at no record."""
        for kinds, sql in (
            ((Begun,), "SELECT COUNT(*) FROM transactions"),
            ((Decided,), "SELECT COUNT(*) FROM transactions WHERE decided_sequence > 0"),
            ((Ended,), "SELECT COUNT(*) FROM transactions WHERE ended_sequence > 0"),
            ((Parked, Resolved, Act), "SELECT COUNT(*) FROM parkings"),
        ):
            (rows,) = self._connection.execute(sql).fetchone()
            held = sum(self._counts[kind] for kind in kinds)
            if rows != held:
                self._report(f"the index has {rows} {kinds[0].__name__} records, the log holds {held}")
        for txn, step, sequence in self._connection.execute("SELECT txn, step, sequence FROM resolutions"):
            if self._resolved.get(sequence) != (txn, step):
                self._report(f"the index says that record {sequence} resolves step {step!r} of {txn}; it does not")

    def _report(self, problem: str) -> None:
        self._found.append(problem)


def _check_begun(sequence: int, record: Begun, row: _Row, keys: dict[bytes, int]) -> str:
    if row.begun_sequence != sequence:
        return f"its transaction was begun by record {row.begun_sequence}"
    if row.key != record.key or keys.get(digest_of_key(record.key)) != sequence:
        return "its key is bound to something else"
    if not row.decided_sequence and row.state != State.PREPARING:
        return f"the index says {State(row.state).name}, but nothing was decided"
    return ""


def _check_decided(sequence: int, record: Decided, row: _Row) -> str:
    if row.decided_sequence != sequence:
        return f"a second decision, the index names record {row.decided_sequence}"
    if not row.begun_sequence < sequence:
        return "it stands before its Begun"
    expected = (_FINAL if row.ended_sequence else _DECIDED)[record.decision]
    if row.state != expected or (record.decision is Decision.ABORT and row.code != record.code):
        return f"the index says {State(row.state).name} {row.code}, not {expected.name} {record.code}"
    return ""


def _check_ended(sequence: int, row: _Row) -> str:
    if row.ended_sequence != sequence:
        return f"a second end, the index names record {row.ended_sequence}"
    return "" if 0 < row.decided_sequence < sequence else "it stands before a decision"


def _check_resolved(sequence: int, record: Resolved, row: _Row) -> str:
    if not 0 < row.decided_sequence < sequence:
        return "it stands before a decision"
    if row.state not in (_DECIDED[record.decision], _FINAL[record.decision]):
        return f"it asserts {record.decision.name}, the index says {State(row.state).name}"
    return ""


def _kind(record: Record) -> str:
    return type(record).__name__
