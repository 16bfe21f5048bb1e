"""`raytx retry`, `cancel`, `resolve`, `pause`, `acts` as far as they need no Ray, and the operator over a told client."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from actors.orders import app as shop
from orchestrator.cli import build_cli
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.store import LogStore, create_log
from orchestrator.operate.acts import Done, Operator
from orchestrator.outcome import Handle, Outcome, OutcomeKind
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import (
    Act,
    AppendRequest,
    Begun,
    Decided,
    Decision,
    EpochRecord,
    Parked,
    TakeRequest,
)
from orchestrator.terminal.acting import acting, exit_code

NOW_MS = 1_763_836_800_000
UNDECIDED, PARKED = make_id(NOW_MS, 7, 1, 1), make_id(NOW_MS + 1, 7, 1, 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One transaction is undecided, one has a parked step on which an operator has acted; a service is paused."""
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    directory.create_databases(shop, create_log)
    with closing(LogStore(directory.log_path, "run", 10**12)) as store:
        store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW_MS)
        records = [Begun(txn, txn, b"", "place_order", 1, b"\x80", NOW_MS, NOW_MS, 1) for txn in (UNDECIDED, PARKED)]
        records += [
            Decided(PARKED, Decision.ABORT, NOW_MS, "NO"), Parked(PARKED, "pay", "E_X", "", NOW_MS),
            Act(PARKED, ActKind.RETRY, "ann", "tok_secret", NOW_MS)]
        store.append([AppendRequest(1, 0, "first", 1, [EpochRecord(1, record) for record in records])], NOW_MS)
        store.pause(Act("", ActKind.PAUSE, "bob", "repairs", NOW_MS, service="payment"), NOW_MS)
    return directory.path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(build_cli("actors.orders:app"), [str(one) for one in arguments])


class Client:
    """Answers acts as it is told; only what an operator asks of a client."""

    def __init__(self, data: Path, *answers: Outcome | Exception) -> None:
        self.deployment = SimpleNamespace(data_dir=data, app=shop)
        self.acts: list[tuple[Any, ...]] = []
        self.abandoned: list[Handle] = []
        self._answers = list(answers)

    def act(self, kind: ActKind, transaction: str, *, who: str, reason: str, step: str = "") -> Handle:
        self.acts.append((kind, transaction, who, reason, step))
        handle = Handle("", 1, lambda one: one)
        answer = self._answers.pop(0)
        handle.settle(*((answer, None) if isinstance(answer, Outcome) else (None, answer)))
        return handle


    def abandon(self, handle: Handle) -> None:
        self.abandoned.append(handle)


def outcome(kind: OutcomeKind, message: str = "") -> Outcome:
    return Outcome(PARKED, "", kind, message=message)


@pytest.mark.parametrize(("arguments", "said"), [
    (["retry"], "name transactions, or a filter"),
    (["cancel", PARKED, "--parked"], "--parked: give either ids or filters"),
    (["cancel", "--until", "1h", "--older-than", "1h"], "--until and --older-than"),
    (["acts", "zoo"], "ID: 'zoo' is no id"),
    (["list", "--after", "zoo"], "--after: 'zoo' is no id"),
    (["retry", PARKED, "--timeout", "nan"], "--timeout"),
    (["resolve", PARKED, "pay", "--reason", "by hand", "--timeout", "inf"], "--timeout"),
])
def test_wrong_use_is_told_before_anything_is_asked(data: Path, arguments: list[str], said: str) -> None:
    result = run(*arguments, "--data", data)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("arguments", [
    ["retry", "--parked"], ["cancel", PARKED], ["resolve", PARKED, "pay", "--reason", "by hand"],
    ["pause", "--saga", "place_order", "--reason", "repairs"], ["resume", "--service", "payment"]])
def test_acts_need_a_deployment_that_runs(data: Path, arguments: list[str]) -> None:
    result = run(*arguments, "--data", data, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stderr)["error"]["code"] == "E_UNREACHABLE"


def test_resolve_and_pause_ask_for_a_reason(data: Path) -> None:
    assert run("resolve", PARKED, "pay", "--data", data).exit_code == 2
    assert run("pause", "--saga", "place_order", "--data", data).exit_code == 2


def test_acts_are_listed_with_everything_down(data: Path) -> None:
    told = json.loads(run("acts", "--data", data, "--json").stdout)["acts"]
    assert [(one["who"], one["act"], one["transaction"], one["service"]) for one in told] == [
        ("bob", "pause", "", "payment"), ("ann", "retry", PARKED, "")]
    assert told[1]["reason"] == "[redacted]"
    assert "service payment" in run("acts", "--data", data).stdout
    assert [one["who"] for one in json.loads(run("acts", PARKED, "--data", data, "--json").stdout)["acts"]] == ["ann"]


def test_what_a_query_without_a_state_means(data: Path) -> None:
    client = Client(data, outcome(OutcomeKind.OPEN, "sent"), outcome(OutcomeKind.OPEN), outcome(OutcomeKind.ABORTED))
    operator = Operator(client)
    retried = operator.retry(TransactionQuery(), who="ann", reason="why")
    assert [(one.transaction, one.state, one.done, one.message) for one in retried] == [
        (PARKED, "aborting", Done.DONE, "sent"), (UNDECIDED, "preparing", Done.DONE, "")]
    assert client.acts[0] == (ActKind.RETRY, PARKED, "ann", "why", "")
    (cancelled,) = operator.cancel(TransactionQuery(), who="ann")
    assert (cancelled.transaction, cancelled.done) == (UNDECIDED, Done.DONE)


def test_a_dry_run_asks_nobody(data: Path) -> None:
    client = Client(data)
    (would,) = Operator(client).retry(TransactionQuery(parked=True), who="ann", dry_run=True)
    assert would.done is Done.DRY_RUN
    assert client.acts == []


@pytest.mark.parametrize(("answer", "done", "code"), [
    (outcome(OutcomeKind.OPEN), Done.DONE, ""),
    (outcome(OutcomeKind.ABORTED), Done.REFUSED, "E_TOO_LATE"),
    (DefiniteError(ErrorCode.NOT_RESOLVABLE, "not parked"), Done.REFUSED, "E_NOT_RESOLVABLE"),
    (IndefiniteError(ErrorCode.PENDING, "later"), Done.UNKNOWN, "E_PENDING"),
])
def test_what_an_answer_to_resolve_means(data: Path, answer: Any, done: Done, code: str) -> None:
    client = Client(data, answer)
    acted = Operator(client).resolve(PARKED, "pay", who="ann", reason="by hand")
    assert (acted.done, acted.code) == (done, code)
    assert len(client.abandoned) == (done is Done.UNKNOWN)  # it must not be done tomorrow, when nobody wants it any more


def test_a_cancel_that_came_too_late_is_refused(data: Path) -> None:
    (acted,) = Operator(Client(data, outcome(OutcomeKind.COMMITTED))).cancel([PARKED], who="ann")
    assert (acted.done, acted.code) == (Done.REFUSED, "E_TOO_LATE")
    assert exit_code([acted]) == 1


@pytest.mark.parametrize(("call", "said"), [
    (lambda operator: operator.retry(["zoo"], who="ann"), "'zoo' is no id"),
    (lambda operator: operator.retry([PARKED], who=""), "who: must be text"),
    (lambda operator: operator.retry([PARKED], who="ann", reason="caf\udce9"), "reason: must be valid UTF-8"),
    (lambda operator: operator.resolve(PARKED, "pay", who="ann", reason=" "), "reason: say on what grounds"),
    (lambda operator: operator.pause(who="ann", reason="why"), "name either a saga or a service"),
    (lambda operator: operator.pause(saga="zoo", who="ann", reason="why"), "saga: no 'zoo'"),
    (lambda operator: operator.pause(service="payment", who="ann", reason=""), "reason: say why"),
    (lambda operator: operator.cancel([PARKED] * 2 + [make_id(n, 1, 1, 1) for n in range(10_001)], who="ann"), "at most 10000"),
])
def test_wrong_arguments_are_named(data: Path, call: Any, said: str) -> None:
    client = Client(data)
    with pytest.raises(DefiniteError, match=said):
        call(Operator(client))
    assert client.acts == []


def test_who_acts_is_the_user_on_this_host() -> None:
    user, _, host = acting().partition("@")
    assert user
    assert host
