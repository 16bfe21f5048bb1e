"""The coordinator at its borders: what is refused before anything is logged, and what a transition must not do."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from pydantic import BaseModel, StrictInt

from orchestrator.errors import InvariantViolation
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.identifiers import (
    began_ms_of,
    epoch_of,
    fingerprint_of,
    is_id,
    make_id,
    partition_of,
    partition_of_key,
)
from orchestrator.protocol.messages import Kind, OutcomeStatus, Reply, Status, SubmitRequest
from orchestrator.protocol.records import AppendResult, AppendStatus, Begun, Decided, Decision, Parked, State, StoredTransaction
from orchestrator.protocol.retry import RetryPolicy
from orchestrator.protocol.transaction import TRANSITIONS, Event, Transaction
from orchestrator.saga import Saga, Step, encode_plain

WAITER = Waiter("client", 1)


class Input(BaseModel):
    amount: StrictInt = 1


def _boom(_: object) -> str:
    raise RuntimeError("boom")


def saga(**more) -> Saga:
    more.setdefault("steps", [Step(name="a", service="s", request=lambda ctx: {}, compensation="undo")])
    return Saga(name="sample", input=Input, **more)


def core_of(definition: Saga | None = None, **more) -> Coordinator:
    definition = definition or saga()
    core = Coordinator({(definition.name, definition.version): definition}, open_max=more.pop("open_max", 10), **more)
    core.adopt(dict.fromkeys(range(256), 1), [], 1_000)
    return core


def refusal(core: Coordinator, effects: Effects):
    """The answer once the log has said that it does not know the key either."""
    assert not effects.records
    assert not effects.commands
    if effects.lookups:
        (lookup,) = effects.lookups
        assert not effects.outcomes
        effects = core.loaded(lookup, None, 1_000)
    (_, outcome), = effects.outcomes
    return outcome


def submit(core: Coordinator, **more) -> Effects:
    request = SubmitRequest(**({"number": 1, "key": "k", "saga": "sample", "input": encode_plain({}), "duration_ms": 0} | more))
    return core.submit([(WAITER, request)], 1_000)


@pytest.mark.parametrize(("request_", "code"), [
    ({"key": ""}, "E_INVALID_KEY"),
    ({"key": "x" * 257}, "E_INVALID_KEY"),
    ({"key": "\ud800"}, "E_INVALID_KEY"),
    ({"saga": "other"}, "E_UNKNOWN_SAGA"),
    ({"input": encode_plain({"amount": 1.5})}, "E_INVALID_INPUT"),
    ({"input": b"\xc1"}, "E_INVALID_INPUT"),
    ({"duration_ms": -1}, "E_INVALID_INPUT"),
    ({"duration_ms": 86_400_001}, "E_INVALID_INPUT"),
    ({"traceparent": "00-nonsense"}, "E_INVALID_INPUT"),
])
def test_bad_submits_are_refused_with_nothing_logged(request_, code: str) -> None:
    core = core_of()
    outcome = refusal(core, submit(core, **request_))
    assert (outcome.status, outcome.code) == (OutcomeStatus.REJECTED, code)
    assert core.open_count == 0


def test_a_business_key_function_that_raises_is_bad_input() -> None:
    core = core_of(saga(business_key=_boom))
    assert refusal(core, submit(core)).code == "E_INVALID_INPUT"


def test_admission_limit_names_when_to_come_back() -> None:
    core = core_of(open_max=1)
    assert not core.full_ms
    submit(core, key="one")
    outcome = refusal(core, submit(core, key="two"))
    assert outcome.code == "E_OVERLOADED"
    assert outcome.retry_after_ms == core.full_ms["sample"] > 0


def test_nothing_is_sent_before_begun_is_durable() -> None:
    core = core_of()
    effects = submit(core)
    (begun,) = effects.records
    assert isinstance(begun, Begun)
    assert not effects.commands
    assert core.appended([(begun, AppendResult(AppendStatus.STORED))], 1_001).commands["s"]


def test_the_place_in_a_trace_is_durable_and_no_part_of_the_fingerprint() -> None:
    core = core_of()
    place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    (begun,) = submit(core, traceparent=place).records
    assert isinstance(begun, Begun)
    assert begun.traceparent == place
    assert begun.fingerprint == fingerprint_of("sample", encode_plain({}))
    effects = submit(core, number=2, traceparent=place.replace("4bf", "5bf"))  # the same transaction, in the first one's trace
    assert not effects.records
    core.appended([(begun, AppendResult(AppendStatus.STORED))], 1_001)
    assert core.open_count == 1


def test_the_same_key_joins_and_another_input_conflicts() -> None:
    core = core_of()
    (begun,) = submit(core).records
    assert not submit(core, number=2).outcomes
    assert not submit(core, number=3, input=encode_plain({"amount": 9})).outcomes  # nobody knows yet whose the key is
    (_, outcome), = core.appended([(begun, AppendResult(AppendStatus.STORED))], 1_001).outcomes
    assert outcome.code == "E_KEY_CONFLICT"
    (_, outcome), = submit(core, number=4, input=encode_plain({"amount": 8})).outcomes
    assert outcome.code == "E_KEY_CONFLICT"
    assert core.open_count == 1


def test_a_builder_that_raises_aborts_before_the_decision() -> None:
    core = core_of(saga(steps=[Step(name="a", service="s", request=_boom, compensation="undo")]))
    (begun,) = submit(core).records
    (decided,) = core.appended([(begun, AppendResult(AppendStatus.STORED))], 1_001).records
    assert (decided.decision, decided.code) == (Decision.ABORT, "E_BUILDER_FAILED")


def test_a_partition_not_held_is_never_unknown_so_aborted() -> None:
    core = core_of()
    core.drop([partition_of_key("k")], 1_000)
    (_, outcome), = submit(core).outcomes
    assert outcome.status is OutcomeStatus.RETRY


def stored(number: int, **more) -> StoredTransaction:
    begun = Begun(make_id(900, 5, 1, number), f"q{number}", b"x", "sample", 1, encode_plain({}), 900, 90_000, 30_000)
    return StoredTransaction(begun, State.PREPARING, **more)


def done(effects: Effects, core: Coordinator, now_ms: int = 1_001) -> Effects:
    """The log stores all records of an effects."""
    return core.appended([(r, AppendResult(AppendStatus.STORED)) for r in effects.records], now_ms)


def test_suspects_are_tried_one_at_a_time_and_innocent_ones_go_on(occurred) -> None:
    core = core_of(quarantine_after=2)
    effects = core.adopt({5: 2}, [stored(1, recoveries=2), stored(2, recoveries=2), stored(3, recoveries=1)], 1_000)
    assert {c.transaction for c in effects.commands["s"]} == {stored(3).begun.transaction}
    (mark,) = effects.records
    assert (mark.transaction, mark.code) == (stored(1).begun.transaction, "E_SUSPECT")
    effects = done(effects, core)
    assert [c.transaction for c in effects.commands["s"]] == [stored(1).begun.transaction]
    effects = core.tick(5_000)  # it survived its trial
    assert [(r.transaction, r.code) for r in effects.records] == [
        (stored(1).begun.transaction, ""), (stored(2).begun.transaction, "E_SUSPECT")]
    occurred("75")


def test_a_suspect_is_not_driven_before_its_mark_is_durable() -> None:
    core = core_of(quarantine_after=2)
    (mark,) = core.adopt({5: 2}, [stored(1, recoveries=2)], 1_000).records
    assert not core.appended([(mark, AppendResult(AppendStatus.UNKNOWN))], 1_001).commands
    assert core.appended([(mark, AppendResult(AppendStatus.STORED))], 1_002).commands


def test_who_was_tried_alone_when_the_shard_crashed_is_quarantined_for_good(occurred) -> None:
    core = core_of(quarantine_after=2)
    mark = Parked(stored(1).begun.transaction, "", "E_SUSPECT", "", 1)
    effects = core.adopt({5: 2}, [stored(1, recoveries=1, parked=[mark])], 1_000)
    assert not effects.commands
    assert [getattr(r, "code", "") for r in effects.records] == ["E_QUARANTINED", "E_QUARANTINED"]
    again = core_of(quarantine_after=2)
    sticky = msgspec.structs.replace(mark, code="E_QUARANTINED")
    effects = again.adopt({5: 2}, [stored(1, recoveries=1, parked=[sticky])], 1_000)
    assert not effects.commands
    assert effects.records[0].decision is Decision.ABORT
    occurred("75")


def test_a_repeat_of_an_accepted_submit_is_never_refused() -> None:
    core = core_of(open_max=1)
    submit(core, key="another")
    (lookup,) = submit(core).lookups  # full: but the log may know the key
    request = SubmitRequest(1, "k", "sample", encode_plain({}), 0)
    begun = Begun(make_id(900, 5, 1, 1), "k", fingerprint_of("sample", request.input), "sample", 1, request.input, 1, 2, 3)
    ended = StoredTransaction(begun, State.ABORTED, Decided(begun.transaction, Decision.ABORT, 5, "OUT_OF_STOCK"), 6)
    (_, outcome), = core.loaded(lookup, ended, 1_000).outcomes
    assert (outcome.status, outcome.code) == (OutcomeStatus.ABORTED, "OUT_OF_STOCK")


def test_a_key_that_another_tries_to_take_is_not_refused_to_its_owner() -> None:
    core = core_of()
    (rival,) = submit(core, number=1, input=encode_plain({"amount": 2})).records
    submit(core, number=2)
    core.lookup(Waiter("client", 3), "k", "", 1_000)
    mine = fingerprint_of("sample", encode_plain({}))
    begun = Begun(make_id(900, 5, 1, 1), "k", mine, "sample", 1, encode_plain({}), 1, 2, 3)
    ended = StoredTransaction(begun, State.ABORTED, Decided(begun.transaction, Decision.ABORT, 5, "OUT_OF_STOCK"), 6)
    effects = core.appended([(rival, AppendResult(AppendStatus.CONFLICT, stored=ended))], 1_001)
    assert [outcome.code for _, outcome in effects.outcomes] == ["E_KEY_CONFLICT", "OUT_OF_STOCK", "OUT_OF_STOCK"]


def test_a_moved_partition_sends_its_waiters_away() -> None:
    core = core_of()
    (begun,) = submit(core).records
    core.appended([(begun, AppendResult(AppendStatus.STORED))], 1_001)
    core.cancel(Waiter("client", 7), "unknown key", "", 1_001)
    effects = core.drop(range(256), 1_002)
    assert {(w.number, o.status) for w, o in effects.outcomes} == {(1, OutcomeStatus.RETRY), (7, OutcomeStatus.RETRY)}


def test_a_parked_perform_is_taken_up_after_a_restart() -> None:
    tell = Step(name="t", service="t", request=lambda _: {}, after=["a"], after_commit=True)
    core = core_of(saga(steps=[Step(name="a", service="s", request=lambda _: {}, compensation="undo"), tell]))
    mark = Parked(stored(1).begun.transaction, "t", "E_SERVICE_UNAVAILABLE", "", 1)
    decided = Decided(stored(1).begun.transaction, Decision.COMMIT, 5)
    open_ = msgspec.structs.replace(stored(1), state=State.COMMITTING, decided=decided, parked=[mark])
    effects = core.adopt({5: 2}, [open_], 1_000)
    (commit,) = effects.commands["s"]
    ack = Reply(commit.transaction, "a", Kind.COMMIT, 1, Status.ACK)
    (perform,) = core.receive([ack], 1_001).commands["t"]
    assert perform.kind is Kind.PERFORM


def test_an_ended_transaction_below_the_watermark_is_told_without_being_driven() -> None:
    core = core_of()
    core.watermark_ms = 2_000
    lookup = core.lookup(WAITER, "q1", "", 1_000).lookups[0]
    decided = Decided(stored(1).begun.transaction, Decision.COMMIT, 5)
    ended = msgspec.structs.replace(stored(1), state=State.COMMITTED, decided=decided, ended_ms=6)
    effects = core.loaded(lookup, ended, 1_000)
    assert effects.outcomes[0][1].status is OutcomeStatus.COMMITTED
    assert core.open_count == 0
    assert not effects.commands


def test_a_commit_that_is_parked_does_not_keep_its_caller_waiting() -> None:
    core = core_of()
    decided = Decided(stored(1).begun.transaction, Decision.COMMIT, 5)
    core.adopt({5: 2}, [msgspec.structs.replace(stored(1), state=State.COMMITTING, decided=decided)], 1_000)
    assert not core.lookup(WAITER, "q1", "", 1_001).outcomes
    violation = Reply(decided.transaction, "a", Kind.COMMIT, 1, Status.VIOLATION, "E_VIOLATION")
    (_, outcome), = core.receive([violation], 1_002).outcomes
    assert outcome.status is OutcomeStatus.COMMITTED


def test_cancel_of_an_undeployed_saga_does_not_end_it() -> None:
    core = core_of()
    begun = msgspec.structs.replace(stored(1).begun, version=99)
    core.adopt({5: 2}, [StoredTransaction(begun, State.PREPARING)], 1_000)
    (decided,) = core.cancel(WAITER, "q1", "", 1_001).records
    effects = core.appended([(decided, AppendResult(AppendStatus.STORED, decided))], 1_002)
    assert not effects.records
    assert core.open_count == 1


def test_a_saga_that_is_not_deployed_is_parked_not_dropped(occurred) -> None:
    core = core_of()
    begun = Begun(make_id(900, 5, 1, 1), "q", b"x", "sample", 99, encode_plain({}), 900, 90_000, 30_000)
    effects = core.adopt({5: 2}, [StoredTransaction(begun, State.PREPARING)], 1_000)
    assert effects.records[0].code == "E_UNKNOWN_SAGA"
    assert core.open_count == 1
    occurred("87")


def test_cancel_of_an_unknown_id_is_looked_up_and_writes_nothing() -> None:
    core = core_of()
    effects = core.cancel(WAITER, "", make_id(1, 2, 1, 1), 1_000)
    assert not effects.records
    (_, outcome), = core.loaded(effects.lookups[0], None, 1_000).outcomes
    assert outcome.code == "E_UNKNOWN"


def test_ids_carry_what_they_promise() -> None:
    made = make_id(1_700_000_000_000, 200, 17, 42)
    assert (began_ms_of(made), partition_of(made), epoch_of(made)) == (1_700_000_000_000, 200, 17)
    assert is_id(made)
    assert not is_id(made.upper().replace("0", "G"))
    assert make_id(1, 2, 3, 4) < make_id(2, 0, 0, 0)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_every_cell_of_the_transition_table(state: State, event: Event) -> None:
    begun = Begun(make_id(1, 2, 1, 1), "k", b"", "sample", 1, b"", 1, 2, 3)
    txn = Transaction(begun, saga(), 1)
    txn.state = state
    if (state, event) in TRANSITIONS:
        txn.move(event)
        assert txn.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(InvariantViolation):
            txn.move(event)
        assert txn.state is state


def test_a_compensation_that_fails_for_ever_is_parked_and_asked_for_again_and_again(occurred) -> None:
    policy = RetryPolicy(attempts_max=3, backoff_ms_max=7_000)
    core = core_of(saga(steps=[Step(name="a", service="s", request=lambda _: {}, compensation="undo", finish_retry=policy)]))
    decided = Decided(stored(1).begun.transaction, Decision.ABORT, 5, "OUT_OF_STOCK")
    effects = core.adopt({5: 2}, [msgspec.structs.replace(stored(1), state=State.ABORTING, decided=decided)], 1_000)
    now_ms, asked, parked = 1_000, [], []
    while len(asked) < 20:
        parked += [record for record in effects.records if isinstance(record, Parked)]
        commands = effects.commands.get("s", [])
        asked += [now_ms for _ in commands]
        failures = [Reply(c.transaction, "a", c.kind, c.attempt, Status.ERROR, "E_SERVICE_ERROR", "boom") for c in commands]
        if failures:
            effects = core.receive(failures, now_ms)
            continue
        now_ms = core.next_due_ms
        effects = core.tick(now_ms)
    (mark,) = parked
    assert (mark.step, mark.code) == ("a", "E_SERVICE_ERROR")
    assert [later - sooner for sooner, later in pairwise(asked)][2:] == [7_000] * 17
    assert core.open_count == 1
    ended = core.receive([Reply(decided.transaction, "a", Kind.ROLLBACK, 99, Status.ACK)], now_ms).records
    assert [type(record).__name__ for record in ended] == ["Parked", "Ended"]
    occurred("76")


def test_a_transaction_goes_on_by_the_version_that_it_began_with(occurred) -> None:
    old = saga()
    new = saga(version=2, steps=[Step(name="b", service="other", request=lambda _: {}, compensation="undo")])
    core = Coordinator({("sample", 1): old, ("sample", 2): new}, open_max=10)
    effects = core.adopt(dict.fromkeys(range(256), 2), [stored(1)], 1_000)
    assert [command.step for command in effects.commands.pop("s")] == ["a"]
    assert not effects.commands
    (begun,) = submit(core).records
    assert begun.version == 2
    assert list(core.appended([(begun, AppendResult(AppendStatus.STORED))], 1_001).commands) == ["other"]
    back = Coordinator({("sample", 1): old}, open_max=10)  # the old version is deployed again
    later = msgspec.structs.replace(stored(2), begun=msgspec.structs.replace(stored(2).begun, version=2))
    parked = back.adopt(dict.fromkeys(range(256), 3), [stored(1), later], 1_002)
    assert [command.transaction for command in parked.commands["s"]] == [stored(1).begun.transaction]
    assert [(record.transaction, record.code) for record in parked.records] == [(later.begun.transaction, "E_UNKNOWN_SAGA")]
    occurred("87")
