"""Every check of the audit against a good history and a broken one, over fakes that implement the real ports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from orchestrator.app import App, LedgerReader, LedgerRow, ServiceAudit, StepState
from orchestrator.audit import PARKED_LISTED_MAX, AuditReport, audit, audit_snapshots
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.reader import TransactionSummary
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import Begun, Resolved, State, StoredTransaction
from orchestrator.saga import Saga, Step
from orchestrator.verdict import Check, states_between

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

BEGAN_MS = 1_700_000_000_000
ENDED = {"committed", "aborted"}


class Anything(BaseModel):
    pass


class FakeService:
    """A participant that is only ever asked what it is."""

    def __init__(self, name: str, operations: Mapping[str, bool]) -> None:
        self.name = name
        self._operations = operations

    def operations(self) -> Mapping[str, bool]:
        return self._operations

    def actor_class(self) -> type:
        raise NotImplementedError

    def create(self, path: Path) -> str:
        raise NotImplementedError

    def reader(self, path: Path) -> LedgerReader:
        raise NotImplementedError


def step(name: str, service: str, *, after_commit: bool = False) -> Step:
    compensation = None if after_commit else "undo"
    return Step(name=name, service=service, request=dict, compensation=compensation, after_commit=after_commit)


BUY = Saga(
    name="buy", input=Anything,
    steps=[step("hold", "stock"), step("charge", "bank"), step("tell", "mail", after_commit=True)])
GIVE = Saga(name="give", input=Anything, steps=[step("charge", "bank")])
APP = App(
    services=[
        FakeService("stock", {"hold": True}), FakeService("bank", {"charge": True}), FakeService("mail", {"tell": False})],
    sagas=[BUY, GIVE])
SERVICE_OF = {"hold": "stock", "charge": "bank", "tell": "mail"}


@dataclass
class FakeLog:
    """One snapshot of a log in memory."""

    summaries: list[TransactionSummary] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    watermark_ms: int = 0
    assertions: dict[str, list[Resolved]] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        return dict(Counter(one.state for one in self.summaries))

    def iterate(self) -> Iterator[TransactionSummary]:
        yield from self.summaries

    def stored(self, transaction: str) -> StoredTransaction | None:
        for one in self.summaries:
            if one.transaction == transaction:
                begun = Begun(transaction, one.key, b"", one.saga, one.version, b"", one.began_ms, 0, 0)
                return StoredTransaction(begun, State[one.state.upper()])
        return None

    def resolved(self) -> dict[str, list[Resolved]]:
        return self.assertions

    def verify(self) -> list[str]:
        return self.problems


@dataclass
class FakeLedger:
    """One ledger in memory."""

    stored: list[LedgerRow] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def rows(self, transaction: str | None = None) -> Iterator[LedgerRow]:
        raise AssertionError("the walk needs no requests and no results")

    def states(self) -> Iterator[StepState]:
        return (StepState(row.transaction, row.step, row.operation, row.state) for row in self.stored)

    def audit(self) -> ServiceAudit:
        return ServiceAudit(self.totals, self.violations)

    def close(self) -> None:
        pass


class History:
    """A log and ledgers to write a history into; `earlier` is the log as it was before the ledgers were opened."""

    def __init__(self) -> None:
        self.log = FakeLog()
        self.earlier: FakeLog | None = None
        self.ledgers = {name: FakeLedger() for name in ("stock", "bank", "mail")}

    def begin(self, number: int, state: str, **changes: Any) -> str:
        summary = self.summary(number, state, **changes)
        self.log.summaries.append(summary)
        return summary.transaction

    def summary(self, number: int, state: str, **changes: Any) -> TransactionSummary:
        told: dict[str, Any] = {
            "transaction": id_of(number), "key": f"key-{number}", "saga": "buy", "version": 1, "state": state,
            "business_key": "", "began_ms": BEGAN_MS + number, "deadline_ms": BEGAN_MS + number + 30_000,
            "decided_ms": 0 if state == "preparing" else BEGAN_MS + number + 5,
            "ended_ms": BEGAN_MS + number + 9 if state in ENDED else 0, "code": "", "message": "", "service": "",
            "step": "", "attempts": 0, "parked": False}
        return TransactionSummary(**{**told, **changes})

    def row(self, number: int, name: str, state: str, *, service: str = "", operation: str = "") -> None:
        row = LedgerRow(
            transaction=id_of(number), step=name, operation=operation or name, state=state, request={}, result={}, code="",
            message="", attempts=1, prepared_ms=BEGAN_MS, finished_ms=0)
        self.ledgers[service or SERVICE_OF[name]].stored.append(row)

    def rows(self, number: int, **states: str) -> None:
        for name, state in states.items():
            self.row(number, name, state)

    def audit(self) -> AuditReport:
        return audit_snapshots(APP, self.earlier or self.log, self.ledgers, self.log)


def id_of(number: int) -> str:
    return make_id(BEGAN_MS + number, 7, 1, number)


@pytest.fixture
def history() -> History:
    """One transaction of every kind, all of them right."""
    good = History()
    good.begin(1, "committed")
    good.rows(1, hold="COMMITTED", charge="COMMITTED", tell="DONE")
    good.begin(2, "aborted")
    good.rows(2, hold="ROLLED_BACK", charge="REFUSED")
    good.begin(3, "preparing")
    good.rows(3, hold="PREPARED")
    good.begin(4, "committing")
    good.rows(4, hold="COMMITTED", charge="PREPARED")
    good.begin(5, "aborting", parked=True)
    good.rows(5, hold="PREPARED", charge="ROLLED_BACK")
    good.begin(6, "aborted", saga="", version=0)
    good.begin(7, "committed", saga="give")
    good.rows(7, charge="COMMITTED")
    good.ledgers["stock"].totals = {"units_sold": 3}
    good.ledgers["bank"].totals = {"captured_minor": 500}
    return good


def found(report: AuditReport) -> dict[str, int]:
    return {check: count for check, count in report.by_check.items() if count}


def test_a_good_history_has_no_violation(history: History) -> None:
    report = history.audit()
    assert report.ok
    assert (report.violations, report.examples, report.first_violation, report.worst_violation) == (0, [], None, None)
    assert (report.committed, report.aborted, report.open, report.parked) == (1, 1, 3, 1)
    assert report.by_saga["give"].committed == 1
    assert report.parked_transactions == [id_of(5)]
    assert report.left_out == ["3 open transactions: what they hold, and how they will end"]


def test_the_report_as_json_carries_totals_and_counts(history: History) -> None:
    plain = history.audit().to_json()
    assert plain["ok"] is True
    assert (plain["units_sold"], plain["captured_minor"]) == (3, 500)
    assert plain["totals"] == {"units_sold": 3, "captured_minor": 500}
    assert plain["by_saga"]["buy"] == {"committed": 1, "aborted": 1, "open": 3}
    assert plain["first_violation"] is None
    assert set(plain["by_check"]) == {check.value for check in Check}


def test_an_empty_history_is_right() -> None:
    report = History().audit()
    assert report.ok
    assert (report.open, report.left_out) == (0, [])


@pytest.mark.parametrize(("log_state", "states"), [
    ("committed", {"hold": "COMMITTED", "charge": "ROLLED_BACK", "tell": "DONE"}),
    ("committed", {"hold": "COMMITTED", "charge": "REFUSED", "tell": "DONE"}),
    ("committed", {"hold": "COMMITTED", "tell": "DONE"}),
    ("committed", {"hold": "COMMITTED", "charge": "COMMITTED"}),
    ("committing", {"hold": "COMMITTED"}),
    ("committing", {"hold": "COMMITTED", "charge": "ROLLED_BACK"}),
    ("aborted", {"hold": "COMMITTED", "charge": "REFUSED"}),
    ("aborted", {"hold": "ROLLED_BACK", "charge": "ROLLED_BACK", "tell": "DONE"}),
    ("aborting", {"hold": "COMMITTED", "charge": "PREPARED"}),
    ("aborted", {"hold": "NONSENSE"}),
])
def test_atomicity(history: History, log_state: str, states: dict[str, str]) -> None:
    history.begin(9, log_state)
    history.rows(9, **states)
    report = history.audit()
    assert not report.ok
    assert found(report) == {"atomicity": 1}
    assert report.first_violation is not None
    assert report.first_violation.transaction == id_of(9)


@pytest.mark.parametrize("states", [
    {"hold": "COMMITTED", "charge": "PREPARED"}, {"hold": "ROLLED_BACK"}, {"hold": "PREPARED", "charge": "COMMITTED"}])
def test_durability_a_row_that_acts_on_a_decision_the_log_lacks(history: History, states: dict[str, str]) -> None:
    history.begin(9, "preparing")
    history.rows(9, **states)
    assert found(history.audit()) == {"durability": 1}


@pytest.mark.parametrize("service", ["stock", "bank"])
def test_exactly_once_a_step_with_two_rows(history: History, service: str) -> None:
    history.begin(9, "committed")
    history.rows(9, hold="COMMITTED", charge="COMMITTED", tell="DONE")
    history.row(9, "hold", "COMMITTED", service=service)
    assert found(history.audit())["exactly_once"] == 1


def test_conservation_is_what_the_services_say(history: History) -> None:
    history.ledgers["bank"].violations = ["account 7: 3 pence too many"]
    report = history.audit()
    assert found(report) == {"conservation": 1}
    assert report.examples[0].text == "bank: account 7: 3 pence too many"


@pytest.mark.parametrize(("state", "decided_ms"), [
    ("committed", 0), ("aborted", 0), ("committing", 0), ("preparing", BEGAN_MS)])
def test_one_decision(history: History, state: str, decided_ms: int) -> None:
    history.begin(9, state, saga="give", decided_ms=decided_ms)
    history.rows(9, **{"committed": {"charge": "COMMITTED"}, "committing": {"charge": "PREPARED"}}.get(state, {}))
    assert found(history.audit()) == {"one_decision": 1}


def test_the_logs_own_problems_are_violations(history: History) -> None:
    history.log.problems = ["record 17 is missing", "record 20: checksum"]
    assert found(history.audit()) == {"transaction_log": 2}


@pytest.mark.parametrize("number", [0, 8, 99])  # before, between and after what the log knows
def test_a_row_of_an_unknown_transaction(history: History, number: int) -> None:
    history.begin(50, "aborted")
    history.ledgers["bank"].stored.insert(0 if number == 0 else len(history.ledgers["bank"].stored), LedgerRow(
        id_of(number), "charge", "charge", "COMMITTED", {}, {}, "", "", 1, 0, 0))
    report = history.audit()
    assert found(report) == {"unknown_transaction": 1}
    assert report.examples[0].transaction == id_of(number)


def test_an_unknown_transaction_below_the_watermark_was_purged(history: History) -> None:
    history.log.watermark_ms = BEGAN_MS + 1
    history.ledgers["bank"].stored.insert(0, LedgerRow(id_of(0), "charge", "charge", "COMMITTED", {}, {}, "", "", 1, 0, 0))
    report = history.audit()
    assert report.ok
    assert any("1 rows older than the retention period" in text for text in report.left_out)


def test_rows_below_the_watermark_may_be_gone_but_not_those_of_open_transactions(history: History) -> None:
    history.begin(9, "committed")
    history.begin(10, "committing")
    history.log.watermark_ms = BEGAN_MS + 100
    report = history.audit()
    assert found(report) == {"atomicity": 2}  # both votes of the open one
    assert {one.transaction for one in report.examples} == {id_of(10)}


@pytest.mark.parametrize("state", ["committed", "aborted"])
def test_an_orphan_hold_of_an_ended_transaction(history: History, state: str) -> None:
    history.begin(9, state, saga="give")
    history.rows(9, charge="PREPARED")
    assert found(history.audit()) == {"orphan_hold": 1}


def test_an_orphan_hold_of_no_transaction_even_below_the_watermark(history: History) -> None:
    history.log.watermark_ms = BEGAN_MS + 100
    history.rows(9, hold="PREPARED")
    assert found(history.audit()) == {"orphan_hold": 1}


def test_keys_are_unique(history: History) -> None:
    history.begin(9, "aborted", key="key-2")
    report = history.audit()
    assert found(report) == {"unique_key": 1}
    assert id_of(2) in report.examples[0].text


@pytest.mark.parametrize(("name", "service", "operation"), [
    ("wrap", "stock", "wrap"),  # no such step
    ("hold", "bank", "hold"),  # another service's
    ("hold", "stock", "charge"),  # another operation
])
def test_a_row_fits_its_sagas_definition(history: History, name: str, service: str, operation: str) -> None:
    history.begin(9, "aborted")
    history.row(9, name, "ROLLED_BACK", service=service, operation=operation)
    assert found(history.audit()) == {"definition": 1}


def test_a_key_cancelled_before_its_submit_has_no_rows(history: History) -> None:
    history.begin(9, "aborted", saga="", version=0)
    history.rows(9, hold="ROLLED_BACK")
    assert found(history.audit()) == {"definition": 1}


def test_an_unknown_version_is_said_and_its_rows_are_judged_all_the_same(history: History) -> None:
    history.begin(9, "committed", version=2)
    history.rows(9, hold="COMMITTED")
    report = history.audit()
    assert report.ok
    assert "missing rows of 1 transactions: the app has no saga 'buy' version 2" in report.left_out
    history.begin(10, "committed", version=2)
    history.rows(10, hold="ROLLED_BACK")
    assert found(history.audit()) == {"atomicity": 1}


def test_a_ledger_out_of_order(history: History) -> None:
    history.ledgers["bank"].stored.reverse()
    assert found(history.audit())["order"] > 0


def test_a_log_out_of_order(history: History) -> None:
    history.begin(0, "aborted")
    assert found(history.audit()) == {"order": 1}


def test_first_and_worst_violation(history: History) -> None:
    history.begin(9, "aborted", key="key-1")
    history.row(9, "wrap", "ROLLED_BACK", service="mail")
    history.begin(10, "committed")
    report = history.audit()
    assert report.first_violation is not None
    assert report.first_violation.check is Check.DEFINITION
    assert report.worst_violation is not None
    assert report.worst_violation.check is Check.ATOMICITY
    assert report.violations == sum(report.by_check.values())


def test_examples_and_parked_lists_are_capped(history: History) -> None:
    for number in range(100, 400):
        history.begin(number, "committed")
        history.begin(number + 1000, "aborting", parked=True)
    history.log.summaries.sort(key=lambda one: one.transaction)
    report = history.audit()
    assert report.by_check["atomicity"] == 900
    assert len(report.examples) == 10
    assert (report.parked, len(report.parked_transactions)) == (301, PARKED_LISTED_MAX)


@pytest.mark.parametrize(("before", "after", "states"), [
    ("preparing", "committed", {"hold": "PREPARED"}),
    (None, "committed", {}),
    ("preparing", "committing", {"hold": "PREPARED"}),
    ("committing", "committed", {"hold": "COMMITTED", "charge": "PREPARED"}),
    ("aborting", "aborted", {"hold": "PREPARED", "charge": "ROLLED_BACK"}),
])
def test_a_log_ahead_of_the_ledgers_is_no_violation(
    history: History, before: str | None, after: str, states: dict[str, str],
) -> None:
    history.earlier = FakeLog(list(history.log.summaries))
    if before is not None:
        history.earlier.summaries.append(history.summary(9, before))
    history.begin(9, after)
    history.rows(9, **states)
    report = history.audit()
    assert report.ok
    assert "1 transactions that went on while the stores were being opened" in report.left_out


@pytest.mark.parametrize(("before", "after", "states", "check"), [
    ("preparing", "committed", {"hold": "ROLLED_BACK", "charge": "PREPARED"}, "atomicity"),  # never right
    ("committing", "committed", {"hold": "COMMITTED"}, "atomicity"),  # the vote was in before the ledger was read
    ("committed", "committed", {"hold": "PREPARED", "charge": "COMMITTED", "tell": "DONE"}, "orphan_hold"),
    ("aborting", "aborted", {"hold": "COMMITTED"}, "atomicity"),
    ("aborted", "committed", {"hold": "ROLLED_BACK", "charge": "COMMITTED", "tell": "DONE"}, "atomicity"),
    (None, "preparing", {"hold": "COMMITTED"}, "durability"),  # a ledger ahead of the log is always one
])
def test_leniency_ends_where_no_state_in_between_explains_the_row(
    history: History, before: str | None, after: str, states: dict[str, str], check: str,
) -> None:
    history.earlier = FakeLog(list(history.log.summaries))
    if before is not None:
        history.earlier.summaries.append(history.summary(9, before))
    history.begin(9, after)
    history.rows(9, **states)
    assert found(history.audit()) == {check: 1}


def test_states_between() -> None:
    assert states_between(None, State.COMMITTED) == (State.PREPARING, State.COMMITTING, State.COMMITTED)
    assert states_between(State.COMMITTING, State.COMMITTED) == (State.COMMITTING, State.COMMITTED)
    assert states_between(State.ABORTED, State.ABORTED) == (State.ABORTED,)
    assert states_between(State.ABORTING, State.COMMITTED) == (State.COMMITTED,)  # two decisions explain nothing


def test_progress_is_told(history: History) -> None:
    told: list[tuple[str, int, int]] = []
    audit_snapshots(APP, history.log, history.ledgers, history.log, lambda *now: told.append(now))
    assert told[0] == ("transactions", 7, 7)
    assert [stage for stage, _, _ in told[1:]] == [
        "conservation: stock", "conservation: bank", "conservation: mail", "transaction log"]


def test_a_directory_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefiniteError, match="--data") as caught:
        audit(tmp_path, APP)
    assert caught.value.code == ErrorCode.DATA_DIR
