"""What is taken up again: suspects and their trials, marks, inputs that no longer fit, and who asks meanwhile."""

from __future__ import annotations

import msgspec

from orchestrator.protocol.effects import Joiner, Lookup
from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.messages import Inquiry, Kind, Status
from orchestrator.protocol.pacing import AT_A_TIME, TURN_MS, Held, Pacing
from orchestrator.protocol.records import AppendStatus, Decision, Parked, Resolved, StoredTransaction
from orchestrator.protocol.recovery import TRIAL_MS
from orchestrator.protocol.transaction import Transaction
from orchestrator.saga import encode_plain
from unit.core_alone import NOW_MS, WAITER, Alone, codes, commands, opened, outcomes, saga, sent, step, told


def asked(alone: Alone, stored: StoredTransaction | None, *, cancel: bool = False, fingerprint: bytes | None = None):
    """Somebody asks for a transaction that is not open here, and the log knows it."""
    joiner = Joiner(WAITER, fingerprint, cancel=cancel)
    return alone.core.loaded(Lookup(joiner, "q1", ""), stored, NOW_MS)


def test_what_another_shard_holds_is_asked_for_there() -> None:
    alone = Alone()
    alone.core.drop([5], NOW_MS)
    assert told(asked(alone, opened(1))) == [(1, "RETRY", "E_NOT_READY")]
    assert told(asked(alone, opened(1, Decision.ABORT, ended=True))) == [(1, "ABORTED", "E_TIMEOUT")]  # ended is ended
    assert alone.core.open_count == 0


def test_who_means_another_input_is_refused_wherever_it_is_found() -> None:
    alone = Alone()
    for stored in (opened(1), opened(1, Decision.ABORT, ended=True)):
        assert told(asked(alone, stored, fingerprint=b"y")) == [(1, "REJECTED", "E_KEY_CONFLICT")]


def test_what_is_open_in_the_log_is_taken_up_at_once_for_who_asks() -> None:
    alone = Alone()
    effects = asked(alone, opened(1))
    assert sent(effects) == [("a", "PREPARE", 1)]
    assert told(alone.stored(alone.say(commands(effects)[0], Status.YES))) == [(1, "COMMITTED", "")]
    again = asked(alone, opened(1))
    assert (again.commands, again.outcomes) == ({}, [(WAITER, outcomes(again)[0])])


def test_a_cancel_of_what_is_taken_up_competes_at_once() -> None:
    alone = Alone()
    effects = asked(alone, opened(1), cancel=True)
    assert codes(effects) == [("Decided", "E_CANCELLED")]


def test_a_cancel_of_what_waits_for_its_turn_is_heeded_when_that_comes() -> None:
    alone = Alone(adopted=[opened(n) for n in range(1, AT_A_TIME + 2)])
    last = opened(AT_A_TIME + 1).begun.transaction
    assert last not in {c.transaction for c in commands(alone.adopted)}
    assert not alone.core.cancel(WAITER, "", last, NOW_MS).records
    effects = alone.tick(TURN_MS)
    assert ([r.transaction for r in effects.records], codes(effects)) == ([last], [("Decided", "E_CANCELLED")])
    assert not commands(effects)


def test_a_cancel_goes_before_a_deadline_that_passed_meanwhile() -> None:
    alone = Alone(adopted=[opened(n) for n in range(1, AT_A_TIME + 2)])
    last = opened(AT_A_TIME + 1).begun.transaction
    alone.core.cancel(WAITER, "", last, NOW_MS)
    assert [r.code for r in alone.tick(100_000).records if r.transaction == last] == ["E_CANCELLED"]


def test_turns_come_one_after_the_other() -> None:
    alone = Alone(adopted=[opened(n) for n in range(1, 2 * AT_A_TIME + 2)])
    assert len(commands(alone.adopted)) == AT_A_TIME
    assert alone.core.next_due_ms == NOW_MS + TURN_MS
    assert not alone.tick(0).commands
    assert len(commands(alone.tick(TURN_MS))) == AT_A_TIME
    assert len(commands(alone.tick(TURN_MS))) == 1


def test_somebody_who_asks_twice_is_told_once() -> None:
    alone = Alone(adopted=[opened(1, Decision.COMMIT)])
    for _ in range(2):
        alone.core.lookup(WAITER, "q1", "", NOW_MS)
    assert told(alone.say(commands(alone.adopted)[0], Status.ACK)) == [(1, "COMMITTED", "")]


def test_past_its_deadline_an_undecided_one_is_aborted_not_driven() -> None:
    late = opened(1)
    late = msgspec.structs.replace(late, begun=msgspec.structs.replace(late.begun, deadline_ms=NOW_MS))
    alone = Alone(adopted=[late])
    (decided,) = alone.adopted.records
    assert (decided.code, decided.decision, sent(alone.adopted)) == ("E_TIMEOUT", Decision.ABORT, [])
    assert "found after a restart" in decided.message
    assert sent(alone.stored(alone.adopted)) == [("a", "ROLLBACK", 1)]


def test_the_time_left_is_never_more_than_the_whole() -> None:
    far = opened(1)
    far = msgspec.structs.replace(far, begun=msgspec.structs.replace(far.begun, deadline_ms=NOW_MS + 10**9))
    alone = Alone(adopted=[far])
    assert not alone.tick(29_999).records
    assert codes(alone.tick(20)) == [("Decided", "E_TIMEOUT")]
    near = msgspec.structs.replace(far, begun=msgspec.structs.replace(far.begun, deadline_ms=NOW_MS + 400))
    alone = Alone(adopted=[near])
    assert not alone.tick(399).records
    assert codes(alone.tick(20)) == [("Decided", "E_TIMEOUT")]


def test_an_input_that_no_longer_fits_aborts_what_is_undecided_and_finishes_what_is() -> None:
    bad = encode_plain({"amount": "much"})
    alone = Alone(adopted=[opened(1, input=bad), opened(2, Decision.COMMIT, input=bad)])
    assert codes(alone.adopted) == [("Decided", "E_INVALID_INPUT")]
    (commit,) = commands(alone.adopted)
    assert (commit.transaction, commit.kind) == (opened(2).begun.transaction, Kind.COMMIT)


def test_a_quarantined_commit_is_finished_and_its_performs_are_parked() -> None:
    def never(_: object) -> None:
        raise AssertionError("user code runs")

    tell = step("t", "a", after_commit=True, request=never)
    mark = Parked(opened(1).begun.transaction, "", "E_QUARANTINED", "", 1)
    alone = Alone(saga(step("a"), tell), [opened(1, Decision.COMMIT, parked=[mark], input=b"\xc1")])
    (commit,) = commands(alone.adopted)
    effects = alone.say(commit, Status.ACK, result=encode_plain(1))
    assert ([(r.step, r.code) for r in effects.records], sent(effects)) == ([("t", "E_QUARANTINED")], [])
    assert told(alone.core.lookup(WAITER, "q1", "", NOW_MS)) == [(1, "COMMITTED", "")]
    assert not alone.tick(3_600_000).commands
    assert alone.core.open_count == 1


def test_a_step_that_was_parked_stays_so_until_it_is_acknowledged() -> None:
    mark = Parked(opened(1).begun.transaction, "a", "E_VIOLATION", "", 1)
    gone = Parked(opened(1).begun.transaction, "zz", "E_VIOLATION", "", 1)
    alone = Alone(adopted=[opened(1, Decision.COMMIT, parked=[mark, gone])])
    (commit,) = commands(alone.adopted)
    assert not alone.say(commit, Status.VIOLATION, "E_VIOLATION").records
    assert codes(alone.say(commit, Status.ACK)) == [("Parked", ""), ("Ended", "")]


def suspects(*numbers: int, **more) -> Alone:
    return Alone(adopted=[opened(n, recoveries=2, **more) for n in numbers], quarantine_after=2)


def test_below_the_count_nobody_is_suspect() -> None:
    assert sent(Alone(adopted=[opened(1, recoveries=1)], quarantine_after=2).adopted) == [("a", "PREPARE", 1)]
    assert codes(suspects(1).adopted) == [("Parked", "E_SUSPECT")]


def test_a_trial_ends_with_the_decision() -> None:
    alone = suspects(1, 2)
    (prepare,) = commands(alone.stored(alone.adopted))
    assert not alone.tick(TRIAL_MS - 100).records
    deciding = alone.say(prepare, Status.YES)
    assert not alone.tick(20).records
    alone.stored(deciding)
    effects = alone.tick(20)
    assert [(r.transaction, r.code) for r in effects.records] == [
        (opened(1).begun.transaction, ""), (opened(2).begun.transaction, "E_SUSPECT")]
    assert {record.at_ms for record in effects.records} == {alone.now_ms}
    assert not alone.tick(20).records  # the next trial has not begun before its mark is durable


def test_a_trial_of_what_was_decided_lasts_its_time() -> None:
    alone = suspects(1, decision=Decision.COMMIT)
    assert sent(alone.stored(alone.adopted)) == [("a", "COMMIT", 1)]
    assert not alone.tick(TRIAL_MS - 1).records
    assert codes(alone.tick(TURN_MS + 1)) == [("Parked", "")]


def test_one_that_ends_in_its_trial_needs_no_word_and_the_next_one_follows() -> None:
    alone = suspects(1, 2, decision=Decision.COMMIT)
    (commit,) = commands(alone.stored(alone.adopted))
    assert codes(alone.say(commit, Status.ACK)) == [("Ended", "")]
    effects = alone.tick(TURN_MS)
    assert [(r.transaction, r.code) for r in effects.records] == [(opened(2).begun.transaction, "E_SUSPECT")]


def test_other_marks_do_not_begin_a_trial() -> None:
    alone = suspects(1)
    (mark,) = alone.adopted.records
    for other in (msgspec.structs.replace(mark, code="E_VIOLATION"),
                  msgspec.structs.replace(mark, transaction=opened(9).begun.transaction)):
        assert not alone.answered((other, AppendStatus.STORED)).commands
    assert commands(alone.answered((mark, AppendStatus.STORED)))
    assert not alone.answered((Parked("0" * 32, "", "E_SUSPECT", "", 1), AppendStatus.STORED)).commands


def test_suspects_that_are_anothers_by_now_are_passed_over() -> None:
    alone = suspects(1, 2)
    (mark,) = alone.adopted.records
    alone.core.drop([5], NOW_MS)
    assert not alone.answered((mark, AppendStatus.STORED)).commands
    effects = alone.tick(TRIAL_MS + TURN_MS)
    assert (effects.records, effects.commands) == ([], {})
    third = opened(3, recoveries=2)
    effects = alone.core.adopt({5: 3}, [third], alone.now_ms)
    assert [r.transaction for r in effects.records] == [third.begun.transaction]


def test_a_suspect_that_somebody_asks_for_waits_for_its_trial() -> None:
    alone = Alone(quarantine_after=2)
    effects = asked(alone, opened(1, recoveries=2))
    assert (effects.records, effects.commands) == ([], {})
    assert alone.core.open_count == 1


def test_the_saga_of_an_older_version_is_parked_and_settles_nothing() -> None:
    alone = Alone(adopted=[opened(1, Decision.COMMIT, version=9), opened(2, version=9)])
    assert codes(alone.adopted) == [("Parked", "E_UNKNOWN_SAGA")] * 2
    assert {r.step for r in alone.adopted.records} == {""}
    assert [n.level for n in alone.adopted.notices] == ["ERROR", "ERROR", "INFO"]
    (command,), _ = alone.core.inquire([Inquiry(opened(1).begun.transaction, "a", 2)])
    assert command.kind is Kind.COMMIT


def test_a_suspect_of_an_undeployed_saga_is_aborted_when_its_time_is_over() -> None:
    alone = suspects(1, version=9)
    assert codes(alone.stored(alone.adopted)) == [("Parked", "E_UNKNOWN_SAGA")]
    alone.tick(TRIAL_MS + TURN_MS)
    alone.core.drop([5], alone.now_ms)
    late = opened(1, recoveries=2, version=9)
    late = msgspec.structs.replace(late, begun=msgspec.structs.replace(late.begun, deadline_ms=0))
    alone = Alone(adopted=[late], quarantine_after=2)
    alone.stored(alone.adopted)
    effects = alone.tick(TRIAL_MS + TURN_MS)
    assert [(r.code, getattr(r, "step", "")) for r in effects.records] == [("E_TIMEOUT", "")]  # its mark stays: it is parked
    assert (sent(alone.stored(effects)), alone.core.open_count) == ([], 1)


def test_a_version_that_is_deployed_again_is_not_parked_while_it_is_driven() -> None:
    mark = Parked(opened(1).begun.transaction, "", "E_UNKNOWN_SAGA", "", 1)
    alone = Alone(adopted=[opened(1, Decision.COMMIT, parked=[mark])])
    assert [(type(r).__name__, r.step, r.code) for r in alone.adopted.records] == [("Parked", "", "")]
    assert sent(alone.adopted) == [("a", "COMMIT", 1)]


def test_a_suspect_whose_version_is_deployed_again_keeps_the_mark_of_its_trial() -> None:
    mark = Parked(opened(1).begun.transaction, "", "E_UNKNOWN_SAGA", "", 1)
    alone = Alone(adopted=[opened(1, recoveries=2, parked=[mark])], quarantine_after=2)
    assert codes(alone.adopted) == [("Parked", "E_SUSPECT")]
    assert codes(alone.stored(alone.adopted)) == []


def test_a_commit_of_an_undeployed_saga_that_had_ended_is_told_without_results() -> None:
    alone = Alone()
    effects = asked(alone, opened(1, Decision.COMMIT, ended=True, version=9))
    assert (told(effects), outcomes(effects)[0].results) == ([(1, "COMMITTED", "")], [])
    assert alone.core.open_count == 0


def test_what_ended_meanwhile_takes_no_turn() -> None:
    pacing = Pacing()
    held = [Held(Transaction(opened(n).begun, None, 1), opened(n)) for n in (1, 2)]
    pacing.hold(held)
    assert [h.txn for h in pacing.turns(NOW_MS, lambda txn: txn is not held[0].txn)] == [held[1].txn]
    assert pacing.next_ms is None


def test_recovered_says_how_much_there_was() -> None:
    alone = Alone(adopted=[opened(1), opened(2)])
    notice = alone.adopted.notices[-1]
    assert (notice.event, notice.message) == ("recovered", "1 partitions, 2 open transactions")
    assert {partition_of(c.transaction) for c in commands(alone.adopted)} == {5}
    assert {c.epoch for c in commands(alone.adopted)} == {2}


def test_an_assertion_on_a_step_that_the_saga_has_no_more_is_passed_over() -> None:
    resolved = Resolved(opened(1).begun.transaction, "gone", Decision.COMMIT, "ann", "why", 0)
    alone = Alone(adopted=[opened(1, Decision.COMMIT, resolved=[resolved])])
    assert sent(alone.adopted) == [("a", "COMMIT", 1)]
