"""Operators' acts in the log: what is stored, refused, kept, read back, and found out when it was tampered with."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.log.acts import KEPT_MS
from orchestrator.log.reader import LogReader
from orchestrator.log.store import create_log
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import Act, Decision, Ended, Parked, Resolved
from unit.log_bench import ABORT, COMMIT, DAY, NOW, Log, decided, statuses


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    create_log(tmp_path / "log.sqlite")
    bench = Log(tmp_path / "log.sqlite", retention_ms=DAY)
    bench.take()
    yield bench
    bench.store.close()


def park(txn: str, step: str = "pay", code: str = "E_X") -> Parked:
    return Parked(txn, step, code, "", NOW)


def resolve(txn: str, step: str = "pay", decision: Decision = ABORT, *, awaited: bool = True) -> Resolved:
    return Resolved(txn, step, decision, "ann", "by hand", NOW, awaited)


def aborting(log: Log, key: str = "k") -> str:
    txn = log.begin(key)
    log.append(decided(txn, ABORT, "E_X"), park(txn))
    return txn


def read(log: Log) -> LogReader:
    return LogReader(log.path)


def test_what_the_decision_requires_of_a_parked_step_is_stored(log: Log) -> None:
    txn = aborting(log)
    assert statuses(log.append(resolve(txn))) == ["STORED"]
    with closing(read(log)) as reader:
        stored = reader.stored(txn)
        assert stored is not None
        assert (stored.parked, stored.resolved) == ([], [resolve(txn)])
        assert [one.act for one in reader.acts(txn)] == [Act(txn, ActKind.RESOLVE, "ann", "by hand", NOW, "pay")]
        assert [type(one.record) for one in reader.history(txn)][-1] is Resolved
        assert reader.verify() == []


@pytest.mark.parametrize("step", ["ship", ""])
def test_nothing_else_is(log: Log, step: str) -> None:
    undecided = log.begin("undecided")
    log.append(park(undecided))
    txn = aborting(log)
    records = [resolve(undecided), resolve(undecided, decision=COMMIT), resolve(txn, decision=COMMIT), resolve(txn, step)]
    assert statuses(log.append(*records)) == ["REFUSED"] * 4
    assert statuses(log.append(resolve(log.id()))) == ["UNKNOWN"]
    with closing(read(log)) as reader:
        assert (reader.resolved(), reader.acts()) == ({}, [])


def test_one_that_has_ended_is_refused(log: Log) -> None:
    txn = aborting(log)
    log.append(Ended(txn, NOW))
    assert statuses(log.append(resolve(txn), Act(txn, ActKind.RETRY, "ann", "", NOW))) == ["REFUSED", "REFUSED"]


def test_the_first_resolution_stands_and_is_never_parked_again(log: Log) -> None:
    txn = aborting(log)
    log.append(resolve(txn))
    before = log.store.last_record
    assert statuses(log.append(resolve(txn, decision=COMMIT), park(txn, code="E_Y"))) == ["STORED", "STORED"]
    assert log.store.last_record == before


@pytest.mark.parametrize("ended", [False, True])
def test_it_is_taken_up_until_its_ledger_agrees(log: Log, *, ended: bool) -> None:
    txn = aborting(log)
    log.append(resolve(txn), *([Ended(txn, NOW)] if ended else []))
    log.reopen()
    (stored,) = log.take("second").open
    assert stored.resolved == [resolve(txn)]
    assert log.store.open_count == (not ended)
    assert statuses(log.append(park(txn, code=""), incarnation="second")) == ["STORED"]
    log.reopen()
    assert [one.resolved for one in log.take("third").open] == ([] if ended else [[]])
    with closing(read(log)) as reader:
        assert reader.resolved() == {}
        assert reader.verify() == []


def test_it_is_not_purged_before_that_and_holds_no_watermark_back(log: Log) -> None:
    txn = aborting(log)
    log.append(resolve(txn), Ended(txn, NOW))
    later_ms = NOW + 20 * DAY
    assert log.store.purge(later_ms, 100) == 0
    assert log.store.watermark_ms > NOW
    (reply,) = log.store.append([log.request()], later_ms)
    assert reply.exempt == [txn]
    log.append(park(txn, code=""), now_ms=later_ms)
    assert log.store.purge(later_ms + 5_000, 100) == 1
    with closing(read(log)) as reader:
        assert reader.stored(txn) is None
        assert [one.act.kind for one in reader.acts()] == [ActKind.RESOLVE]  # acts outlive their transactions
        assert reader.verify() == []


def test_a_resolved_perform_is_awaited_by_nobody(log: Log) -> None:
    txn = log.begin("k")
    log.append(decided(txn, COMMIT), park(txn), resolve(txn, decision=COMMIT, awaited=False), Ended(txn, NOW))
    assert log.take("second").open == []
    with closing(read(log)) as reader:
        assert list(reader.resolved()) == [txn]
    assert log.store.purge(NOW + 20 * DAY, 100) == 0  # this one raises the watermark
    assert log.store.purge(NOW + 20 * DAY, 100) == 1


def test_an_act_whose_append_is_repeated_is_there_once(log: Log) -> None:
    txn = log.begin("k")
    act = Act(txn, ActKind.RETRY, "ann", "why", NOW)
    assert statuses(log.append(act, act)) == ["STORED", "STORED"]
    assert statuses(log.append(act)) == ["STORED"]
    with closing(read(log)) as reader:
        assert [one.act for one in reader.acts()] == [act]
        assert reader.acts("") == []


def test_pauses_survive_a_restart_and_are_told_to_shards(log: Log) -> None:
    pause = Act("", ActKind.PAUSE, "ann", "repairs", NOW, service="pay")
    assert log.store.pause(pause, NOW)
    assert not log.store.pause(pause, NOW)
    log.reopen()
    taken = log.take("second")
    assert [(one.service, one.who, one.reason) for one in taken.pauses.paused] == [("pay", "ann", "repairs")]
    (reply,) = log.store.append([log.request(incarnation="second")], NOW)
    assert reply.pauses == taken.pauses.version == 1
    assert log.store.pause(Act("", ActKind.RESUME, "bob", "", NOW, service="pay"), NOW)
    assert (log.store.pauses.version, log.store.pauses.paused) == (2, [])
    with closing(read(log)) as reader:
        assert [(one.act.kind, one.act.who) for one in reader.acts("")] == [(ActKind.RESUME, "bob"), (ActKind.PAUSE, "ann")]


def test_acts_are_forgotten_after_more_than_a_year_but_for_the_newest(log: Log) -> None:
    for kind in (ActKind.PAUSE, ActKind.RESUME):
        log.store.pause(Act("", kind, "ann", "why", NOW, saga="order"), NOW)
    log.clock = itertools.count(0, 2 * KEPT_MS).__next__  # from one look to the next
    log.reopen()
    log.store.purge(NOW + KEPT_MS, 100)
    with closing(read(log)) as reader:
        assert [one.number for one in reader.acts()] == [2, 1]
    log.store.purge(NOW + KEPT_MS + 2 * DAY, 100)
    with closing(read(log)) as reader:
        assert [one.number for one in reader.acts()] == [2]
        assert reader.verify() == []


@pytest.mark.parametrize(("damage", "problem"), [
    ("DELETE FROM acts WHERE number = 2", "acts 2 to 2 are missing"),
    ("UPDATE acts SET data = (SELECT data FROM acts WHERE number = 1) WHERE number = 2", "act 2 is damaged"),
    ("UPDATE acts SET txn = 'other' WHERE number = 3", "act 3 is of another transaction"),
    ("UPDATE resolutions SET step = 'ship'", "it does not"),
    ("DELETE FROM parkings", "the index has 0 Parked records"),
    ("UPDATE transactions SET state = 1 WHERE state = 3", "it asserts ABORT, the index says COMMITTING"),
    ("UPDATE transactions SET decided_sequence = 0", "it stands before a decision"),
])
def test_tampering_is_found(log: Log, damage: str, problem: str) -> None:
    txn = aborting(log)
    log.append(resolve(txn), Act(txn, ActKind.RETRY, "ann", "", NOW), Act(txn, ActKind.RETRY, "ann", "", NOW + 1))
    with closing(read(log)) as reader:
        assert reader.verify() == []
    with closing(sqlite3.connect(log.path)) as connection, connection:
        connection.execute(damage)
    with closing(read(log)) as reader:
        assert any(problem in found for found in reader.verify()), reader.verify()


def test_one_of_two_ledgers_that_agrees_leaves_the_other_awaited(log: Log) -> None:
    txn = aborting(log)
    log.append(park(txn, "ship"), resolve(txn), resolve(txn, "ship"), Ended(txn, NOW))
    assert statuses(log.append(park(txn, "pay", ""))) == ["STORED"]
    with closing(read(log)) as reader:
        assert [one.step for one in reader.resolved()[txn]] == ["ship"]
    assert statuses(log.append(park(txn, "ship", ""))) == ["STORED"]
    with closing(read(log)) as reader:
        assert reader.resolved() == {}
        assert reader.pauses().paused == []
