"""Finding transactions in the log, and finding out that the log was tampered with."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from orchestrator.creation import create_database
from orchestrator.errors import DefiniteError
from orchestrator.log.reader import LogReader, TransactionQuery
from orchestrator.log.schema import crc_of, encode_record
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import (
    AppendRequest,
    Begun,
    CancelledKey,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Parked,
    Record,
    State,
    TakeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = 1_700_000_000_000
IDS = [make_id(NOW + number * 1_000, 7, 1, number) for number in range(6)]
PREPARING, COMMITTING, COMMITTED, ABORTED, PARKED, CANCELLED = IDS


def begun(txn: str, saga: str = "order", business_key: str = "") -> Begun:
    began_ms = NOW + IDS.index(txn) * 1_000
    return Begun(txn, f"key-{txn[-1]}", b"a" * 16, saga, 2, b"input", began_ms, began_ms + 30_000, 30_000, business_key)


HISTORY: list[Record] = [
    begun(PREPARING, business_key="o-1"),
    begun(COMMITTING),
    Decided(COMMITTING, Decision.COMMIT, NOW + 1),
    begun(COMMITTED, business_key="o-1"),
    Decided(COMMITTED, Decision.COMMIT, NOW + 2),
    Ended(COMMITTED, NOW + 3),
    begun(ABORTED, saga="refund"),
    Decided(ABORTED, Decision.ABORT, NOW + 4, "OUT_OF_STOCK", "none left", "inventory", "reserve", 2),
    Ended(ABORTED, NOW + 5),
    begun(PARKED),
    Decided(PARKED, Decision.COMMIT, NOW + 6),
    Parked(PARKED, "notify", "E_X", "no", NOW + 7, "mail"),
    CancelledKey(CANCELLED, "key-5", NOW + 8),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "log.sqlite"
    create_log(found)
    store = LogStore(found, "run", 7 * 24 * 3_600_000)
    store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW)
    records = [EpochRecord(1, record) for record in HISTORY]
    store.append([AppendRequest(1, 0, "first", 1, records)], NOW)
    store.close()
    return found


@pytest.fixture
def reader(path: Path) -> Iterator[LogReader]:
    found = LogReader(path)
    yield found
    found.close()


@pytest.mark.parametrize(("query", "expected"), [
    (TransactionQuery(), [CANCELLED, PARKED, ABORTED, COMMITTED, COMMITTING, PREPARING]),
    (TransactionQuery(limit=2), [CANCELLED, PARKED]),
    (TransactionQuery(limit=2, after=PARKED), [ABORTED, COMMITTED]),
    (TransactionQuery(state="open"), [PARKED, COMMITTING, PREPARING]),
    (TransactionQuery(state="preparing"), [PREPARING]),
    (TransactionQuery(state="committing"), [PARKED, COMMITTING]),
    (TransactionQuery(state="committed"), [COMMITTED]),
    (TransactionQuery(state="aborting"), []),
    (TransactionQuery(state="aborted"), [CANCELLED, ABORTED]),
    (TransactionQuery(saga="refund"), [ABORTED]),
    (TransactionQuery(code="OUT_OF_STOCK"), [ABORTED]),
    (TransactionQuery(parked=True), [PARKED]),
    (TransactionQuery(parked=False, state="open"), [COMMITTING, PREPARING]),
    (TransactionQuery(business_key="o-1"), [COMMITTED, PREPARING]),
    (TransactionQuery(since_ms=NOW + 1_000, until_ms=NOW + 2_000), [COMMITTED, COMMITTING]),
    (TransactionQuery(business_key="' OR 1=1 --"), []),
    (TransactionQuery(service="inventory"), [ABORTED]),
    (TransactionQuery(service="inventory", state="open"), []),
    (TransactionQuery(service="mail"), [PARKED]),
    (TransactionQuery(service="mail", code="OUT_OF_STOCK"), []),
    (TransactionQuery(service="mail", parked=False), []),
    (TransactionQuery(code="E_X"), [PARKED]),
    (TransactionQuery(code="E_X", after=PARKED), []),
    (TransactionQuery(code="E_X", saga="refund"), []),
    (TransactionQuery(key="o-1"), [COMMITTED, PREPARING]),
    (TransactionQuery(key="o-1", limit=1), [COMMITTED]),
    (TransactionQuery(key="key-4"), [PARKED]),
    (TransactionQuery(key="key-4", code="E_X", service="mail", parked=True), [PARKED]),
    (TransactionQuery(key="key-4", code="E_Y"), []),
    (TransactionQuery(key="nobody's"), []),
])
def test_find(reader: LogReader, query: TransactionQuery, expected: list[str]) -> None:
    assert [found.transaction for found in reader.find(query)] == expected


@pytest.mark.parametrize("query", [
    TransactionQuery(state="done"), TransactionQuery(limit=0), TransactionQuery(limit=10_001)])
def test_a_query_that_makes_no_sense_is_refused(reader: LogReader, query: TransactionQuery) -> None:
    with pytest.raises(DefiniteError, match="E_INVALID_INPUT"):
        reader.find(query)


@pytest.mark.parametrize("query", [
    TransactionQuery(state="open"), TransactionQuery(parked=True), TransactionQuery(code="X"),
    TransactionQuery(business_key="X"), TransactionQuery(key="X")])
def test_rare_transactions_are_found_by_an_index(path: Path, query: TransactionQuery) -> None:
    statements: list[str] = []
    reader = LogReader(path)
    reader._connection.set_trace_callback(statements.append)
    reader.find(query)
    statements = [one for one in statements if "FROM transactions WHERE" in one]
    assert statements
    for statement in statements:
        plan = " ".join(row[3] for row in reader._connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert "INDEX transactions_" in plan or "PRIMARY KEY (txn=?)" in plan
    reader.close()


def test_a_summary_says_why(reader: LogReader) -> None:
    (found,) = reader.find(TransactionQuery(code="OUT_OF_STOCK"))
    assert (found.state, found.message, found.service, found.step, found.attempts, found.decided_ms, found.ended_ms) == (
        "aborted", "none left", "inventory", "reserve", 2, NOW + 4, NOW + 5)
    assert (found.saga, found.version, found.key, found.parked) == ("refund", 2, "key-3", False)


def test_a_summary_says_which_steps_are_parked(reader: LogReader) -> None:
    (found,) = reader.find(TransactionQuery(parked=True))
    assert (found.parked, found.parked_steps) == (True, [HISTORY[11]])
    assert found.code == ""  # it did not abort


def test_a_transaction_that_aborted_and_is_parked_for_one_code_is_found_once(tmp_path: Path) -> None:
    create_log(tmp_path / "log.sqlite")
    store = LogStore(tmp_path / "log.sqlite", "run", 7 * 24 * 3_600_000)
    store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW)
    aborted = [Decided(txn, Decision.ABORT, NOW, "E_X", "no", "mail", "t", 1) for txn in (PREPARING, PARKED)]
    records = [begun(PREPARING), begun(ABORTED), begun(PARKED), *aborted, Parked(PREPARING, "notify", "E_X", "no", NOW, "mail")]
    store.append([AppendRequest(1, 0, "first", 1, [EpochRecord(1, record) for record in records])], NOW)
    store.close()
    reader = LogReader(tmp_path / "log.sqlite")
    assert [one.transaction for one in reader.find(TransactionQuery(code="E_X"))] == [PARKED, PREPARING]
    assert [one.transaction for one in reader.find(TransactionQuery(service="mail", limit=1))] == [PARKED]
    reader.close()


def test_records_come_in_the_order_in_which_they_were_stored(reader: LogReader) -> None:
    records = list(reader.records())
    assert [found.sequence for found in records] == list(range(1, len(records) + 1))
    assert [found.record for found in records][: len(HISTORY) - 1] == HISTORY[:-1]  # the last one is a group of three
    assert reader.epochs() == {7: 1}


def test_iterate_goes_in_id_order(reader: LogReader) -> None:
    assert [found.transaction for found in reader.iterate()] == IDS


def test_stored_and_by_key(reader: LogReader) -> None:
    stored = reader.stored(PARKED)
    assert stored is not None
    assert stored == reader.by_key("key-4")
    assert (stored.begun, stored.state, stored.decided, stored.parked) == (
        begun(PARKED), State.COMMITTING, HISTORY[10], [HISTORY[11]])
    assert reader.stored("f" * 32) is None
    assert reader.by_key("nobody's") is None


def test_load_finds_by_key_and_by_id_and_everything_once(reader: LogReader) -> None:
    found = reader.load(["key-4", "nobody's"], [PARKED, IDS[0], "f" * 32])
    assert sorted(stored.begun.transaction for stored in found) == sorted({PARKED, IDS[0]})
    assert reader.load([], []) == []


def test_history_is_in_the_order_of_durability(reader: LogReader) -> None:
    history = reader.history(ABORTED)
    assert [found.record for found in history] == HISTORY[6:9]
    assert [(found.sequence, found.at_ms) for found in history] == [(7, NOW), (8, NOW), (9, NOW)]
    assert [type(found.record) for found in reader.history(CANCELLED)] == [Begun, Decided, Ended]
    assert [type(found.record) for found in reader.history(PARKED)] == [Begun, Decided, Parked]
    assert reader.history("f" * 32) == []


def test_counts(reader: LogReader) -> None:
    assert reader.counts() == {"preparing": 1, "committing": 2, "committed": 1, "aborting": 0, "aborted": 2}
    assert reader.open_count() == 3


def test_another_kind_of_database_is_refused(tmp_path: Path) -> None:
    create_database(tmp_path / "shop.sqlite", "", "service")
    with pytest.raises(DefiniteError, match="not a transaction log but 'service'"):
        LogReader(tmp_path / "shop.sqlite")


def test_reading_does_not_disturb_the_writer(path: Path) -> None:
    reader = LogReader(path)
    store = LogStore(path, "run", 1_000)
    store.append([AppendRequest(1, 0, "first", 2, [EpochRecord(1, Ended(COMMITTING, NOW))])], NOW)
    assert reader.open_count() == 3
    store.close()
    reader.close()


def test_a_sound_log_has_no_problems(reader: LogReader) -> None:
    assert reader.verify() == []


def forged(sequence: int, record: Record) -> str:
    _, crc, data = encode_record(sequence, NOW, record)
    return f"INSERT OR REPLACE INTO records VALUES ({sequence}, {crc}, x'{data.hex()}')"


def grown(record: Record) -> list[str]:
    return [forged(16, record), "UPDATE meta SET value = 16 WHERE name = 'last_record'"]


@pytest.mark.parametrize(("damage", "problem"), [
    (["DELETE FROM records WHERE sequence = 5"], "records 5 to 5 are missing"),
    (["DELETE FROM records WHERE sequence < 3"], "records 1 to 2 are missing"),
    (["DELETE FROM records WHERE sequence > 13"], "records 14 to 15 are missing at the end"),
    (["DELETE FROM records"], "records 1 to 15 are missing at the end"),
    (["UPDATE records SET data = (SELECT data FROM records WHERE sequence = 1) WHERE sequence = 4"], "record 4 is damaged"),
    (["UPDATE records SET data = 5 WHERE sequence = 4"], "record 4 is damaged"),
    (["UPDATE records SET data = 'text' WHERE sequence = 4"], "record 4 is damaged"),
    ([f"UPDATE records SET data = x'91', crc = {crc_of(4, bytes([0x91]))} WHERE sequence = 4"], "record 4 cannot be read"),
    (grown(Decided(COMMITTED, Decision.ABORT, NOW)), "a second decision, the index names record 5"),
    (grown(Ended(COMMITTED, NOW)), "a second end, the index names record 6"),
    (grown(Begun(COMMITTED, "key-2", b"", "order", 1, b"", NOW, NOW, 1)), "its transaction was begun by record 4"),
    (grown(Decided("f" * 32, Decision.COMMIT, NOW)), "which was never begun"),
    ([forged(5, Decided(COMMITTED, Decision.ABORT, NOW))], "the index says COMMITTED , not ABORTED"),
    (["UPDATE transactions SET state = 2 WHERE state = 0"], "the index says COMMITTED, but nothing was decided"),
    (["UPDATE transactions SET state = 4 WHERE state = 2"], "the index says ABORTED , not COMMITTED"),
    (["UPDATE transactions SET code = 'OTHER' WHERE code = 'OUT_OF_STOCK'"], "not ABORTED OUT_OF_STOCK"),
    (["UPDATE transactions SET key = 'other' WHERE state = 2"], "its key is bound to something else"),
    (["DELETE FROM keys WHERE begun_sequence = 4"], "its key is bound to something else"),
    ([f"DELETE FROM transactions WHERE txn = '{COMMITTED}'"], "which was never begun"),
    ([f"UPDATE transactions SET decided_sequence = 99 WHERE txn = '{PREPARING}'"], "the index has 6 Decided records"),
    (["UPDATE transactions SET ended_sequence = 0 WHERE state = 2"], "a second end, the index names record 0"),
    (["DELETE FROM parkings"], "the index has 0 Parked records, the log holds 1"),
])
def test_verify_finds(path: Path, damage: list[str], problem: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in damage:
        connection.execute(statement)
    connection.close()
    reader = LogReader(path)
    assert any(problem in found for found in reader.verify()), reader.verify()
    reader.close()


def test_verify_finds_a_flipped_byte_anywhere_in_a_record(path: Path, occurred) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    (data,) = connection.execute("SELECT data FROM records WHERE sequence = 2").fetchone()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        connection.execute("UPDATE records SET data = ? WHERE sequence = 2", (bytes(flipped),))
        reader = LogReader(path)
        assert "record 2 is damaged: its checksum does not fit" in reader.verify()
        reader.close()
    connection.close()
    occurred("56")


def test_verify_stops_after_many_problems(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO records SELECT value, 0, x'00' FROM (WITH RECURSIVE n(value) AS ("
                       "SELECT 16 UNION ALL SELECT value + 1 FROM n WHERE value < 3000) SELECT value FROM n)")
    connection.close()
    reader = LogReader(path)
    assert len(reader.verify()) == 100
    reader.close()
