"""Steps that an operator resolved: a class of their own in the audit, and an excuse for nothing but an unfinished row."""

from __future__ import annotations

import pytest

from orchestrator.protocol.records import Decision, Resolved
from unit.test_audit import BEGAN_MS, FakeLog, History, id_of


def assert_resolved(history: History, number: int, step: str, decision: Decision) -> None:
    one = Resolved(id_of(number), step, decision, "ann", "refunded by hand", 5)
    history.log.assertions.setdefault(id_of(number), []).append(one)


def test_a_resolved_step_is_listed_and_no_finding() -> None:
    history = History()
    history.begin(90, "aborted")
    history.row(90, "charge", "PREPARED")
    assert history.audit().by_check["orphan_hold"] == 1
    assert_resolved(history, 90, "charge", Decision.ABORT)
    report = history.audit()
    assert report.ok
    assert (report.asserted, [one.step for one in report.asserted_steps]) == (1, ["charge"])
    assert report.asserted_steps[0].who == "ann"
    assert history.audit().to_json()["asserted_steps"][0]["reason"] == "refunded by hand"


@pytest.mark.parametrize(("state", "decision", "row"), [
    ("aborted", Decision.ABORT, "COMMITTED"), ("committed", Decision.COMMIT, "ROLLED_BACK"),
    ("committed", Decision.COMMIT, "")])
def test_a_resolution_excuses_no_row_that_contradicts_the_decision(state: str, decision: Decision, row: str) -> None:
    history = History()
    history.begin(90, state, saga="give")
    if row:
        history.row(90, "charge", row)
    assert_resolved(history, 90, "charge", decision)
    report = history.audit()
    assert report.by_check["atomicity"] == 1
    assert report.asserted == 1


def test_a_row_that_was_lost_is_found_after_the_retention_period_too() -> None:
    history = History()
    history.begin(90, "committed", saga="give")
    assert_resolved(history, 90, "charge", Decision.COMMIT)
    history.log.watermark_ms = BEGAN_MS + 1_000
    assert history.audit().by_check["atomicity"] == 1  # what no ledger agrees with is not purged


def test_a_performed_step_that_was_resolved_may_be_purged() -> None:
    history = History()
    history.begin(90, "committed", saga="give")
    resolved = Resolved(id_of(90), "charge", Decision.COMMIT, "ann", "told by hand", 5, awaited=False)
    history.log.assertions[id_of(90)] = [resolved]
    history.log.watermark_ms = BEGAN_MS + 1_000
    assert history.audit().ok


def test_a_resolution_excuses_its_own_step_only() -> None:
    history = History()
    history.begin(90, "aborted")
    history.row(90, "charge", "PREPARED")
    history.row(90, "hold", "PREPARED")
    assert_resolved(history, 90, "charge", Decision.ABORT)
    assert history.audit().violations == 1


def test_a_ledger_that_agreed_while_it_was_audited_is_no_finding() -> None:
    history = History()
    history.begin(90, "aborted")
    history.row(90, "charge", "PREPARED")
    assert_resolved(history, 90, "charge", Decision.ABORT)
    history.earlier = FakeLog(history.log.summaries, assertions=history.log.assertions)
    history.log.assertions = {}  # by the second reading the ledger has agreed
    report = history.audit()
    assert report.ok
    assert report.asserted == 0
