"""What operators ask of one transaction: on the record first, then done; and never against the decision."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.errors import ErrorCode
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.messages import ActKind, ActRequest, Kind, Status
from orchestrator.protocol.records import (
    Act,
    AppendStatus,
    Decision,
    Pause,
    Pauses,
    Resolved,
)
from orchestrator.protocol.retry import RetryPolicy
from orchestrator.saga import RollbackOrder, encode_plain
from unit.core_alone import NOW_MS, Alone, codes, commands, opened, outcomes, saga, sent, step, told

IMPATIENT = RetryPolicy(backoff_ms=10, backoff_ms_max=10, attempts_max=1)
OPERATOR = Waiter("operator", 9)


def act(alone: Alone, kind: ActKind, transaction: str, step: str = "", *, who: str = "ann", reason: str = "why") -> Effects:
    return alone.core.act(OPERATOR, ActRequest(9, kind, transaction, who, reason, NOW_MS, step), alone.now_ms)


def parked(*steps: str, decision: Decision = Decision.ABORT) -> tuple[Alone, str]:
    """A core with a recovered transaction of one or two steps, of which these are parked."""
    alone = Alone(saga(step("a", finish_retry=IMPATIENT), step("b", finish_retry=IMPATIENT)), [opened(1, decision)])
    kind = Kind.ROLLBACK if decision is Decision.ABORT else Kind.COMMIT
    for command in commands(alone.adopted):
        assert command.kind is kind
        if command.step in steps:
            alone.stored(alone.say(command, Status.ERROR, "E_BROKEN"))
        else:
            alone.stored(alone.say(command, Status.ACK))
    return alone, opened(1).begun.transaction


def test_an_act_is_durable_before_it_is_done() -> None:
    alone, txn = parked("a")
    asked = act(alone, ActKind.RETRY, txn)
    assert asked.records == [Act(txn, ActKind.RETRY, "ann", "why", NOW_MS)]
    assert commands(asked) == []
    assert asked.outcomes == []
    done = alone.stored(asked)
    assert sent(done) == [("a", "ROLLBACK", 2)]
    assert told(done) == [(9, "ACTED", "")]
    assert outcomes(done)[0].attempts == 1


def test_retry_keeps_a_step_parked_and_its_success_takes_it_up() -> None:
    alone, txn = parked("a")
    (again,) = commands(alone.stored(act(alone, ActKind.RETRY, txn)))
    assert alone.say(again, Status.ERROR, "E_BROKEN").records == []  # parked it is already
    (once_more,) = commands(alone.stored(act(alone, ActKind.RETRY, txn, reason="mended")))
    assert codes(alone.say(once_more, Status.ACK)) == [("Parked", ""), ("Ended", "")]


def test_retry_of_a_violation_is_tried_once() -> None:
    alone = Alone(saga(step("a")), [opened(1, Decision.COMMIT)])
    (commit,) = commands(alone.adopted)
    alone.stored(alone.say(commit, Status.VIOLATION))
    assert alone.tick(60_000).commands == {}
    assert sent(alone.stored(act(alone, ActKind.RETRY, commit.transaction))) == [("a", "COMMIT", 2)]


def test_retry_of_a_prepare_never_gives_up() -> None:
    alone = Alone(saga(step("a", prepare_retry=RetryPolicy(attempts_max=1))))
    (prepare,) = commands(alone.begun())
    assert sent(alone.stored(act(alone, ActKind.RETRY, prepare.transaction))) == [("a", "PREPARE", 2)]


def test_cancel_competes_with_the_decision_and_is_told_which_won() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    proposed = alone.stored(act(alone, ActKind.CANCEL, prepare.transaction))
    assert codes(proposed) == [("Decided", ErrorCode.CANCELLED)]
    assert (9, "ABORTED", "E_CANCELLED") in told(alone.stored(proposed))


def test_cancel_of_what_is_decided_leaves_no_record() -> None:
    alone, txn = parked("a")
    effects = act(alone, ActKind.CANCEL, txn)
    assert effects.records == []
    assert told(effects) == [(9, "ABORTED", "E_TIMEOUT")]


@pytest.mark.parametrize(("decision", "kind"), [(Decision.ABORT, "ROLLBACK"), (Decision.COMMIT, "COMMIT")])
def test_a_resolved_step_counts_as_acknowledged_and_is_repeated_until_its_ledger_agrees(decision: Decision, kind: str) -> None:
    alone, txn = parked("a", decision=decision)
    asked = act(alone, ActKind.RESOLVE, txn, "a")
    assert asked.records == [Resolved(txn, "a", decision, "ann", "why", NOW_MS)]
    done = alone.stored(asked)
    assert codes(done) == [("Ended", "")]
    assert told(done) == [(9, "ACTED", "")]
    alone.stored(done)
    assert alone.core.open_count == 0  # it has ended, and is held all the same
    repeated = alone.tick(5_000)
    assert sent(repeated) == [("a", kind, 2)]
    assert repeated.records == []
    (command,) = commands(repeated)
    assert codes(alone.say(command, Status.ACK)) == [("Parked", "")]  # the ledger agrees
    assert alone.tick(60_000).commands == {}


def test_others_are_waited_for() -> None:
    alone, txn = parked("a", "b")
    assert codes(alone.stored(act(alone, ActKind.RESOLVE, txn, "a"))) == []
    assert codes(alone.stored(act(alone, ActKind.RESOLVE, txn, "b"))) == [("Ended", "")]


def test_a_resolution_holds_after_a_restart() -> None:
    before = opened(1, Decision.ABORT)
    txn = before.begun.transaction
    resolved = Resolved(txn, "a", Decision.ABORT, "ann", "why", 0)
    alone = Alone(saga(step("a", finish_retry=IMPATIENT), step("b")), [opened(1, Decision.ABORT, resolved=[resolved])])
    first, second = commands(alone.adopted)
    assert alone.say(first, Status.ERROR, "E_BROKEN").records == []  # it is never parked again
    assert codes(alone.say(second, Status.ACK)) == [("Ended", "")]
    (again,) = commands(alone.tick(5_000))
    assert codes(alone.say(again, Status.ACK)) == [("Parked", "")]


def test_one_that_has_ended_is_taken_up_until_its_ledger_agrees() -> None:
    resolved = Resolved(opened(1).begun.transaction, "a", Decision.COMMIT, "ann", "why", 0)
    alone = Alone(saga(step("a"), step("n", after_commit=True)), [opened(1, Decision.COMMIT, ended=True, resolved=[resolved])])
    (commit,) = commands(alone.adopted)  # and nothing is performed again
    assert codes(alone.say(commit, Status.ACK)) == [("Parked", "")]
    assert alone.core.open_count == 0


def test_an_acknowledgement_that_overtakes_the_resolution() -> None:
    alone, txn = parked("a")
    (again,) = commands(alone.tick(5_000))
    asked = act(alone, ActKind.RESOLVE, txn, "a")
    assert codes(alone.say(again, Status.ACK)) == [("Parked", ""), ("Ended", "")]
    late = alone.stored(asked)
    assert late.records == []
    assert [lookup.transaction for lookup in late.lookups] == [txn]  # whoever asked is told how it ended


def test_a_perform_that_was_resolved_is_not_repeated() -> None:
    definition = saga(step("a"), step("n", "a", after_commit=True, finish_retry=IMPATIENT))
    alone = Alone(definition, [opened(1, Decision.COMMIT)])
    (commit,) = commands(alone.adopted)
    (perform,) = commands(alone.say(commit, Status.ACK))
    alone.stored(alone.say(perform, Status.NO, "NOBODY"))
    asked = act(alone, ActKind.RESOLVE, commit.transaction, "n")
    assert asked.records[0].awaited is False
    assert codes(alone.stored(asked)) == [("Ended", "")]
    assert alone.core.open_count == 0


def test_a_perform_whose_results_stay_unknown_is_parked_and_can_be_resolved() -> None:
    definition = saga(step("a", finish_retry=IMPATIENT), step("n", "a", after_commit=True))
    alone = Alone(definition, [opened(1, Decision.COMMIT)])
    (commit,) = commands(alone.adopted)
    alone.stored(alone.say(commit, Status.ERROR, "E_BROKEN"))
    waits = alone.stored(act(alone, ActKind.RESOLVE, commit.transaction, "a"))
    assert codes(waits) == [("Parked", ErrorCode.SERVICE_UNAVAILABLE)]
    alone.stored(waits)
    assert sent(alone.stored(act(alone, ActKind.RETRY, commit.transaction))) == [("a", "COMMIT", 2)]  # nothing is made up
    assert codes(alone.stored(act(alone, ActKind.RESOLVE, commit.transaction, "n"))) == [("Ended", "")]


def test_a_perform_that_waited_for_a_resolved_step_goes_once_that_answers() -> None:
    definition = saga(step("a", finish_retry=IMPATIENT), step("n", "a", after_commit=True))
    alone = Alone(definition, [opened(1, Decision.COMMIT)])
    (commit,) = commands(alone.adopted)
    alone.stored(alone.say(commit, Status.ERROR, "E_BROKEN"))
    alone.stored(alone.stored(act(alone, ActKind.RESOLVE, commit.transaction, "a")))
    late = alone.say(commit, Status.ACK, result=b"\x80")
    assert codes(late) == [("Parked", "")]
    (perform,) = commands(late)
    assert codes(alone.say(perform, Status.ACK)) == [("Parked", ""), ("Ended", "")]


def test_what_is_undecided_cannot_be_resolved() -> None:
    alone = Alone()
    (prepare,) = commands(alone.begun())
    effects = act(alone, ActKind.RESOLVE, prepare.transaction, "a")
    assert effects.records == []
    assert told(effects) == [(9, "REJECTED", ErrorCode.NOT_RESOLVABLE)]
    assert "cancel" in outcomes(effects)[0].message


def test_what_is_not_parked_cannot_be_resolved() -> None:
    alone, txn = parked("a")
    assert told(act(alone, ActKind.RESOLVE, txn, "b")) == [(9, "REJECTED", ErrorCode.NOT_RESOLVABLE)]
    assert told(act(alone, ActKind.RESOLVE, txn, "zoo")) == [(9, "REJECTED", ErrorCode.INVALID_INPUT)]


def test_what_the_log_refuses_is_refused() -> None:
    alone, txn = parked("a")
    asked = act(alone, ActKind.RESOLVE, txn, "a")
    assert told(alone.answered((asked.records[0], AppendStatus.REFUSED))) == [(9, "REJECTED", ErrorCode.NOT_RESOLVABLE)]
    assert alone.core.open_count == 1


def test_a_second_resolution_changes_nothing() -> None:
    alone, txn = parked("a", "b")
    alone.stored(act(alone, ActKind.RESOLVE, txn, "a"))
    again = act(alone, ActKind.RESOLVE, txn, "a", who="bob")
    assert again.records == []
    assert told(again) == [(9, "ACTED", "")]


@pytest.mark.parametrize("fenced", [True, False])
def test_a_shard_that_lost_the_partition_sends_the_operator_away(fenced: bool) -> None:
    alone, txn = parked("a")
    asked = act(alone, ActKind.RETRY, txn)
    effects = alone.answered((asked.records[0], AppendStatus.FENCED)) if fenced else alone.core.drop([5], alone.now_ms)
    assert told(effects) == [(9, "RETRY", ErrorCode.NOT_READY)]


def test_what_has_ended_or_is_unknown_is_looked_up() -> None:
    effects = act(Alone(), ActKind.RETRY, opened(7).begun.transaction)
    assert [lookup.transaction for lookup in effects.lookups] == [opened(7).begun.transaction]


@pytest.mark.parametrize(("who", "reason"), [("", "why"), ("x" * 257, "why"), ("ann", "x" * 1_001)])
def test_who_and_why_are_bounded(who: str, reason: str) -> None:
    alone, txn = parked("a")
    assert told(act(alone, ActKind.RETRY, txn, who=who, reason=reason)) == [(9, "REJECTED", ErrorCode.INVALID_INPUT)]


def test_reversed_rollback_goes_past_a_resolved_step() -> None:
    definition = saga(step("a"), step("b", "a", finish_retry=IMPATIENT), rollback_order=RollbackOrder.REVERSED)
    alone = Alone(definition, [opened(1, Decision.ABORT)])
    (rollback,) = commands(alone.adopted)
    told_off = alone.say(rollback, Status.ERROR, "E_BROKEN")
    alone.stored(told_off)
    (other,) = commands(told_off)
    alone.say(other, Status.ACK)
    assert codes(alone.stored(act(alone, ActKind.RESOLVE, rollback.transaction, "b"))) == [("Ended", "")]


def pause(*paused: tuple[str, str], version: int = 1) -> Pauses:
    return Pauses(version, [Pause(saga_name, service, "ann", "repairs", 0) for saga_name, service in paused])


@pytest.mark.parametrize("paused", [("sample", ""), ("", "A")])
def test_a_pause_refuses_what_is_new_and_answers_repeats(paused: tuple[str, str]) -> None:
    alone = Alone(saga(step("a")))
    running = alone.begun(key="old")
    alone.core.pause(pause(paused), NOW_MS)
    (lookup,) = alone.submit(2, "new").lookups  # only the log knows whether it is a repeat
    refused = lookup.otherwise
    assert refused is not None
    assert (refused.code, refused.retry_after_ms > 0) == (ErrorCode.PAUSED, True)
    assert "ann" in refused.message
    assert alone.submit(3, "old").lookups == []  # joins
    assert codes(alone.say(commands(running)[0], Status.YES)) == [("Decided", "")]  # what is open goes on
    alone.core.pause(Pauses(2, []), NOW_MS)
    assert alone.core.pauses.version == 2
    assert codes(alone.submit(4, "new")) == [("Begun", "")]


def test_a_pause_of_something_else_changes_nothing() -> None:
    alone = Alone()
    alone.core.pause(pause(("other", ""), ("", "OTHER")), NOW_MS)
    assert codes(alone.submit()) == [("Begun", "")]


def test_an_older_saying_on_pauses_is_ignored() -> None:
    alone = Alone()
    alone.core.pause(Pauses(2, []), NOW_MS)
    alone.core.pause(pause(("sample", "")), NOW_MS)
    assert codes(alone.submit()) == [("Begun", "")]


def test_to_a_paused_service_nothing_is_prepared_or_performed_and_holds_are_ended() -> None:
    alone = Alone(saga(step("a"), step("b", "a"), step("n", after_commit=True)))
    (first,) = commands(alone.begun())
    alone.core.pause(pause(("", "B")), NOW_MS)
    assert sent(alone.say(first, Status.YES)) == []  # b would be next
    assert sent(alone.tick(1_000)) == []
    alone.core.pause(Pauses(2, []), alone.now_ms)
    (second,) = commands(alone.tick(1_000))
    assert (second.step, second.attempt) == ("b", 1)
    alone.core.pause(pause(("", "B"), ("", "N"), version=3), alone.now_ms)
    decided = alone.say(second, Status.YES)
    assert sorted(sent(alone.stored(decided))) == [("a", "COMMIT", 1), ("b", "COMMIT", 1)]
    alone.core.pause(Pauses(4, []), alone.now_ms)
    assert ("n", "PERFORM", 1) in sent(alone.tick(1_000))


def test_an_abort_for_a_pause_says_so() -> None:
    alone = Alone(saga(step("a"), step("b", "a")))
    (first,) = commands(alone.begun(duration_ms=5_000))
    alone.core.pause(pause(("", "B")), NOW_MS)
    alone.say(first, Status.YES)
    effects = alone.tick(6_000)
    assert codes(effects) == [("Decided", ErrorCode.SERVICE_UNAVAILABLE)]
    assert "paused" in effects.records[0].message


def test_what_waits_for_an_operator_keeps_nothing_new_out() -> None:
    alone = Alone(saga(step("a", finish_retry=IMPATIENT)), [opened(n, Decision.COMMIT) for n in range(1, 11)], open_max=10)
    assert alone.submit(key="too much").records == []
    for command in commands(alone.adopted):
        alone.stored(alone.say(command, Status.ERROR, "E_BROKEN"))
    assert [len(alone.submit(number=n, key=f"n{n}").records) for n in range(10)] == [1] * 9 + [0]  # ten take one place
    assert alone.core.open_count == 19


def test_one_that_gets_on_again_takes_its_place_again() -> None:
    alone = Alone(
        saga(step("a", finish_retry=IMPATIENT), step("n", "a", after_commit=True)), [opened(1, Decision.COMMIT)], open_max=1)
    alone.stored(alone.say(commands(alone.adopted)[0], Status.ERROR, "E_BROKEN"))
    (again,) = commands(alone.tick(5_000))
    alone.say(again, Status.ACK, result=encode_plain({}))  # what follows on it is sent
    assert alone.submit(key="too much").records == []


def test_what_has_ended_and_waits_for_a_ledger_takes_no_place() -> None:
    held = [opened(n, Decision.ABORT, ended=True) for n in range(1, 11)]
    held = [msgspec.structs.replace(one, resolved=[
        Resolved(one.begun.transaction, "a", Decision.ABORT, "ann", "why", 0)]) for one in held]
    alone = Alone(saga(step("a", finish_retry=IMPATIENT)), held, open_max=10)
    assert alone.core.open_count == 0
    assert [type(r).__name__ for r in alone.submit().records] == ["Begun"]


def test_a_perform_does_not_read_what_nobody_told() -> None:
    alone = Alone(saga(
        step("a"), step("n", after_commit=True, finish_retry=IMPATIENT), step("m", "n", after_commit=True)))
    commit, perform = commands(alone.committed())
    alone.say(commit, Status.ACK)
    alone.stored(alone.say(perform, Status.NO, "E_NO"))
    resolved = alone.stored(act(alone, ActKind.RESOLVE, commit.transaction, "n"))
    assert (sent(resolved), codes(resolved)) == ([], [("Parked", "E_SERVICE_UNAVAILABLE")])


@pytest.mark.parametrize(("kind", "who", "said"), [
    (ActKind.RETRY, "", "who: must be text"), (ActKind.PAUSE, "ann", "kind: PAUSE is no act on one")])
def test_what_is_no_act_on_a_transaction_is_refused(kind: ActKind, who: str, said: str) -> None:
    alone, txn = parked("a")
    refused = act(alone, kind, txn, who=who)
    assert told(refused) == [(9, "REJECTED", "E_INVALID_INPUT")]
    assert said in outcomes(refused)[0].message
    assert refused.records == []


def test_two_operators_who_ask_alike_are_both_told() -> None:
    alone, txn = parked("a")
    first, second = act(alone, ActKind.RETRY, txn), act(alone, ActKind.RETRY, txn)
    assert (len(first.records), second.records) == (1, [])
    assert told(alone.stored(first)) == [(9, "ACTED", "")] * 2


def test_a_suspect_that_is_not_driven_yet_is_resolved_later() -> None:
    alone = Alone(adopted=[opened(1, Decision.COMMIT, recoveries=2)], quarantine_after=2)
    asked = act(alone, ActKind.RESOLVE, opened(1).begun.transaction, "a")
    assert told(asked) == [(9, "RETRY", "E_NOT_READY")]


def test_the_service_was_quicker_than_the_resolution() -> None:
    alone, txn = parked("a", "b")
    again = [command for command in commands(alone.tick(5_000)) if command.step == "a"]
    asked = act(alone, ActKind.RESOLVE, txn, "a")
    alone.stored(alone.say(again[0], Status.ACK))
    done = alone.stored(asked)
    assert (codes(done), told(done)) == ([], [(9, "ACTED", "")])
    assert alone.core.open_count == 1  # b is parked still, and a counts once


def test_what_has_not_begun_durably_cannot_be_acted_on_yet() -> None:
    alone = Alone()
    (begun,) = alone.submit().records
    assert told(act(alone, ActKind.CANCEL, begun.transaction)) == [(9, "RETRY", "E_NOT_READY")]
