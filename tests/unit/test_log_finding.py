"""Lists find what a look at every transaction finds, whatever is asked, and read little to find it."""

from __future__ import annotations

import itertools
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.creation import create_database
from orchestrator.log.facets import STRETCH_DIGITS, Facets, stretches
from orchestrator.log.finding import lookup
from orchestrator.log.reader import LogReader, TransactionQuery, TransactionSummary
from orchestrator.log.schema import LOG_KIND, LOG_SCHEMA
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id, oldest_id
from orchestrator.protocol.records import (
    AppendRequest,
    Begun,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Parked,
    Record,
    TakeRequest,
)

NOW = 1_700_000_000_000
WEEK_MS = 7 * 24 * 3_600_000
COUNT = 120
SAGAS, CODES, SERVICES = ("order", "refund", "audit"), ("NONE_LEFT", "POOR", "RARE"), ("stock", "bank")


def history(seed: int = 1) -> list[Record]:
    """Transactions 90 ms apart: some stretches have two or three, and every outcome is there."""
    draws = random.Random(seed)
    records: list[Record] = []
    for number in range(COUNT):
        at_ms = NOW + number * 90
        txn, saga = make_id(at_ms, 7, 1, number), draws.choices(SAGAS, (80, 19, 1))[0]
        records.append(Begun(
            txn, f"key-{number}", b"f" * 16, saga, 1, b"", at_ms, at_ms + 1, 1, f"order-{number // 3}"))
        if draws.random() < 0.1:
            continue
        if draws.random() < 0.5:
            records.append(Decided(txn, Decision.COMMIT, at_ms))
            if draws.random() < 0.2:
                records.append(Parked(txn, "tell", draws.choice(CODES), "no", at_ms, draws.choice(SERVICES)))
                continue
        else:
            code, service = draws.choices(CODES, (70, 29, 1))[0], draws.choice(SERVICES)
            records.append(Decided(txn, Decision.ABORT, at_ms, code, "no", service, "step", 1))
        if draws.random() < 0.9:
            records.append(Ended(txn, at_ms))
    return records


def write(path: Path, records: list[Record], retention_ms: int = WEEK_MS) -> None:
    with closing(LogStore(path, "run", retention_ms)) as store:
        store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW)
        for sequence, start in enumerate(range(0, len(records), 7), 1):
            batch = [EpochRecord(1, record) for record in records[start : start + 7]]
            store.append([AppendRequest(1, 0, "first", sequence, batch)], NOW)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("log") / "log.sqlite"
    create_log(found)
    write(found, history())
    return found


def fits(one: TransactionSummary, parked: dict[str, list[Parked]], query: TransactionQuery) -> bool:
    """What a list must agree with, for each transaction."""
    marks = [("", "")] if not (query.code or query.service) else [(one.code, one.service)] if one.code else []
    if query.parked is not False:
        marks += [(mark.code, mark.service) for mark in parked.get(one.transaction, [])]
    is_open = not one.ended_ms
    return (
        any(query.code in (None, code) and query.service in (None, service) for code, service in marks)
        and query.state in (None, one.state, "open" if is_open else None) and query.saga in (None, one.saga)
        and query.parked in (None, one.parked) and query.key in (None, one.key, one.business_key)
        and (query.since_ms is None or one.began_ms >= query.since_ms)
        and (query.until_ms is None or one.began_ms <= query.until_ms)
        and (query.after is None or one.transaction < query.after))


def test_lists_agree_with_a_look_at_every_transaction(path: Path) -> None:
    middle = make_id(NOW + 60 * 90, 7, 1, 60)
    times = [{}, {"since_ms": NOW + 3_000}, {"until_ms": NOW + 6_000}, {"since_ms": NOW + 2_000, "until_ms": NOW + 2_500},
             {"after": middle}, {"after": middle, "since_ms": NOW + 4_000}]
    states = [None, "open", "preparing", "committing", "committed", "aborting", "aborted"]
    nonempty = 0
    with closing(LogReader(path)) as reader:
        every = list(reader.iterate())[::-1]
        parked = {one.transaction: one.parked_steps for one in reader.find(TransactionQuery(parked=True, limit=10_000))}
        asked = list(itertools.product(
            (None, "audit", "refund"), (None, "RARE", "POOR"), (None, "stock"), states, (None, True, False), (3, 1_000), times))
        for saga, code, service, state, mark, limit, when in random.Random(1).sample(asked, 400):
            query = TransactionQuery(
                state=state, saga=saga, code=code, parked=mark, service=service, limit=limit, **when)
            expected = [one.transaction for one in every if fits(one, parked, query)][:limit]
            assert [one.transaction for one in reader.find(query)] == expected, query
            nonempty += bool(expected)
    assert nonempty > 50


@pytest.mark.parametrize("key", ["order-3", "key-17", "key-999"])
def test_by_key(path: Path, key: str) -> None:
    with closing(LogReader(path)) as reader:
        expected = [one.transaction for one in list(reader.iterate())[::-1] if fits(one, {}, TransactionQuery(key=key))]
        assert [one.transaction for one in reader.find(TransactionQuery(key=key))] == expected


@pytest.mark.parametrize("query", [
    TransactionQuery(saga="audit"), TransactionQuery(state="committed", limit=5), TransactionQuery(state="aborted", limit=5),
    TransactionQuery(code="RARE"), TransactionQuery(service="nobody"), TransactionQuery(saga="audit", code="RARE"),
    TransactionQuery(saga="nothing", service="stock", state="aborted")])
def test_no_list_reads_the_whole_table(path: Path, query: TransactionQuery) -> None:
    statements: list[str] = []
    with closing(LogReader(path)) as reader:
        reader._connection.set_trace_callback(statements.append)
        reader.find(query)
        reader._connection.set_trace_callback(None)
        plans = [row[3] for one in statements for row in reader._connection.execute(f"EXPLAIN QUERY PLAN {one}")]
    assert plans
    assert [plan for plan in plans if plan.startswith("SCAN") and "transactions_parked" not in plan] == []


def test_a_log_of_the_first_schema_gets_its_facets(tmp_path: Path, path: Path) -> None:
    old = tmp_path / "log.sqlite"
    create_database(old, LOG_SCHEMA, LOG_KIND)
    with closing(LogReader(path)) as reader:
        source = {table: reader._connection.execute(f"SELECT * FROM {table}").fetchall() for table in (
            "records", "transactions", "keys", "parkings", "partitions", "shards")}
        facets = reader._connection.execute("SELECT * FROM facets").fetchall()
        last = reader.last_record
    _fill(old, source, last)
    with closing(LogStore(old, "run", WEEK_MS)):
        pass
    with closing(LogReader(old)) as reader:
        assert reader._connection.execute("SELECT * FROM facets").fetchall() == facets


def _fill(path: Path, source: dict[str, list[tuple[object, ...]]], last: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for table, rows in source.items():
            connection.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'last_record'", (last,))


def test_facets_go_with_the_last_transaction_of_their_stretch(tmp_path: Path) -> None:
    log = tmp_path / "log.sqlite"
    create_log(log)
    write(log, history())
    with closing(LogReader(log)) as reader:
        before = {row[0] for row in reader._connection.execute("SELECT stretch FROM facets")}
    with closing(LogStore(log, "run", 1_000, clock=itertools.count(0, WEEK_MS).__next__)) as store:
        later_ms = NOW + WEEK_MS
        for _ in range(3):
            store.purge(later_ms, 1_000)
            later_ms += WEEK_MS
    with closing(LogReader(log)) as reader:
        left = {one.transaction[:STRETCH_DIGITS] for one in reader.iterate()}
        assert 0 < len(left) < len(before)
        assert {row[0] for row in reader._connection.execute("SELECT stretch FROM facets")} == left


def test_what_a_failed_commit_took_back_is_noted_again(tmp_path: Path) -> None:
    log = tmp_path / "log.sqlite"
    create_log(log)
    txn = make_id(NOW, 7, 1, 1)
    begun = Begun(txn, "k", b"", "order", 1, b"", NOW, NOW + 1, 1)
    with closing(LogStore(log, "run", WEEK_MS)) as store:
        store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW)
        request = AppendRequest(1, 0, "first", 1, [EpochRecord(1, begun)])
        commit, store._database.commit = store._database.commit, _fails
        with pytest.raises(sqlite3.OperationalError):
            store.append([request], NOW)
        store._database.commit = commit
        store.append([request], NOW)
    with closing(LogReader(log)) as reader:
        assert [one.transaction for one in reader.find(TransactionQuery(saga="order"))] == [txn]


def _fails() -> None:
    raise sqlite3.OperationalError("the disk fails")


def test_stretches_that_have_every_facet() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE facets (facet TEXT NOT NULL, stretch TEXT NOT NULL, PRIMARY KEY (facet, stretch))")
        notes = Facets()
        for facet, number in (("a", 0), ("a", 1), ("a", 5), ("b", 0), ("b", 5), ("b", 6), ("a", 5)):
            notes.note(facet, oldest_id(number * 256))
        notes.flush(connection)
        notes.flush(connection)

        def found(*facets: str, newest: str = "f", oldest: str = "0") -> list[int]:
            return [int(one, 16) for one in stretches(connection, facets, newest, oldest)]

        assert found("a") == [5, 1, 0]
        assert found("a", "b") == found("b", "a") == [5, 0]
        assert found("a", newest=oldest_id(4 * 256)) == [1, 0]
        assert found("a", "b", oldest=oldest_id(256)) == [5]
        assert found("a", "c") == []


APART, RARE_AT, VM_STEPS_MAX = 2_000, 100, 2_000


@pytest.fixture(scope="module")
def far_apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every transaction in a stretch of its own, one of them of a saga that is rare."""
    found = tmp_path_factory.mktemp("far") / "log.sqlite"
    create_log(found)
    records: list[Record] = []
    for number in range(APART):
        txn, saga = id_apart(number), "audit" if number == RARE_AT else "order"
        records.append(Begun(txn, f"key-{number}", b"f" * 16, saga, 1, b"", NOW, NOW + 1, 1, ""))
    with closing(LogStore(found, "run", WEEK_MS)) as store:
        store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW)
        store.append([AppendRequest(1, 0, "first", 1, [EpochRecord(1, record) for record in records])], NOW)
    return found


def id_apart(number: int) -> str:
    return make_id(NOW + number * 300, 7, 1, number)


@pytest.mark.parametrize(("query", "expected"), [
    (TransactionQuery(saga="audit", after=id_apart(1_900)), [RARE_AT]),
    (TransactionQuery(saga="audit", until_ms=NOW + 1_900 * 300), [RARE_AT]),
    (TransactionQuery(saga="audit", since_ms=NOW), [RARE_AT]),
    (TransactionQuery(saga="audit", since_ms=NOW, until_ms=NOW + 1_950 * 300, after=id_apart(1_900)), [RARE_AT]),
    (TransactionQuery(until_ms=NOW + 1_950 * 300, after=id_apart(50), limit=1), [49]),
    (TransactionQuery(until_ms=NOW + 50 * 300, after=id_apart(1_950), limit=1), [50]),
])
def test_of_two_bounds_the_narrower_one_is_searched_from(
        far_apart: Path, query: TransactionQuery, expected: list[int]) -> None:
    steps = [0]

    def count() -> None:
        steps[0] += 1

    with closing(LogReader(far_apart)) as log:
        log._connection.set_progress_handler(count, 1)
        assert [one.transaction for one in log.find(query)] == [id_apart(number) for number in expected]
    assert steps[0] < VM_STEPS_MAX


@pytest.mark.parametrize(("query", "fits_it"), [
    (TransactionQuery(since_ms=NOW + 60_000), True), (TransactionQuery(since_ms=NOW + 60_001), False),
    (TransactionQuery(until_ms=NOW + 60_000), True), (TransactionQuery(until_ms=NOW + 59_999), False),
    (TransactionQuery(after=id_apart(200)), False), (TransactionQuery(after=id_apart(201)), True)])
def test_one_transaction_is_held_against_the_bounds_too(far_apart: Path, query: TransactionQuery, fits_it: bool) -> None:
    with closing(LogReader(far_apart)) as log:
        assert (lookup(log._connection, id_apart(200), query) is not None) is fits_it
