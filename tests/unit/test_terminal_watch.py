"""`raytx watch`: new records as lines, those of one transaction to its end, those that fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.orders import app as shop
from orchestrator.cli import build_cli
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError
from orchestrator.log.following import LogFollower
from orchestrator.log.reader import TransactionQuery
from orchestrator.log.store import create_log
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import Act, Begun, Decided, Decision, Ended, Parked
from unit.log_bench import NOW, Log

LIMIT_S = 0.05


def begun(txn: str, saga: str = "order") -> Begun:
    return Begun(txn, f"key-{txn[-3:]}", b"", saga, 1, b"\x80", NOW, NOW + 1, 1, "tok_order")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    directory.create_databases(shop, create_log)
    found = Log(directory.log_path)
    found.take()
    yield found
    found.store.close()


@pytest.fixture
def run(tmp_path: Path):
    runner, commands = CliRunner(), build_cli("actors.orders:app")
    return lambda *arguments: runner.invoke(commands, ["watch", *arguments, "--data", str(tmp_path / "data")])


def told(changes: Iterator[tuple], count: int = 100) -> list[str]:
    return [type(record.record).__name__ for record, _ in islice(changes, count)]


def test_what_is_new_is_told_in_the_order_of_durability(log: Log) -> None:
    log.begin("before")
    with LogFollower(log.path) as follower:
        changes = follower.changes(TransactionQuery(), 60)
        txn = log.id()
        log.append(begun(txn))
        assert told(changes, 1) == ["Begun"]
        log.append(Decided(txn, Decision.COMMIT, NOW), Ended(txn, NOW))
        assert told(changes, 2) == ["Decided", "Ended"]
        assert told(follower.changes(TransactionQuery(), LIMIT_S)) == []


def test_only_those_that_fit(log: Log) -> None:
    with LogFollower(log.path) as follower:
        good, bad, parked = log.id(), log.id(), log.id()
        log.append(begun(good), begun(bad, "refund"), begun(parked))
        log.append(Decided(bad, Decision.ABORT, NOW, "E_X", "no", "mail", "t", 1), Decided(parked, Decision.COMMIT, NOW),
                   Parked(parked, "notify", "E_X", "no", NOW, "mail"))
        for query, expected in (
                (TransactionQuery(saga="refund"), {bad}), (TransactionQuery(state="open"), {good, bad, parked}),
                (TransactionQuery(code="E_X"), {bad, parked}), (TransactionQuery(service="mail", parked=False), {bad}),
                (TransactionQuery(state="preparing"), {good}), (TransactionQuery(key=f"key-{good[-3:]}"), {good}),
                (TransactionQuery(code="E_Y"), set())):
            follower._sequence = 0
            found = {one.transaction for _, one in follower.changes(query, LIMIT_S)}
            assert found == expected, query


def test_one_transaction_is_told_from_its_begin_to_its_end(log: Log) -> None:
    txn = log.id()
    log.append(begun(txn))
    with LogFollower(log.path) as follower:
        changes = follower.transaction(txn, 60)
        assert told(changes, 1) == ["Begun"]
        log.begin("another")
        log.append(Decided(txn, Decision.COMMIT, NOW))
        assert told(changes, 1) == ["Decided"]
        log.append(Ended(txn, NOW))
        assert told(changes) == ["Ended"]  # and that is all


def test_a_transaction_that_nobody_knows(log: Log) -> None:
    with LogFollower(log.path) as follower, pytest.raises(DefiniteError, match="no transaction"):
        next(follower.transaction("0" * 32))


def test_the_writer_may_restart_meanwhile(log: Log) -> None:
    with LogFollower(log.path) as follower:
        changes = follower.changes(TransactionQuery(), 60)
        log.reopen()
        log.take("second")
        txn = log.id()
        log.append(begun(txn), incarnation="second")
        assert told(changes, 1) == ["Begun"]


@pytest.mark.parametrize(("decision", "code", "exit_code"), [(Decision.COMMIT, "", 0), (Decision.ABORT, "E_X", 1)])
def test_the_command_ends_with_its_transaction(log: Log, run, decision: Decision, code: str, exit_code: int) -> None:
    txn = log.id()
    log.append(begun(txn), Decided(txn, decision, NOW, code, "for tok_secret", "mail" if code else "", "t" if code else ""))
    log.append(Act(txn, ActKind.RETRY, "ann", "again", NOW), Ended(txn, NOW))
    result = run(txn)
    assert result.exit_code == exit_code, result.output
    lines = result.stdout.splitlines()
    said = [line.split("  ")[2].partition(": for")[0] for line in lines]
    assert said == ["begun: order version 1", f"decided {decision.name}", "retry by ann: again", "ended"]
    assert all(line.startswith("2023-11-14T22:13:20.000Z  " + txn) for line in lines)
    assert "tok_" not in result.stdout
    assert ("mail/t  E_X" in lines[1]) == bool(code)


def test_json_is_one_object_a_line(log: Log, run) -> None:
    txn = log.id()
    log.append(begun(txn), Decided(txn, Decision.COMMIT, NOW), Ended(txn, NOW))
    found = [json.loads(line) for line in run(txn, "--json").stdout.splitlines()]
    assert [one["what"] for one in found] == ["begun: order version 1", "decided COMMIT", "ended"]
    assert found[1] == {
        "time": "2023-11-14T22:13:20.000Z", "at_ms": NOW, "what": "decided COMMIT", "step": "", "service": "", "attempts": 0,
        "code": "", "message": "", "transaction": txn, "saga": "order", "business_key": "[redacted]", "sequence": 2}


@pytest.mark.parametrize(("arguments", "told_why"), [
    (["xyz"], "E_INVALID_INPUT"), (["0" * 32], "E_UNKNOWN"), (["--state", "done", "--for", "0.1"], "E_INVALID_INPUT")])
def test_wrong_use(log: Log, run, arguments: list[str], told_why: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert told_why in result.stderr


def test_an_outcome_that_is_not_known_in_time_is_no_success(log: Log, run) -> None:
    txn = log.id()
    log.append(begun(txn))
    assert run(txn, "--for", "0.1").exit_code == 3
    log.append(Decided(txn, Decision.COMMIT, NOW))
    assert run(txn, "--for", "0.1").exit_code == 0
