"""The coordinator's other answers: fenced, bound to another, no room, cancelled early, asked by those in doubt."""

from __future__ import annotations

import pytest

from orchestrator.errors import ErrorCode
from orchestrator.protocol import admission, answers
from orchestrator.protocol.effects import Effects, Lookup, Notice, Waiter
from orchestrator.protocol.identifiers import epoch_of, fingerprint_of, make_id, partition_of, partition_of_key
from orchestrator.protocol.messages import Inquiry, Kind, OutcomeStatus, Status
from orchestrator.protocol.records import (
    AppendResult,
    AppendStatus,
    Begun,
    CancelledKey,
    Decided,
    Decision,
    State,
    StoredTransaction,
)
from orchestrator.protocol.retry import RetryBudget, RetryPolicy
from orchestrator.protocol.table import OpenTable
from orchestrator.protocol.timers import BUCKET_MS, Timers
from orchestrator.protocol.traffic import SLOW_MS_MAX, TRAFFIC, Traffic
from orchestrator.protocol.transaction import TRANSITIONS, Event, StepProgress, Transaction
from orchestrator.saga import Saga, encode_plain
from unit.core_alone import NOW_MS, WAITER, Alone, Input, codes, commands, opened, outcomes, saga, sent, step, told

SECOND, THIRD = Waiter("client", 2), Waiter("other", 3)


def bound(alone: Alone, number: int, stored: StoredTransaction, status: AppendStatus = AppendStatus.BOUND) -> Effects:
    """The log answers a submit's Begun with the transaction that holds the key."""
    (begun,) = alone.submit(number=number, key=stored.begun.key).records
    return alone.core.appended([(begun, AppendResult(status, None, stored))], NOW_MS)


def test_a_key_bound_to_another_transaction_is_answered_with_that_one() -> None:
    alone = Alone()
    ended = opened(1, Decision.ABORT, ended=True)
    conflict = bound(alone, 1, ended, AppendStatus.CONFLICT)
    assert told(conflict) == [(1, "REJECTED", "E_KEY_CONFLICT")]
    assert ended.begun.transaction in outcomes(conflict)[0].message
    begun = ended.begun
    fitting = StoredTransaction(
        Begun(begun.transaction, "q1", fingerprint_of("sample", encode_plain({})), "sample", 1, begun.input, 1, 2, 3),
        State.ABORTED, ended.decided)
    effects = bound(alone, 2, fitting)
    assert told(effects) == [(2, "ABORTED", "E_TIMEOUT")]
    assert outcomes(effects)[0].transaction == begun.transaction
    assert alone.core.open_count == 0


def test_begun_is_answered_once() -> None:
    alone = Alone()
    begun = alone.submit()
    assert sent(alone.stored(begun)) == [("a", "PREPARE", 1)]
    assert not alone.stored(begun).commands
    alone.core.drop(range(256), NOW_MS)
    assert not alone.stored(begun).commands


def test_a_log_without_room_refuses_what_begins_and_sends_joiners_round_again() -> None:
    alone = Alone()
    (begun,) = alone.submit().records
    alone.submit(number=2)
    effects = alone.answered((begun, AppendStatus.FULL))
    assert told(effects) == [(1, "REJECTED", "E_DISK_FULL"), (2, "RETRY", "E_NOT_READY")]
    assert alone.core.open_count == 0
    assert alone.submit(number=3).records  # the key is free


def test_a_fenced_append_sends_everybody_to_the_new_owner() -> None:
    alone = Alone()
    (begun,) = alone.submit().records
    alone.submit(number=2)
    (cancel,) = alone.core.cancel(THIRD, "other key", "", NOW_MS).records
    effects = alone.answered((begun, AppendStatus.FENCED), (cancel, AppendStatus.FENCED))
    assert told(effects) == [(1, "RETRY", "E_NOT_READY"), (2, "RETRY", "E_NOT_READY"), (3, "RETRY", "E_NOT_READY")]
    assert effects.fenced == {partition_of_key("k"), partition_of_key("other key")}
    assert alone.core.open_count == 0
    again = alone.answered((begun, AppendStatus.FENCED), (cancel, AppendStatus.STORED))
    assert (again.outcomes, again.fenced) == ([], {partition_of_key("k")})


def test_a_decision_that_the_log_cannot_place_is_an_alarm_and_no_outcome() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    (decided,) = alone.say(prepare, Status.YES).records
    effects = alone.core.appended([(decided, AppendResult(AppendStatus.UNKNOWN))], NOW_MS)
    (notice,) = effects.notices
    assert (notice.event, notice.level, notice.transaction) == ("unknown_to_log", "CRITICAL", decided.transaction)
    assert (effects.outcomes, effects.commands) == ([], {})
    alone.core.drop(range(256), NOW_MS)
    assert not alone.stored(Effects(records=[decided])).commands


def test_a_cancel_by_key_binds_an_unknown_key() -> None:
    alone = Alone()
    effects = alone.core.cancel(WAITER, "k", "", NOW_MS)
    (record,) = effects.records
    assert isinstance(record, CancelledKey)
    assert (record.key, record.at_ms, partition_of(record.transaction)) == ("k", NOW_MS, partition_of_key("k"))
    assert not effects.outcomes
    (outcome,) = outcomes(alone.stored(effects))
    assert (outcome.status, outcome.code, outcome.transaction) == (OutcomeStatus.ABORTED, "E_CANCELLED", record.transaction)
    assert not alone.stored(effects).outcomes


def test_a_cancel_by_key_competes_with_what_the_log_has_under_it() -> None:
    alone = Alone(adopted=[])
    (record,) = alone.core.cancel(WAITER, "q1", "", NOW_MS).records
    effects = alone.core.appended([(record, AppendResult(AppendStatus.BOUND, None, opened(1)))], NOW_MS)
    assert codes(effects) == [("Decided", "E_CANCELLED")]
    assert told(alone.stored(effects)) == [(1, "ABORTED", "E_CANCELLED")]


def test_a_cancel_by_key_is_refused_where_nothing_can_be_stored() -> None:
    alone = Alone()
    (record,) = alone.core.cancel(WAITER, "k", "", NOW_MS).records
    assert told(alone.answered((record, AppendStatus.FULL))) == [(1, "REJECTED", "E_DISK_FULL")]
    assert told(alone.core.cancel(WAITER, "", "", NOW_MS)) == [(1, "REJECTED", "E_INVALID_KEY")]
    alone.core.drop([partition_of_key("k")], NOW_MS)
    assert told(alone.core.cancel(WAITER, "k", "", NOW_MS)) == [(1, "RETRY", "E_NOT_READY")]


def test_a_cancel_by_id_joins_what_runs() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    assert codes(alone.core.cancel(SECOND, "", prepare.transaction, NOW_MS)) == [("Decided", "E_CANCELLED")]


def test_a_cancel_that_came_before_begun_was_durable_is_told_the_outcome() -> None:
    alone = Alone()
    begun = alone.submit()
    alone.core.lookup(SECOND, "k", "", NOW_MS)
    (prepare,) = commands(alone.stored(begun))
    assert told(alone.stored(alone.say(prepare, Status.YES))) == [(1, "COMMITTED", ""), (2, "COMMITTED", "")]


def test_dropping_a_partition_sends_away_its_own_callers_only() -> None:
    alone = Alone()
    alone.begun()
    alone.core.cancel(SECOND, "k", "", NOW_MS)
    (kept,) = alone.core.cancel(THIRD, "other key", "", NOW_MS).records
    effects = alone.core.drop([partition_of_key("k"), 999], NOW_MS)
    assert sorted(told(effects)) == [(1, "RETRY", "E_NOT_READY"), (2, "RETRY", "E_NOT_READY")]
    assert partition_of_key("k") not in alone.core.epochs
    assert told(alone.answered((kept, AppendStatus.STORED))) == [(3, "ABORTED", "E_CANCELLED")]


def test_those_in_doubt_are_told_what_was_decided_and_nothing_before() -> None:
    alone = Alone(saga(step("a")), [opened(1), opened(2, Decision.COMMIT), opened(3, Decision.ABORT)])
    asked = [Inquiry(opened(n).begun.transaction, "a", 2) for n in (1, 2, 3)]
    strange = Inquiry(make_id(1, 9, 1, 9), "a", 1)
    settled, absent = alone.core.inquire([*asked, strange])
    assert [(c.transaction, c.step, c.kind, c.epoch, c.request, c.attempt) for c in settled] == [
        (asked[1].transaction, "a", Kind.COMMIT, 2, b"", 0), (asked[2].transaction, "a", Kind.ROLLBACK, 2, b"", 0)]
    assert absent == [strange]
    alone.core.drop([9], NOW_MS)
    assert alone.core.settling(strange, Decision.ABORT).epoch == 0  # it owns nothing: its word counts nowhere


def test_a_lookup_of_nothing_is_unknown_and_says_what_was_asked_for() -> None:
    alone = Alone()
    (by_key,) = alone.core.lookup(WAITER, "q1", "", NOW_MS).lookups
    assert (by_key.key, by_key.transaction, by_key.joiner.fingerprint) == ("q1", "", None)
    (outcome,) = outcomes(alone.core.loaded(by_key, None, NOW_MS))
    assert (outcome.status, outcome.code, outcome.message) == (OutcomeStatus.REJECTED, "E_UNKNOWN", "no key 'q1' in the log")
    (by_id,) = alone.core.lookup(WAITER, "", "abc", NOW_MS).lookups
    assert outcomes(alone.core.loaded(by_id, None, NOW_MS))[0].message == "no transaction abc in the log"


def test_a_crowded_service_is_named_and_others_go_on() -> None:
    alone = Alone(saga(step("a")), open_max=4)
    first = [alone.begun(number=n, key=f"k{n}") for n in (1, 2)]
    (lookup,) = alone.submit(number=3, key="k3").lookups
    assert (lookup.key, lookup.transaction, lookup.joiner.fingerprint) == ("k3", "", fingerprint_of("sample", encode_plain({})))
    (outcome,) = outcomes(alone.core.loaded(lookup, None, NOW_MS))
    assert (outcome.code, outcome.service, outcome.retry_after_ms) == ("E_OVERLOADED", "A", 10)
    assert alone.core.full_ms == {"sample": 10}
    alone.say(commands(first[0])[0], Status.YES)
    assert alone.core.full_ms == {}
    assert alone.submit(number=3, key="k3").records


def test_ids_rise_whatever_the_clock_and_stay_above_the_watermark() -> None:
    alone = Alone()
    seen = [alone.submit(key="a").records[0].transaction]
    alone.core.watermark_ms = 5_000
    seen.append(alone.submit(key="b").records[0].transaction)
    alone.now_ms -= 900
    alone.core.watermark_ms = 0
    seen += [r.transaction for key in ("c", "d") for r in alone.submit(key=key).records]
    assert [int(i[:12], 16) for i in seen] == [1_000, 5_001, 5_001, 5_001]
    assert [int(i[22:], 16) for i in seen] == [1, 2, 3, 4]
    assert {epoch_of(i) for i in seen} == {1}


def test_begun_carries_the_deadline_and_what_the_key_stands_for() -> None:
    alone = Alone(saga(deadline_ms=7_000, business_key=lambda data: "b" * 300 + str(data.amount)))
    (begun,) = alone.submit(data={"amount": 4}).records
    assert (begun.saga, begun.version, begun.key, begun.input) == ("sample", 1, "k", encode_plain({"amount": 4}))
    assert begun.fingerprint == fingerprint_of("sample", encode_plain({"amount": 4}))
    assert (begun.began_ms, begun.deadline_ms, begun.duration_ms) == (NOW_MS, NOW_MS + 7_000, 7_000)
    assert begun.business_key == "b" * 256
    (begun,) = alone.submit(key="j", duration_ms=50).records
    assert (begun.deadline_ms, begun.duration_ms) == (NOW_MS + 50, 50)


def test_the_next_due_time_is_that_of_the_earliest_timer() -> None:
    alone = Alone()
    assert alone.core.next_due_ms is None
    alone.begun()
    assert alone.core.next_due_ms == NOW_MS + 1_000
    timers = Timers()
    timers.arm("late", 3 * BUCKET_MS)
    timers.arm("early", BUCKET_MS - 1)
    timers.arm("too", BUCKET_MS)
    assert timers.next_ms == BUCKET_MS
    assert timers.due(BUCKET_MS - 1) == []
    assert timers.due(3 * BUCKET_MS) == ["early", "too", "late"]
    assert timers.next_ms is None


def test_forgetting_leaves_a_key_that_is_anothers() -> None:
    table = OpenTable()
    first, second = (Transaction(opened(n).begun, None, 1) for n in (1, 2))
    second.begun = first.begun.__class__(second.id, first.begun.key, b"", "sample", 1, b"", 1, 2, 3)
    table.add(first)
    table.add(second)
    table.forget(first)
    assert (table.find(first.begun.key, ""), table.find("", first.id)) == (second, None)
    table.forget(second)
    table.forget(second)
    assert len(table) == 0
    assert table.find(first.begun.key, "") is None
    table.epochs[5] = 1
    assert table.holds(first.id)
    assert not table.holds(make_id(1, 6, 1, 1))


def test_traffic_counts_each_step_once_and_learns_from_first_attempts() -> None:
    traffic, progress = Traffic(TRAFFIC, [].append), StepProgress(step("a"))
    policy = progress.step.prepare_retry
    progress.attempt = 1
    traffic.sent(progress, 1_000)
    progress.attempt = 2
    traffic.sent(progress, 2_000)
    assert (traffic.crowded(["Z", "A"], 1), traffic.crowded(["A"], 2), progress.sent_ms) == ("A", "", 1_000)
    traffic.answered(progress, 1, 5_000)
    assert traffic.crowded(["A"], 1) == ""
    assert traffic.timeout_ms(progress, policy) == 3 * (5_000 - 1_000) // 8
    traffic.left(progress)
    traffic.sent(progress, 3_000)
    assert traffic.crowded(["A"], 1) == "A"
    for _ in range(50):
        traffic.answered(progress, 1, 100_000)
    assert traffic.timeout_ms(progress, policy) == SLOW_MS_MAX
    parked = StepProgress(step("b"))
    parked.parked = True
    traffic.sent(parked, 1)
    assert traffic.crowded(["B"], 1) == ""


def test_an_answer_to_the_repeat_under_way_earns_repeats_and_older_ones_do_not() -> None:
    def left(attempt: int) -> int:
        traffic, progress = Traffic(TRAFFIC, [].append), StepProgress(step("a"))
        while traffic.may_repeat(progress, 0):
            pass
        progress.attempt = 3
        traffic.answered(progress, attempt, 0)
        return sum(traffic.may_repeat(progress, 0) for _ in range(9))

    assert [left(attempt) for attempt in (1, 2, 3)] == [0, 0, 2]


def test_a_budget_of_repeats_comes_with_time_and_is_bounded() -> None:
    budget = RetryBudget()
    assert sum(budget.take(0) for _ in range(2_000)) == 1_000
    assert sum(budget.take(50) for _ in range(20)) == 5
    assert not budget.take(10)  # a clock that is set back gives nothing, and is not paid for twice
    assert sum(budget.take(60) for _ in range(20)) == 1
    for _ in range(10):
        budget.first()
    assert sum(budget.take(60) for _ in range(20)) == 1
    assert sum(budget.take(10_000_000) for _ in range(2_000)) == 1_000


@pytest.mark.parametrize(("wrong", "told"), [
    ({"backoff_ms": 0}, "backoff_ms"), ({"attempt_timeout_ms": 1.5}, "attempt_timeout_ms"), ({"backoff_ms_max": True}, "_max"),
    ({"attempts_max": -1}, "attempts_max"), ({"attempts_max": 1.0}, "attempts_max")])
def test_a_retry_policy_says_what_is_wrong_with_it(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
    RetryPolicy(attempt_timeout_ms=1, backoff_ms=1, backoff_ms_max=1, attempts_max=0)


def test_delays_are_drawn_from_all_up_to_a_ceiling_that_doubles() -> None:
    policy = RetryPolicy(attempt_timeout_ms=11, backoff_ms=5, backoff_ms_max=17, attempts_max=2)
    drawn = [{policy.delay_ms(attempt, f"{n}") for n in range(500)} for attempt in (1, 2, 3, 4, 90)]
    assert drawn == [set(range(1, top + 1)) for top in (5, 10, 17, 17, 17)]
    assert {policy.postponed_ms(n, "salt") for n in range(500)} == set(range(6, 17))
    assert len({policy.postponed_ms(1, f"{n}") for n in range(500)}) == 11
    assert [policy.exhausted(attempt) for attempt in (1, 2, 3)] == [False, True, True]
    assert not RetryPolicy().exhausted(10**9)


def test_the_newest_version_is_what_begins() -> None:
    one, two, other = saga(), saga(version=2), Saga(name="other", input=Input, steps=[step("a")])
    assert admission.newest([two, one, other]) == {"sample": two, "other": other}
    assert admission.newest([one, two]) == {"sample": two}


def test_a_validator_of_its_own_mind_is_bad_input() -> None:
    class Odd(Input):
        def __init__(self, **data: object) -> None:
            super().__init__(**data)

        @classmethod
        def model_validate(cls, *_: object, **__: object) -> Input:  # type: ignore[override]
            raise ZeroDivisionError

    alone = Alone(Saga(name="sample", input=Odd, steps=[step("a")]))
    effects = alone.submit()
    (lookup,) = effects.lookups
    (outcome,) = outcomes(alone.core.loaded(lookup, None, NOW_MS))
    assert (outcome.code, "ZeroDivisionError" in outcome.message) == ("E_INVALID_INPUT", True)


@pytest.mark.parametrize(("key", "wrong"), [(7, "got int"), ("", "got 0"), ("é" * 129, "got 258"), ("\ud800", "UTF-8")])
def test_what_is_wrong_with_a_key_is_said(key: object, wrong: str) -> None:
    assert wrong in (admission.check_key(key) or "")
    assert admission.check_key("é" * 128) is None


def test_a_hint_grows_with_what_is_open() -> None:
    assert [admission.retry_after_ms(count) for count in (0, 50, 51, 1_000)] == [10, 10, 10, 200]


def test_answers_say_what_to_do() -> None:
    rejected = answers.rejection(WAITER, ErrorCode.OVERLOADED, "full", 30, "A")
    assert (rejected.number, rejected.status, rejected.code, rejected.message, rejected.service, rejected.retry_after_ms) == (
        1, OutcomeStatus.REJECTED, "E_OVERLOADED", "full", "A", 30)
    effects = Effects()
    answers.no_room(effects, WAITER)
    assert told(effects) == [(1, "REJECTED", "E_DISK_FULL")]
    assert "same key" in outcomes(effects)[0].message


def test_the_table_of_transitions_is_this_one() -> None:
    preparing, committing, committed, aborting, aborted = State
    assert {
        (preparing, Event.COMMIT_DURABLE): committing, (preparing, Event.ABORT_DURABLE): aborting,
        (committing, Event.COMMIT_DURABLE): committing, (committing, Event.ALL_ACKNOWLEDGED): committed,
        (aborting, Event.ABORT_DURABLE): aborting, (aborting, Event.ALL_ACKNOWLEDGED): aborted} == TRANSITIONS


def test_fingerprints_are_short_and_tell_names_and_payloads_apart() -> None:
    assert len(fingerprint_of("sample", b"x")) == 16
    assert len({fingerprint_of(name, payload) for name in ("a", "b", "long" * 9) for payload in (b"x", b"y")}) == 6


def test_effects_of_two_calls_are_one() -> None:
    one, two = Effects(), Effects()
    record = Decided("t", Decision.ABORT, 1)
    lookup = Lookup(None, "k", "")  # type: ignore[arg-type]
    for effects in (one, two):
        effects.records.append(record)
        effects.fenced.add(len(two.records))
        effects.lookups.append(lookup)
        effects.notices.append(Notice("retry", "DEBUG", "t"))
        effects.outcomes.append((WAITER, answers.retry(WAITER)))
        effects.command("A", effects)  # type: ignore[arg-type]
    two.command("B", two)  # type: ignore[arg-type]
    two.command("B", one)  # type: ignore[arg-type]
    one.include(two)
    assert one.records == [record, record]
    assert (len(one.notices), len(one.outcomes)) == (2, 2)
    assert (one.fenced, one.lookups) == ({0, 1}, [lookup, lookup])
    assert {service: len(queue) for service, queue in one.commands.items()} == {"A": 2, "B": 2}
