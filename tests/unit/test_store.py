"""The service's database: what it keeps, what it refuses, and what it lets go."""

import sqlite3

import msgspec
import pytest

from actors.cache import NewIds, RecentMap
from actors.ledger import RowState, finished, prepared, tombstone
from actors.reader import StoreReader
from actors.store import PURGE_ROWS_MAX, Retention, Store, create_store
from orchestrator.app import ServiceAudit, StepState
from orchestrator.errors import DefiniteError
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind
from orchestrator.saga import encode_plain


def txn(number):
    return make_id(number, 1, 1, number)


def command(number, kind=Kind.PREPARE):
    return Command(txn(number), "pay", kind, 1, 1, "hold", encode_plain({"n": number}))


def held(number):
    return prepared(command(number), encode_plain({"ok": True}), 5)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "vault.sqlite"
    create_store(path, "vault")
    return path


@pytest.fixture
def store(path):
    opened = Store(path, "vault", "run")
    yield opened
    opened.close()


def put(store, rows, values=None, epochs=None, retention=None):
    store.begin()
    rows = {(row.transaction, row.step): row for row in rows}
    store.write(rows, store.load(rows), values or {}, epochs or {})
    if retention is not None:
        store.retain(retention)
    store.commit(rows, values or {})


def tamper(path, sql):
    with sqlite3.connect(path) as connection:
        connection.execute(sql)
    connection.close()


def break_page(path, table):
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 64)


@pytest.mark.parametrize("damage", [
    "INSERT INTO meta VALUES ('retention', 7)", "INSERT INTO meta VALUES ('retention', x'9201a0')",
    "UPDATE meta SET value = 'x' WHERE name = 'sequence'", "UPDATE meta SET value = x'00' WHERE name = 'epoch'",
])
def test_a_damaged_named_value_is_refused_and_the_lock_is_free_again(path, damage):
    tamper(path, damage)
    for _ in range(2):  # the second opening would meet a lock held by this very process
        with pytest.raises(DefiniteError, match=r"E_STORE_REFUSED.*it is damaged: its meta value"):
            Store(path, "vault", "run")


def test_reopened_it_holds_the_same(path):
    store = Store(path, "vault", "run")
    put(store, [held(1), held(2)], {"a": b"\x01", "b": b"\x02"}, {1: 7})
    put(store, [finished(held(1), command(1, Kind.COMMIT), 9)], {"b": None})
    store.close()
    again = Store(path, "vault", "run")
    assert again.epochs() == {1: 7}
    assert again.prepared_keys() == [(txn(2), "pay")]
    assert again.still_prepared([(txn(1), "pay"), (txn(2), "pay"), (txn(3), "pay")]) == [(txn(2), "pay")]
    rows = again.load([(txn(1), "pay"), (txn(2), "pay"), (txn(3), "pay")])
    assert rows[txn(1), "pay"].state is RowState.COMMITTED
    assert rows[txn(2), "pay"] == held(2)
    assert len(rows) == 2
    assert (again.value("a"), again.value("b"), list(again.keys())) == (b"\x01", None, ["a"])
    assert again.database.restarts == 1
    again.close()


def test_a_rolled_back_batch_leaves_nothing(store):
    store.begin()
    row = held(1)
    store.write({(row.transaction, row.step): row}, {}, {"a": b"\x01"}, {1: 2})
    store.database.rollback()
    assert store.load([(row.transaction, row.step)]) == {}
    assert store.value("a") is None
    assert store.epochs() == {}


def test_another_service_or_database_is_refused(path):
    with pytest.raises(DefiniteError, match="E_STORE_REFUSED"):
        Store(path, "other", "run")
    with pytest.raises(DefiniteError, match="E_STORE_REFUSED"):
        Store(path, "vault", "run", expected_uuid="not this one")
    with pytest.raises(DefiniteError, match="missing"):
        Store(path.with_name("gone.sqlite"), "vault", "run")


def test_a_damaged_row_is_refused_and_audited(path):
    store = Store(path, "vault", "run")
    put(store, [held(1), held(2)], {"a": b"\x01", "b": b"\x02"})
    store.close()
    tamper(path, f"UPDATE ledger SET state = 2 WHERE txn = '{txn(1)}'")
    tamper(path, "UPDATE state SET value = x'05' WHERE key = 'a'")
    store = Store(path, "vault", "run")
    with pytest.raises(DefiniteError, match=f"{txn(1)} pay is damaged"):
        store.load([(txn(1), "pay")])
    with pytest.raises(DefiniteError, match="'a' is damaged"):
        store.value("a")
    assert store.value("b") == b"\x02"
    reader = StoreReader(path)
    violations = reader.audit().violations
    assert len(violations) == 2
    assert txn(1) in violations[0]
    assert "'a'" in violations[1]
    reader.close()
    store.close()


def test_a_reader_shows_what_is_held_known_and_let_go(path):
    store = Store(path, "vault", "run")
    put(store, [held(1), held(2)], {"a": b"\x01"}, {1: 7})
    put(store, [finished(held(1), command(1, Kind.COMMIT), 9)])
    reader = StoreReader(path)
    assert [row.transaction for row in reader.held()] == [txn(2)]
    assert (dict(reader.state().items()), reader.epochs(), reader.purged()) == ({"a": 1}, {1: 7}, False)
    reader.close()
    put(store, [], retention=Retention(1 << 40))
    store.close()
    reader = StoreReader(path)
    assert ([row.transaction for row in reader.rows()], reader.purged()) == ([txn(2)], True)
    reader.close()


def summing(state, rows, *, purged):
    """Checks as a service might write them: they take what they read for whole."""
    return ServiceAudit({"sum": sum(value for _, value in state.items()), "n": sum(r.request["n"] for r in rows)}, [])


def audited(path):
    reader = StoreReader(path, summing)
    try:
        return reader.audit()
    finally:
        reader.close()


@pytest.mark.parametrize(("sql", "told"), [
    ("UPDATE state SET value = x'C1' WHERE key = 'a'", ["the state's value of 'a'", "its checks failed with DecodeError"]),
    ("UPDATE state SET value = 7 WHERE key = 'a'", ["the state's value of 'a'", "its checks failed with TypeError"]),
    ("UPDATE state SET key = x'61FF' WHERE key = 'a'", ["the state's value of b'a\\xff'"]),
    ("UPDATE state SET key = CAST(x'61FF' AS TEXT) WHERE key = 'a'", ["the state's value of 'a\\\\xff'"]),
    ("UPDATE ledger SET state = 77 WHERE step = 'pay'", ["the ledger row of"] * 3),
    ("UPDATE ledger SET message = CAST(x'C3' AS TEXT) WHERE step = 'pay'", ["the ledger row of"] * 3),
    ("UPDATE ledger SET request = 'text', crc = 'text'", ["the ledger row of"] * 3),
])
def test_damage_is_reported_whatever_it_does_to_the_services_checks(path, sql, told):
    store = Store(path, "vault", "run")
    put(store, [held(n) for n in (1, 2, 3)], {"a": b"\x01", "b": b"\x02"})
    store.close()
    assert audited(path) == ServiceAudit({"sum": 3, "n": 6}, [])
    tamper(path, sql)
    violations = audited(path).violations
    assert [text[:len(start)] for text, start in zip(violations, told, strict=True)] == told


@pytest.mark.parametrize(("broken", "told"), [
    ("ledger", ["the ledger cannot be read to its end", "the state's value of 'b'", "its checks failed with DecodeError"]),
    ("state", ["the ledger row of", "the state cannot be read to its end", "its checks failed with DatabaseError"]),
])
def test_pages_that_cannot_be_read_are_reported_beside_the_rest(path, broken, told):
    store = Store(path, "vault", "run")
    put(store, [held(1)], {"a": b"\x01", "b": b"\x02"})
    store.close()
    tamper(path, "UPDATE state SET value = x'C1' WHERE key = 'b'")
    tamper(path, "UPDATE ledger SET attempts = 9")
    break_page(path, broken)
    violations = audited(path).violations
    assert [text[:len(start)] for text, start in zip(violations, told, strict=True)] == told


def test_the_services_audit_sees_one_snapshot(path, store):
    put(store, [held(1)], {"a": b"\x01", "b": b"\x02"})
    seen = {}

    def audit(state, rows, *, purged):
        put(store, [held(2)], {"a": b"\x09"})
        seen.update(state=dict(state.items()), count=len(state), keys=list(state), a=state["a"], c=state.get("c"))
        return ServiceAudit({"rows": sum(1 for _ in rows)}, ["told"])

    reader = StoreReader(path, audit)
    assert reader.audit() == ServiceAudit({"rows": 1}, ["told"])
    assert seen == {"state": {"a": 1, "b": 2}, "count": 2, "keys": ["a", "b"], "a": 1, "c": None}
    row = next(reader.rows(txn(1)))
    assert (row.state, row.request, row.result) == ("PREPARED", {"n": 1}, {"ok": True})
    assert list(reader.rows("no such")) == []
    reader.close()


def test_states_are_the_rows_without_what_they_carry(path, store):
    put(store, [held(3), tombstone(command(2), 1), held(1)])
    put(store, [finished(held(1), command(1, Kind.COMMIT), 9)])
    reader = StoreReader(path)
    states = list(reader.states())
    assert states == [StepState(row.transaction, row.step, row.operation, row.state) for row in reader.rows()]
    assert [one.state for one in states] == ["COMMITTED", "ROLLED_BACK", "PREPARED"]
    reader.close()


@pytest.mark.parametrize(("sql", "told"), [
    ("UPDATE ledger SET state = 77", ["77", "77"]),  # the judgement knows no such state, so that it finds it
    (f"UPDATE ledger SET txn = x'00' WHERE txn = '{txn(1)}'", ["PREPARED"]),  # left out: the audit names it
    (f"UPDATE ledger SET request = x'C1' WHERE txn = '{txn(1)}'", ["PREPARED", "PREPARED"]),
])
def test_states_of_damaged_rows(path, sql, told):
    store = Store(path, "vault", "run")
    put(store, [held(1), held(2)])
    store.close()
    tamper(path, sql)
    reader = StoreReader(path)
    assert [one.state for one in reader.states()] == told
    reader.close()


def test_states_that_cannot_be_read_are_a_store_refused(path):
    store = Store(path, "vault", "run")
    put(store, [held(1)])
    store.close()
    break_page(path, "ledger")
    reader = StoreReader(path)
    with pytest.raises(DefiniteError, match=r"E_STORE_REFUSED.*cannot be read"):
        list(reader.states())
    reader.close()


def test_purge_keeps_what_is_held_exempt_or_young(store):
    put(store, [tombstone(command(n), 1) for n in range(1, 9)] + [held(20)])
    put(store, [held(9)], retention=Retention(9, frozenset({txn(3)})))
    keys = [(txn(n), "pay") for n in range(1, 21)]
    assert sorted(txn for txn, _ in store.load(keys)) == [txn(3), txn(9), txn(20)]
    put(store, [held(30)], retention=Retention(25, frozenset()))
    assert sorted(txn for txn, _ in store.load(keys)) == [txn(9), txn(20)]


def test_what_is_exempt_at_one_watermark_adds_up(path):
    """Each shard tells what the log told it last: the one has not heard of the other's new transaction."""
    store = Store(path, "vault", "run")
    for number, told in enumerate(({txn(3)}, {txn(4)}, set()), 20):
        put(store, [held(number)], retention=Retention(9, frozenset(told)))
    put(store, [tombstone(command(n), 1) for n in range(1, 7)], retention=Retention(8, frozenset({txn(5)})))
    store.close()
    again = Store(path, "vault", "run")
    assert again.retention == Retention(9, frozenset({txn(3), txn(4)}))
    put(again, [held(30)], retention=Retention())
    assert sorted(txn for txn, _ in again.load([(txn(n), "pay") for n in range(1, 9)])) == [txn(3), txn(4)]
    put(again, [held(31)], retention=Retention(10))
    assert again.load([(txn(n), "pay") for n in range(1, 9)]) == {}
    again.close()


def test_that_rows_were_purged_is_kept(path):
    store = Store(path, "vault", "run")

    def told():
        seen = []

        def audit(_state, _rows, *, purged):
            seen.append(purged)
            return ServiceAudit({}, [])

        reader = StoreReader(path, audit)
        reader.audit()
        reader.close()
        return seen

    put(store, [tombstone(command(3), 1)])
    put(store, [tombstone(command(4), 1)], retention=Retention(2))  # nothing is as old as that
    assert told() == [False]
    put(store, [tombstone(command(9), 1)], retention=Retention(4))
    assert told() == [True]
    store.close()
    Store(path, "vault", "another run").close()
    assert told() == [True]


def test_the_watermark_only_rises_and_is_kept(path):
    store = Store(path, "vault", "run")
    put(store, [held(1)], retention=Retention(50, frozenset({"x"})))
    put(store, [held(2)], retention=Retention(40))
    assert store.retention == Retention(50, frozenset({"x"}))
    store.close()
    again = Store(path, "vault", "run")
    assert again.retention == Retention(50, frozenset({"x"}))
    again.close()


def test_purge_is_bounded_per_batch_and_comes_to_an_end(store):
    count = 2 * PURGE_ROWS_MAX + 10
    put(store, [tombstone(command(n), 1) for n in range(1, count + 1)])
    retention = Retention(10**6)
    left = []
    for _ in range(5):
        store.begin()
        store.retain(retention)
        store.commit({}, {})
        (rows,) = store.database.connection.execute("SELECT count(*) FROM ledger").fetchone()
        left.append(rows)
    assert left[0] == count - PURGE_ROWS_MAX
    assert left[-1] == 0


def purging(store, retention, batches=1):
    """Batches with nothing else to do."""
    for _ in range(batches):
        store.begin()
        store.retain(retention)
        store.commit({}, {})
    return {txn for (txn,) in store.database.connection.execute("SELECT txn FROM ledger")}


def test_what_was_held_when_the_purge_passed_goes_once_it_is_finished(store):
    retention = Retention(1_000)
    put(store, [held(n) for n in range(1, 5)] + [tombstone(command(5), 1)])
    assert purging(store, retention, 3) == {txn(n) for n in range(1, 5)}
    put(store, [finished(held(3), command(3, Kind.COMMIT), 9)])
    assert purging(store, retention) == {txn(1), txn(2), txn(4)}
    put(store, [finished(held(1), command(1, Kind.COMMIT), 9), finished(held(4), command(4, Kind.ROLLBACK), 9)])
    assert purging(store, retention) == {txn(2)}


def test_what_is_finished_as_the_purge_passes_it_goes_with_the_next_batch(store):
    put(store, [held(1), held(2)])
    put(store, [finished(held(1), command(1, Kind.COMMIT), 9)], retention=Retention(1_000))
    assert purging(store, Retention(1_000)) == {txn(2)}


def test_the_rows_passed_over_are_purged_however_many_are_held(store):
    count = 3 * PURGE_ROWS_MAX
    put(store, [held(n) for n in range(1, count + 1)])
    assert len(purging(store, Retention(10**6), 5)) == count
    for number in (count, 1):  # the younger one first: the older one takes the purge back once more
        put(store, [finished(held(number), command(number, Kind.COMMIT), 9)])
    assert purging(store, Retention(10**6), 4) == {txn(n) for n in range(2, count)}


def test_a_transaction_that_holds_more_rows_than_one_batch_purges_stops_no_other(store):
    put(store, [msgspec.structs.replace(held(1), step=f"step-{n:03}") for n in range(PURGE_ROWS_MAX + 1)])
    put(store, [tombstone(command(2), 1)])
    assert purging(store, Retention(10**6), 2) == {txn(1)}


def test_recent_map_is_bounded_and_keeps_what_is_used():
    recent = RecentMap(10)
    for number in range(1_000):
        recent.put(number, number)
        assert recent.get(0, None) == 0
        assert len(recent) <= 10
    assert recent.get(999, None) == 999
    recent.forget(999)
    assert recent.get(999, None) is None


def test_new_ids_never_call_a_stored_one_absent():
    stored = {txn(n) for n in range(5)}
    new = NewIds(max(stored), 20)
    for number in range(5, 400):
        late = number - 7 if number % 3 else number  # ids do not come quite in order
        assert not new.absent(txn(late)) or txn(late) not in stored
        new.stored(txn(late))
        stored.add(txn(late))
        assert not any(new.absent(one) for one in stored)
        assert new.absent(txn(number + 1_000))
        assert len(new) <= 21


def test_rows_of_before_the_opening_are_found(path):
    store = Store(path, "vault", "run")
    put(store, [held(5), tombstone(command(6), 1)])
    store.close()
    again = Store(path, "vault", "run")
    keys = [(txn(n), "pay") for n in (4, 5, 6, 7)]
    assert sorted(again.load(keys)) == [(txn(5), "pay"), (txn(6), "pay")]
    put(again, [held(4), held(7)])
    assert len(again.load(keys)) == 4
    again.close()
