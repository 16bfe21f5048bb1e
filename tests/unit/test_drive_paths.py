"""One transaction off the beaten track: what is stale, transient, exhausted, parked, refused or already decided."""

from __future__ import annotations

import pytest

from orchestrator.errors import InvariantViolation
from orchestrator.protocol.messages import Kind, Status
from orchestrator.protocol.records import AppendResult, AppendStatus, Decided, Decision
from orchestrator.protocol.retry import RetryPolicy
from orchestrator.saga import RollbackOrder, encode_plain
from unit.core_alone import NOW_MS, WAITER, Alone, codes, commands, opened, outcomes, saga, sent, step, told

ONCE = RetryPolicy(attempt_timeout_ms=100, attempts_max=1)
PATIENT = RetryPolicy(attempt_timeout_ms=100, backoff_ms=10, backoff_ms_max=400, attempts_max=2)
REVERSED = RollbackOrder.REVERSED


def _boom(_: object) -> str:
    raise RuntimeError("boom")


def test_what_was_cancelled_before_it_began_is_aborted_with_nothing_sent() -> None:
    alone = Alone()
    begun = alone.submit()
    alone.core.cancel(WAITER._replace(number=2), "k", "", NOW_MS)
    aborted = alone.stored(begun)
    assert (sent(aborted), codes(aborted), told(aborted)) == ([], [("Decided", "E_CANCELLED")], [])
    ended = alone.stored(aborted)
    assert (sent(ended), codes(ended)) == ([], [("Ended", "")])
    assert told(ended) == [(1, "ABORTED", "E_CANCELLED"), (2, "ABORTED", "E_CANCELLED")]
    assert alone.core.open_count == 0


def test_a_cancel_does_not_overtake_a_decision_on_its_way() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    deciding = alone.say(prepare, Status.YES)
    assert not alone.core.cancel(WAITER._replace(number=2), "k", "", NOW_MS).records
    assert not alone.tick(60_000).records
    commit = alone.stored(deciding)
    assert sent(commit) == [("a", "COMMIT", 1)]
    assert told(commit) == [(1, "COMMITTED", ""), (2, "COMMITTED", "")]
    assert alone.core.cancel(WAITER._replace(number=3), "k", "", NOW_MS).outcomes[0][1].status.name == "COMMITTED"


def test_a_decision_is_obeyed_once_and_never_replaced() -> None:
    alone = Alone(saga(step("a"), step("b")))
    (first, second) = commands(alone.begun())
    alone.say(first, Status.YES)
    deciding = alone.say(second, Status.YES)
    assert len(commands(alone.stored(deciding))) == 2
    again = alone.stored(deciding)
    assert (again.records, again.commands, again.outcomes) == ([], {}, [])
    (decided,) = deciding.records
    other = AppendResult(AppendStatus.STORED, Decided(decided.transaction, Decision.ABORT, 1))
    with pytest.raises(InvariantViolation, match="two decisions"):
        alone.core.appended([(decided, other)], NOW_MS)


def test_the_stored_decision_wins_over_the_proposed_one() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    (decided,) = alone.say(prepare, Status.YES).records
    stored = Decided(decided.transaction, Decision.ABORT, 5, "E_TIMEOUT", "", "A", "a", 3)
    effects = alone.core.appended([(decided, AppendResult(AppendStatus.STORED, stored))], NOW_MS)
    assert sent(effects) == [("a", "ROLLBACK", 1)]
    (outcome,) = outcomes(effects)
    assert (outcome.status.name, outcome.code, outcome.service, outcome.step, outcome.attempts) == (
        "ABORTED", "E_TIMEOUT", "A", "a", 3)


def test_a_reply_of_an_unknown_step_is_told_and_changes_nothing() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    effects = alone.say(prepare, Status.YES, step="z")
    (notice,) = effects.notices
    assert (notice.event, notice.step, effects.records) == ("unknown_step", "z", [])


def test_the_deadline_names_the_step_that_did_not_answer() -> None:
    alone = Alone(saga(step("a"), step("b", "a")))
    (prepare,) = commands(alone.begun(duration_ms=5_000))
    alone.say(prepare, Status.YES)
    assert not alone.tick(4_999).records
    effects = alone.tick(21)
    (decided,) = effects.records
    assert (decided.code, decided.service, decided.step, decided.attempts) == ("E_TIMEOUT", "B", "b", 2)
    assert decided.at_ms == alone.now_ms
    assert "within 5000 ms while step 'b' waited for B" in decided.message
    assert not effects.commands
    assert alone.core.next_due_ms is None or not alone.tick(60_000).commands


def test_the_deadline_blames_a_service_that_was_failing() -> None:
    alone = Alone(saga(step("a"), step("b")))
    (_, failing) = commands(alone.begun(duration_ms=5_000))
    alone.say(failing, Status.ERROR, "E_SERVICE_ERROR", message="boom")
    (decided,) = alone.tick(5_000).records
    assert (decided.code, decided.step) == ("E_SERVICE_UNAVAILABLE", "b")
    assert "last: E_SERVICE_ERROR: boom" in decided.message


def test_who_says_not_yet_is_not_failing() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun(duration_ms=5_000))
    alone.say(prepare, Status.ERROR, "E_SERVICE_ERROR")
    (again,) = commands(alone.tick(100))
    assert again.attempt == 2
    effects = alone.say(again, Status.NOT_YET)
    assert [n.event for n in effects.notices] == ["retry"]
    (decided,) = alone.tick(5_000).records
    assert decided.code == "E_TIMEOUT"


def test_attempts_of_a_prepare_may_be_bounded() -> None:
    silent = Alone(saga(step("a", prepare_retry=ONCE), step("b", prepare_retry=ONCE)))
    silent.begun()
    effects = silent.tick(120)
    (decided,) = effects.records  # one decision, whichever of the two was looked at first
    assert (decided.code, decided.step, decided.attempts, effects.commands) == ("E_SERVICE_UNAVAILABLE", "a", 1, {})
    failing = Alone(saga(step("a", prepare_retry=ONCE)))
    (prepare,) = commands(failing.begun())
    assert codes(failing.say(prepare, Status.ERROR, "E_X")) == [("Decided", "E_SERVICE_UNAVAILABLE")]
    waiting = Alone(saga(step("a", prepare_retry=ONCE)))
    (prepare,) = commands(waiting.begun())
    assert not waiting.say(prepare, Status.NOT_YET).records  # not yet is no failure: it may be asked for ever
    for attempt in (2, 3):
        effects = waiting.tick(5_000)
        assert (sent(effects), effects.records, effects.notices) == ([("a", "PREPARE", attempt)], [], [])
        (prepare,) = commands(effects)
        assert not waiting.say(prepare, Status.NOT_YET).records


@pytest.mark.parametrize("status", [Status.NOT_YET, Status.ERROR])
def test_only_what_was_not_answered_counts_as_timed_out(status: Status) -> None:
    alone = Alone(saga(step("a", finish_retry=PATIENT)), [opened(1, Decision.COMMIT)])
    (commit,) = commands(alone.adopted)
    alone.say(commit, status)
    answered = alone.tick(50)
    assert (sent(answered), [n.event for n in answered.notices]) == ([("a", "COMMIT", 2)], [])
    silent = alone.tick(1_000)
    assert [n.event for n in silent.notices] == ["parked", "attempt_timeout"]


def test_a_transient_answer_counts_for_the_attempt_under_way_only() -> None:
    alone = Alone()
    (first,) = commands(alone.begun())
    late = alone.tick(1_020)
    assert [(n.event, n.step, n.service, n.attempt) for n in late.notices] == [("attempt_timeout", "a", "A", 1)]
    (second,) = commands(late)
    assert (second.kind, second.attempt, second.request) == (Kind.PREPARE, 2, first.request)
    assert not alone.say(first, Status.ERROR, "E_SERVICE_ERROR").notices
    assert alone.say(first, Status.YES).records  # but a vote counts whichever attempt it answers


def test_votes_after_the_vote_are_ignored() -> None:
    alone = Alone(saga(step("a"), step("b")))
    (first, _) = commands(alone.begun())
    alone.say(first, Status.YES)
    assert not alone.say(first, Status.NO, "LATE").records
    assert not alone.say(first, Status.YES).records


@pytest.mark.parametrize("status", [Status.NO, Status.VIOLATION])
def test_a_no_aborts_with_its_code_and_rolls_back_what_was_sent(status: Status) -> None:
    alone = Alone(saga(step("a"), step("b"), step("c", "b")))
    (_, prepare) = commands(alone.begun())
    effects = alone.say(prepare, status, "OUT_OF_STOCK", message="none left")
    (decided,) = effects.records
    assert (decided.code, decided.message, decided.step, decided.service) == ("OUT_OF_STOCK", "none left", "b", "B")
    assert sent(alone.stored(effects)) == [("a", "ROLLBACK", 1), ("b", "ROLLBACK", 1)]


def test_a_no_without_a_code_is_a_violation() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    assert codes(alone.say(prepare, Status.NO)) == [("Decided", "E_VIOLATION")]


def test_a_fenced_sender_asks_who_owns_the_partition_and_does_no_more() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    partition = int(prepare.transaction[12:14], 16)
    effects = alone.say(prepare, Status.FENCED)
    assert (effects.fenced, effects.records, effects.commands) == ({partition}, [], {})
    (commit,) = commands(alone.stored(alone.say(prepare, Status.YES)))
    effects = alone.say(commit, Status.FENCED)
    assert (effects.fenced, effects.records, effects.commands) == ({partition}, [], {})
    assert codes(alone.say(commit, Status.ACK)) == [("Ended", "")]


def test_a_transient_answer_is_followed_by_a_pause() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    alone.say(prepare, Status.ERROR, "E_SERVICE_ERROR")
    assert not alone.tick(0).commands
    assert alone.core.next_due_ms is not None
    assert NOW_MS < alone.core.next_due_ms <= NOW_MS + 60
    (again,) = commands(alone.tick(60))
    (commit,) = commands(alone.stored(alone.say(again, Status.YES)))
    alone.say(commit, Status.ERROR, "E_SERVICE_ERROR")
    assert not alone.tick(0).commands
    assert sent(alone.tick(60)) == [("a", "COMMIT", 2)]


def test_a_service_that_answers_nothing_is_not_sent_repeats_for_ever() -> None:
    alone = Alone(saga(step("a", prepare_retry=RetryPolicy(attempt_timeout_ms=1), finish_retry=RetryPolicy())), open_max=5_000)
    for number in range(1_300):
        alone.begun(number=number, key=f"k{number}", duration_ms=100_000)
    repeated = commands(alone.tick(20))
    assert 1_000 <= len(repeated) <= 1_102  # what is saved up, and what comes with 1,020 ms and with what began
    assert {(c.kind, c.attempt) for c in repeated} == {(Kind.PREPARE, 2)}
    assert all(len(commands(alone.tick(20))) <= 2 for _ in range(3))
    assert 93 <= len(commands(alone.tick(940))) <= 95  # 100 a second


def test_a_finish_without_budget_is_postponed_too() -> None:
    alone = Alone(saga(step("a", finish_retry=RetryPolicy(attempt_timeout_ms=400))), open_max=5_000)
    for number in range(1_100):
        alone.begun(number=number, key=f"k{number}")
    effects = alone.core.tick(alone.now_ms)
    assert not effects.commands
    decided = [r for n in range(1_100) for r in alone.core.cancel(WAITER._replace(number=n), f"k{n}", "", NOW_MS).records]
    alone.answered(*[(record, AppendStatus.STORED) for record in decided])
    first = alone.tick(400)
    assert alone.core.next_due_ms is not None
    assert alone.now_ms + 200 < alone.core.next_due_ms < alone.now_ms + 300  # one half of the time given to an attempt, or more
    assert 1_000 <= len(commands(first)) < 1_100
    assert {(c.kind, c.attempt) for c in commands(first)} == {(Kind.ROLLBACK, 2)}
    assert not alone.tick(180).commands  # half of the time given to an attempt, at least
    sooner = {c.transaction for c in commands(alone.tick(420))}
    assert sooner - {c.transaction for c in commands(first)}


def test_a_finish_is_repeated_until_acknowledged_and_parked_when_nobody_answers() -> None:
    alone = Alone(saga(step("a", finish_retry=PATIENT)))
    (commit,) = commands(alone.committed())
    assert commit.request == b""  # the row has it
    (again,) = commands(alone.tick(120))
    assert (again.kind, again.attempt, again.request) == (Kind.COMMIT, 2, b"")
    parking = alone.tick(120)
    assert sent(parking) == [("a", "COMMIT", 3)]
    assert codes(parking) == [("Parked", "E_SERVICE_UNAVAILABLE")]
    assert "no answer after 2 attempts" in parking.records[0].message
    assert not alone.tick(380).commands  # parked: slowly
    slow = alone.tick(40)
    assert (sent(slow), slow.records) == ([("a", "COMMIT", 4)], [])
    done = alone.say(commit, Status.ACK)
    assert codes(done) == [("Parked", ""), ("Ended", "")]
    assert (done.records[0].message, {record.at_ms for record in done.records}) == ("", {alone.now_ms})
    assert alone.core.open_count == 0


def test_transient_answers_to_a_finish_back_off_and_park_with_their_code() -> None:
    alone = Alone(saga(step("a", finish_retry=PATIENT)))
    (commit,) = commands(alone.committed())
    effects = alone.say(commit, Status.ERROR, "E_SERVICE_ERROR", message="boom")
    assert ([n.event for n in effects.notices], effects.records) == (["retry"], [])
    (second,) = commands(alone.tick(40))
    assert not alone.say(commit, Status.ERROR, "E_SERVICE_ERROR").notices  # of an attempt that is over
    parking = alone.say(second, Status.ERROR, "E_OTHER", message="bang")
    assert [(r.code, r.message, r.step) for r in parking.records] == [("E_OTHER", "bang", "a")]
    assert not alone.tick(380).commands
    (third,) = commands(alone.tick(40))
    assert not alone.say(third, Status.ERROR, "E_OTHER").records  # parked already
    assert not alone.tick(380).commands
    assert sent(alone.tick(40)) == [("a", "COMMIT", 4)]


def test_the_code_of_the_last_answer_is_what_a_silent_step_is_parked_with() -> None:
    alone = Alone(saga(step("a", finish_retry=PATIENT)))
    (commit,) = commands(alone.committed())
    alone.say(commit, Status.ERROR, "E_SERVICE_ERROR", message="boom")
    alone.tick(40)
    (record,) = alone.tick(120).records
    assert (record.code, record.message) == ("E_SERVICE_ERROR", "boom")


def test_a_violation_parks_at_once_and_is_not_repeated() -> None:
    alone = Alone()
    (commit,) = commands(alone.committed())
    effects = alone.say(commit, Status.VIOLATION, "E_VIOLATION", message="met a row ROLLED_BACK")
    assert codes(effects) == [("Parked", "E_VIOLATION")]
    (notice,) = effects.notices
    assert (notice.event, notice.level, notice.service, notice.step, notice.attempt, notice.code, notice.message) == (
        "parked", "ERROR", "A", "a", 1, "E_VIOLATION", "met a row ROLLED_BACK")
    assert not alone.say(commit, Status.VIOLATION, "E_VIOLATION").records
    assert not alone.tick(3_600_000).commands


def test_an_ack_of_another_kind_or_twice_is_ignored() -> None:
    alone = Alone(saga(step("a"), step("b")))
    (first, second) = commands(alone.committed())
    assert not alone.say(first, Status.ACK, kind=Kind.ROLLBACK).records
    assert not alone.say(first, Status.ACK).records
    assert not alone.say(first, Status.ACK).records
    assert codes(alone.say(second, Status.ACK)) == [("Ended", "")]


def test_performs_wait_for_the_results_they_read_and_leave_once() -> None:
    builder = []
    tell = step("t", "a", "b", after_commit=True, request=lambda c: builder.append(dict(c.results)) or {})
    alone = Alone(saga(step("a"), step("b"), tell))
    effects = alone.committed()
    assert sent(effects) == [("a", "COMMIT", 1), ("b", "COMMIT", 1), ("t", "PERFORM", 1)]
    assert builder == [{"a": {"of": "a"}, "b": {"of": "b"}}]
    (first, second, perform) = commands(effects)
    assert perform.request == encode_plain({})
    assert not alone.say(first, Status.ACK).commands
    assert not alone.say(perform, Status.ACK).records
    assert codes(alone.say(second, Status.ACK)) == [("Ended", "")]


def test_after_a_recovery_performs_wait_for_the_acks_that_bring_the_results() -> None:
    tell = step("t", "a", "b", after_commit=True, request=lambda c: [c.results["a"], c.results["b"]])
    alone = Alone(saga(step("a"), step("b"), tell), [opened(1, Decision.COMMIT)])
    (first, second) = commands(alone.adopted)
    assert not alone.say(first, Status.ACK, result=encode_plain(1)).commands
    (perform,) = commands(alone.say(second, Status.ACK, result=encode_plain(2)))
    assert (perform.kind, perform.request, perform.epoch) == (Kind.PERFORM, encode_plain([1, 2]), 2)


def test_a_perform_repeats_its_request_and_a_refusal_parks_it() -> None:
    alone = Alone(saga(step("a"), step("t", "a", after_commit=True, finish_retry=PATIENT)))
    (commit, perform) = commands(alone.committed())
    (_, again) = commands(alone.tick(1_020))
    assert (again.kind, again.attempt, again.request) == (Kind.PERFORM, 2, perform.request)
    assert not alone.say(commit, Status.ACK).records
    parking = alone.say(again, Status.NO, "NO_ADDRESS", message="unknown")
    assert [(r.code, r.step) for r in parking.records] == [("NO_ADDRESS", "t")]
    assert not alone.tick(380).commands
    (slow,) = commands(alone.tick(40))
    assert slow.request == perform.request
    assert codes(alone.say(slow, Status.ACK)) == [("Parked", ""), ("Ended", "")]


def test_a_perform_that_is_refused_is_parked_at_the_first_attempt() -> None:
    alone = Alone(saga(step("a"), step("t", "a", after_commit=True)))
    (_, perform) = commands(alone.committed())
    assert codes(alone.say(perform, Status.NO, "NO_ADDRESS")) == [("Parked", "NO_ADDRESS")]


def test_a_performs_builder_that_raises_is_parked_and_tried_again() -> None:
    tries = []

    def build(_: object) -> dict[str, int]:
        tries.append(1)
        return {} if len(tries) > 2 else _boom(_)  # type: ignore[return-value]

    alone = Alone(saga(step("a"), step("t", "a", after_commit=True, request=build, finish_retry=PATIENT)))
    effects = alone.committed()
    assert codes(effects) == [("Parked", "E_BUILDER_FAILED")]
    assert sent(effects) == [("a", "COMMIT", 1)]
    acked = alone.say(commands(effects)[0], Status.ACK)
    assert (acked.records, acked.commands, len(tries)) == ([], {}, 1)
    assert not alone.tick(390).commands
    assert (alone.tick(30).records, len(tries)) == ([], 2)
    (perform,) = commands(alone.tick(420))
    assert codes(alone.say(perform, Status.ACK)) == [("Parked", ""), ("Ended", "")]


def test_a_reversed_rollback_goes_against_the_order_one_after_the_other() -> None:
    alone = Alone(saga(step("a"), step("b", "a"), step("c", "b"), step("t", "c", after_commit=True), rollback_order=REVERSED))
    (a,) = commands(alone.begun())
    (b,) = commands(alone.say(a, Status.YES))
    (c,) = commands(alone.say(b, Status.YES))
    (last,) = commands(alone.stored(alone.say(c, Status.NO, "NO")))
    assert (last.step, last.kind) == ("c", Kind.ROLLBACK)
    (middle,) = commands(alone.say(last, Status.ACK))
    assert middle.step == "b"
    (first,) = commands(alone.say(middle, Status.ACK))
    assert first.step == "a"
    assert codes(alone.say(first, Status.ACK)) == [("Ended", "")]


def test_a_reversed_rollback_passes_over_what_was_never_sent() -> None:
    alone = Alone(saga(step("a"), step("b", "a"), rollback_order=REVERSED))
    (a,) = commands(alone.begun())
    assert sent(alone.stored(alone.say(a, Status.NO, "NO"))) == [("a", "ROLLBACK", 1)]
    recovered = Alone(saga(step("a"), step("b", "a"), rollback_order=REVERSED), [opened(1, Decision.ABORT)])
    assert sent(recovered.adopted) == [("b", "ROLLBACK", 1)]  # every prepare counts as sent after a recovery


def test_in_a_reversed_rollback_a_parked_step_gives_up_its_place() -> None:
    alone = Alone(saga(step("a"), step("b", "a"), rollback_order=REVERSED))
    (a,) = commands(alone.begun())
    (b,) = commands(alone.say(a, Status.YES))
    (rollback,) = commands(alone.stored(alone.say(b, Status.NO, "NO")))
    effects = alone.say(rollback, Status.VIOLATION, "E_VIOLATION")
    assert (sent(effects), codes(effects)) == ([("a", "ROLLBACK", 1)], [("Parked", "E_VIOLATION")])
    assert not alone.say(commands(effects)[0], Status.ACK).records  # the parked one keeps it open
    assert alone.core.open_count == 1


def test_in_parallel_a_parked_rollback_holds_nobody_up() -> None:
    alone = Alone(saga(step("a"), step("b")), [opened(1, Decision.ABORT)])
    (a, b) = commands(alone.adopted)
    effects = alone.say(a, Status.VIOLATION, "E_VIOLATION")
    assert (effects.commands, codes(effects)) == ({}, [("Parked", "E_VIOLATION")])
    alone.say(b, Status.ACK)
    assert alone.core.open_count == 1


def test_what_had_ended_is_driven_for_its_results_and_recorded_no_more() -> None:
    alone = Alone(saga(step("a"), step("t", "a", after_commit=True)))
    (lookup,) = alone.core.lookup(WAITER, "q1", "", NOW_MS).lookups
    effects = alone.core.loaded(lookup, opened(1, Decision.COMMIT, ended=True), NOW_MS)
    assert (sent(effects), effects.outcomes) == ([("a", "COMMIT", 1)], [])
    ack = alone.say(commands(effects)[0], Status.ACK, result=encode_plain(7))
    assert (told(ack), ack.records, ack.commands) == ([(1, "COMMITTED", "")], [], {})
    assert [(r.step, r.result) for r in outcomes(ack)[0].results] == [("a", encode_plain(7))]
    assert alone.core.open_count == 0


def test_what_had_ended_is_not_parked_again() -> None:
    alone = Alone(saga(step("a")))
    (lookup,) = alone.core.lookup(WAITER, "q1", "", NOW_MS).lookups
    (commit,) = commands(alone.core.loaded(lookup, opened(1, Decision.COMMIT, ended=True), NOW_MS))
    effects = alone.say(commit, Status.VIOLATION, "E_VIOLATION")
    assert (effects.records, effects.notices) == ([], [])
