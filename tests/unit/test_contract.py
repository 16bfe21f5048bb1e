"""The contract check finds a service that is written wrong, says how, and finds nothing in one that is written right."""

from __future__ import annotations

import gc
import time

import msgspec
import pytest

from actors.inventory import Inventory
from actors.ledger import RowState
from actors.local import LocalService
from actors.memory import MemoryStore
from actors.orders import app
from actors.runner import BatchRunner
from orchestrator.app import App
from orchestrator.errors import DefiniteError
from orchestrator.testing import check_app, check_service
from orchestrator.testing.contract.ambient import Ambient
from orchestrator.testing.contract.report import Rule
from unit import wrong_services as wrong

SAMPLES = {"take": [{"quantity": quantity} for quantity in (1, 6, 11, -1)]}
SMALL = {"take": [{"quantity": quantity} for quantity in (1, 2, 3)]}


def check(service, **more):
    more.setdefault("cases", 5)
    return check_service(service, more.pop("requests", SAMPLES), **more)


def broken(report):
    return {finding.rule for finding in report.findings}


@pytest.mark.parametrize("service", app.services, ids=lambda service: service.name)
def test_the_shipped_services_keep_the_contract(service):
    (report,) = check_app(app, services=[service.name], examples=5, cases=8, seed=1)
    assert str(report).startswith(f"service {service.name} keeps the contract (")
    assert report.ok
    assert all(counts["yes"] >= 4 for counts in report.answers.values())
    tried = {Rule.COVERED, Rule.ANSWERS, Rule.IDEMPOTENT, Rule.RETRIES, Rule.REPLAYS, Rule.CODEC, Rule.KEEPS_NOTHING}
    if service.name != "notification":
        tried |= set(Rule) - {Rule.LATE_ANSWER}
    assert {rule for rule in tried if not report.checks.get(rule)} == set()


def test_a_service_written_right_has_no_finding():
    report = check(wrong.Shelf())
    assert report.findings == ()
    assert report.answers == {"take": {"yes": 2, "no": 1, "not_yet": 1}}
    report = check(wrong.Courier(), requests={**SAMPLES, "tell": [{"quantity": 1}]})
    assert report.findings == ()
    assert all(report.checks.get(rule) for rule in Rule)


@pytest.mark.parametrize(("service", "rules", "says"), [
    (wrong.RestoresASnapshot, {Rule.OWN_SHARE}, "after its rollback it is not as take of the other transaction alone"),
    (wrong.CommitsAnAbsoluteValue, {Rule.OWN_SHARE}, "alone would have left it"),
    (wrong.ForgetsToRelease, {Rule.RESTORES}, "after the rollback it is not as it was before the prepare"),
    (wrong.LeaksOnRefusal, {Rule.KEEPS_NOTHING}, "prepare_take changed self.open: only the state is kept and undone"),
    (wrong.CountsOnTheClass, {Rule.KEEPS_NOTHING, Rule.REPLAYS}, "prepare_take changed self.numbers"),
    (wrong.AsksTheClock, {Rule.REPLAYS}, "prepare_take asked for the time (time) in wrong_services.py, line "),
    (wrong.AsksTheCalendar, {Rule.REPLAYS}, "commit_take asked for the time (now) in wrong_services.py, line "),
    (wrong.DrawsLots, {Rule.REPLAYS}, "prepare_take asked for chance (getrandbits) in random.py, line "),
    (wrong.MakesUpIds, {Rule.REPLAYS}, "prepare_take asked for chance (urandom) in uuid.py, line "),
    (wrong.CommitMayFail, {Rule.FINISHES}, "commit_take failed, so its transaction cannot end: RuntimeError: sold out"),
    (wrong.ChangesItsRequest, {Rule.READ_ONLY}, "prepare_take changed its request or result"),
    (wrong.Raises, {Rule.ANSWERS}, "it raised LookupError: not enough: return Refused or NotYet"),
    (wrong.RefusesAll, {Rule.COVERED}, "no sample request got a yes"),
    (wrong.LosesATuple, {Rule.CODEC}, "the result of prepare_take comes back as another one: Loose(pair=(1, 2)) as"),
    (wrong.CannotReadItsVote, {Rule.CODEC, Rule.FINISHES}, "the result of prepare_take cannot be encoded and decoded again"),
    (wrong.RemembersWhoAsked, {Rule.KEEPS_NOTHING}, "the asynchronous part of take changed self.asked"),
])
def test_a_service_written_wrong_is_found(service, rules, says):
    requests = {**SAMPLES, "tell": [{"quantity": 1}]} if issubclass(service, wrong.Courier) else SAMPLES
    report = check(service(), requests=requests)
    assert not report.ok
    assert broken(report) == rules
    assert says in str(report)
    (finding,) = [finding for finding in report.findings if finding.rule is min(rules, key=list(Rule).index)]
    assert finding.operation == "take"
    assert finding.replay == "seed=0"


def test_a_service_that_never_writes_the_same_is_found_whatever_else_that_breaks():
    report = check(wrong.WritesAnAddress())
    assert {Rule.KEEPS_NOTHING, Rule.REPLAYS} <= broken(report)
    assert "prepare_take asked for what differs between processes (id) in wrong_services.py, line " in str(report)


def test_a_finding_shows_the_state_and_the_messages():
    (finding,) = check(wrong.ForgetsToRelease()).findings
    assert str(finding).splitlines()[1:] == [
        "  rule     a rollback restores what was there before its prepare", "  request  {'quantity': 1}",
        "  state    held: expected nothing, found 1", "  state    rollbacks: expected nothing, found 1",
        "  sent     1: prepare take {'quantity': 1}", "  sent     1: rollback take", "  replay   seed=0"]


def test_random_cases_find_what_one_pair_does_not_and_each_replays_alone():
    report = check(wrong.RestoresASnapshot(), requests={"take": [{"quantity": 3}]}, cases=15)
    finding = next((f for f in report.findings if f.rule is Rule.OWN_SHARE), None)
    assert finding is not None
    assert check(wrong.NeedsThree(), requests=SMALL, cases=0).ok
    report = check(wrong.NeedsThree(), requests=SMALL, cases=40)
    (finding,) = report.findings
    assert finding.rule is Rule.OWN_SHARE
    assert finding.replay.startswith("seed=0, case=")
    number = int(finding.replay.rpartition("=")[2])
    (again,) = check(wrong.NeedsThree(), requests=SMALL, case=number).findings
    assert (again.sent, again.difference) == (finding.sent, finding.difference)
    assert len({line.partition(":")[0] for line in finding.sent}) == 3  # shown with as few transactions as break it


def test_requests_about_the_same_things_are_paired():
    requests = {"hold": [{"account": account, "amount": 1} for account in ("ada", "bob", "cy", "dan", "eve", "ada")]}
    requests["hold"][-1]["amount"] = 2
    report = check(wrong.LoosensAnAccount(), requests=requests, cases=0)
    (finding,) = report.findings
    assert finding.rule is Rule.OWN_SHARE
    assert finding.difference == ("ada: expected [2], found nothing",)


def test_the_same_seed_says_the_same():
    first, again = (check(wrong.NeedsThree(), requests=SMALL, cases=20, seed=4) for _ in range(2))
    assert first == again
    assert check(wrong.NeedsThree(), requests=SMALL, cases=20, seed=5).findings[0].replay != first.findings[0].replay


def test_what_may_differ_can_be_declared():
    assert check(wrong.LeaksOnRefusal(), ignore_attributes=["open"]).ok
    assert check(wrong.ForgetsToRelease(), ignore_keys=["held", "rollbacks"]).ok
    assert not check(wrong.ForgetsToRelease(), ignore_keys=["rollbacks"]).ok


def test_requests_given_by_hand_and_an_opening():
    requests = {
        "receive": [{"lines": [{"sku": "A", "quantity": 1}]}], "reserve": [{"order_id": "o2", "lines": [("A", 1)]}],
        "restock": [{"order_id": "o1", "return_id": "r", "lines": [("A", 1)]}]}
    opening = [("receive", {"lines": [{"sku": "A", "quantity": 9}]}), ("reserve", {"order_id": "o1", "lines": [("A", 2)]})]
    assert check(Inventory(), requests=requests, opening=opening).ok
    report = check(Inventory(), requests=requests)
    assert {finding.operation for finding in report.findings} == {"reserve", "restock"}
    assert broken(report) == {Rule.COVERED}
    with pytest.raises(ValueError, match="'inventory' has no operation fly; it has receive, reserve, restock"):
        check(Inventory(), requests={"fly": []})
    with pytest.raises(ValueError, match="opening: prepare reserve was answered NO UNKNOWN_SKU"):
        check(Inventory(), requests=requests, opening=opening[1:])
    report = check(Inventory(), requests={**requests, "receive": [{"lines": 3}]}, opening=opening)
    assert "receive: the sample is no request of it: receive: lines: " in str(report)


def test_an_operation_that_no_example_reaches_is_a_finding():
    (report,) = check_app(App(app.services, [s for s in app.sagas if s.name != "return_items"], app.opening),
                          services=["inventory"], examples=2, cases=2)
    assert [(finding.rule, finding.operation) for finding in report.findings] == [(Rule.COVERED, "restock")]


def test_the_collector_is_nobody_s_question():
    def listens(_phase, _info):
        time.perf_counter()

    def code():
        for _ in range(50_000):
            circle = []
            circle.append(circle)

    ambient = Ambient()
    threshold = gc.get_threshold()
    gc.set_threshold(700)
    gc.callbacks.append(listens)
    try:
        ambient.run(code)
    finally:
        gc.callbacks.remove(listens)
        gc.set_threshold(*threshold)
    assert ambient.take() == []
    assert gc.isenabled()


def test_an_opening_that_aborts_is_told():
    twice = App(app.services, app.sagas, [*app.opening, app.opening[1]])
    says = "opening 2 of the app was aborted: place_order: reserve answered NO DUPLICATE_ORDER"
    with pytest.raises(DefiniteError, match=says):
        check_app(twice)


# what the ledger promises on behalf of every service is checked as well: a participant whose ledger is broken is found


class Forgetful(MemoryStore):
    """Never finds a row again."""

    def load(self, keys):
        return {key: row for key, row in super().load(keys).items() if row.operation == "take" and row.request == b""}


class ForgetsTombstones(MemoryStore):
    def load(self, keys):
        return {key: row for key, row in super().load(keys).items() if row.request}


class ForgetsAtOpening(MemoryStore):
    def __init__(self, journal) -> None:
        super().__init__(journal)
        self.values.clear()


class KeepsRefused(LocalService):
    def turn(self, now_ms):
        mails = super().turn(now_ms)
        if any(row.code == "SHORT" for row in self.store.rows.values()):
            self.store.values["held"] = b"\x07"
        return mails


class AppliesLateAnswers(LocalService):
    def answer(self, key):
        if key not in self.asked:
            self.store.values["late"] = b"\x01"
        super().answer(key)


class AnswersRepeatsOtherwise(LocalService):
    def turn(self, now_ms):
        self._committed = {key for key, row in self.store.rows.items() if row.state is RowState.COMMITTED}
        return super().turn(now_ms)

    def _mail(self, outcomes, now_ms):
        return super()._mail([self._changed(outcome) for outcome in outcomes], now_ms)

    def _changed(self, outcome):
        if outcome.reply is None or (outcome.reply.transaction, outcome.reply.step) not in self._committed:
            return outcome
        return outcome._replace(reply=msgspec.structs.replace(outcome.reply, result=b""))


def over(store, life=LocalService):
    """The right service over a wrong store or in a wrong shell."""
    class Broken(wrong.Courier):
        def local(self, journal, now_ms, in_doubt_after_ms, faults=None, *, watch=None):
            made = life(self, journal, now_ms, in_doubt_after_ms, faults, watch=watch)
            if store is not MemoryStore:
                made.store = store(journal)
                made._runner = BatchRunner(self.name, made._operations, made.store)
            return made

    return Broken()


@pytest.mark.parametrize(("store", "life", "rules"), [
    (Forgetful, LocalService, {Rule.IDEMPOTENT, Rule.RETRIES}),
    (ForgetsTombstones, LocalService, {Rule.EMPTY}),
    (ForgetsAtOpening, LocalService, {Rule.IDEMPOTENT, Rule.RETRIES, Rule.FINISHES}),
    (MemoryStore, KeepsRefused, {Rule.NO_LEAK, Rule.EMPTY}),
    (MemoryStore, AppliesLateAnswers, {Rule.LATE_ANSWER}),
    (MemoryStore, AnswersRepeatsOtherwise, {Rule.IDEMPOTENT}),
])
def test_a_participant_whose_ledger_is_broken_is_found(store, life, rules):
    report = check(over(store, life), requests={**SAMPLES, "tell": [{"quantity": 1}]}, cases=30)
    assert rules <= broken(report)
