"""A compensation that always fails: parked, seen, resolved by an operator, and settled once its service is mended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator import connect
from orchestrator.audit import AuditReport, audit
from orchestrator.client import Client
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader
from orchestrator.operate.acts import Done, Operator
from orchestrator.protocol.messages import ActKind
from orchestrator.timeline import timeline

WAIT_S = 30
WHO = "ann@desk"


def until(what: Callable[[], Any]) -> Any:
    """What it is once it is true: nobody is told when a step is parked, or a ledger agrees."""
    end_s = time.monotonic() + WAIT_S
    while not (found := what()):
        assert time.monotonic() < end_s, "it does not come true"
        time.sleep(0.05)
    return found


def kill_shard(client: Client) -> None:
    (pid,) = [one["pid"] for one in client.deployment.statuses() if one["role"] == "orchestrator"]
    os.kill(pid, signal.SIGKILL)


def audited(client: Client) -> AuditReport:
    report = audit(client.deployment.data_dir, client.deployment.app)
    assert report.ok, report
    return report


def test_a_compensation_that_always_fails_is_resolved_and_settled(head: None, tmp_path: Path, occurred) -> None:
    mended = tmp_path / "mended"
    with connect(tmp_path / "data", app="integration.broken_app:app") as client:
        operator = Operator(client)
        outcome = client.submit("visit", {"mended": str(mended)}).outcome(WAIT_S)
        txn = outcome.transaction
        assert (outcome.committed, outcome.code) == (False, "CLOSED")
        (parked,) = until(lambda: [one for one in _list(client, parked=True) if len(one.parked_steps) == 2])
        assert {one.step for one in parked.parked_steps} == {"coat", "bag"}
        assert {one.step for one in timeline(client.deployment.data_dir, client.deployment.app, txn).parked} == {"coat", "bag"}

        (tried,) = operator.retry(TransactionQuery(parked=True), who=WHO, reason="once more")
        assert (tried.done, tried.transaction) == (Done.DONE, txn)
        assert operator.retry(TransactionQuery(parked=True), who=WHO, dry_run=True)[0].done is Done.DRY_RUN
        (told,) = operator.cancel([txn], who=WHO)
        assert told.done is Done.DONE  # aborted it is already
        assert operator.resolve(txn, "enter", who=WHO, reason="?").code == ErrorCode.NOT_RESOLVABLE

        assert operator.resolve(txn, "coat", who=WHO, reason="handed over at the door").done is Done.DONE
        kill_shard(client)
        assert audited(client).asserted == 1
        resolved = until(lambda: _done(operator.resolve(txn, "bag", who=WHO, reason="posted")))
        assert resolved.transaction == txn
        until(lambda: [one for one in _list(client, state="aborted") if one.transaction == txn])
        report = audited(client)
        assert (report.open, report.parked, report.asserted) == (0, 0, 2)
        assert {(one.step, one.decision, one.who) for one in report.asserted_steps} == {
            ("coat", "ABORT", WHO), ("bag", "ABORT", WHO)}
        kinds = [one.act.kind for one in operator.acts(txn)]
        assert kinds == [ActKind.RESOLVE, ActKind.RESOLVE, ActKind.RETRY]

        kill_shard(client)  # ended: and still taken up again
        mended.touch()
        until(lambda: audited(client).asserted == 0)
        assert [row for row in _rows(client, txn) if row.state != "ROLLED_BACK"] == []
    occurred("76")


def test_a_pause_is_durable_and_obeyed_by_every_shard(head: None, tmp_path: Path) -> None:
    with connect(tmp_path / "data", app="integration.broken_app:app") as client:
        operator, goes = Operator(client), {"mended": "", "refuse": False}
        assert client.submit("visit", goes, key="before").outcome(WAIT_S).committed
        assert operator.pause(service="gate", who=WHO, reason="repairs")
        assert not operator.pause(service="gate", who=WHO, reason="repairs")
        for _ in range(2):
            with pytest.raises(DefiniteError, match="repairs") as refused:
                client.submit("visit", goes).outcome(WAIT_S)
            assert refused.value.code == ErrorCode.PAUSED
            assert refused.value.retry_after_ms > 0
            assert client.submit("visit", goes, key="before").outcome(WAIT_S).committed  # a repeat is answered
            kill_shard(client)  # its successor has to know as well
        assert [one.service for one in operator.pauses().paused] == ["gate"]
        assert operator.resume(service="gate", who=WHO)
        assert client.submit("visit", goes).outcome(WAIT_S).committed
        assert [one.act.kind for one in operator.acts("")] == [ActKind.RESUME, ActKind.PAUSE]
        with pytest.raises(DefiniteError, match="vault, gate"):
            operator.pause(service="door", who=WHO, reason="?")


def _list(client: Client, **query: Any) -> list[Any]:
    with closing(LogReader(client.deployment.data_dir / "log" / "log.sqlite")) as log:
        return log.find(TransactionQuery(**query))


def _done(acted: Any) -> Any:
    return acted if acted.done is Done.DONE else None


def _rows(client: Client, txn: str) -> list[Any]:
    with closing(client.deployment.app.by_service["vault"].reader(
            client.deployment.data_dir / "services" / "vault.sqlite")) as reader:
        return list(reader.rows(txn))
