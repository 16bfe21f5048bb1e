"""The coordinator at its borders: what is refused before anything is logged, and what a transition must not do."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, StrictInt

from orchestrator.errors import InvariantViolation
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.identifiers import began_ms_of, epoch_of, is_id, make_id, partition_of, partition_of_key
from orchestrator.protocol.messages import OutcomeStatus, SubmitRequest
from orchestrator.protocol.records import AppendResult, AppendStatus, Begun, Decision, State, StoredTransaction
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
])
def test_bad_submits_are_refused_with_nothing_logged(request_, code: str) -> None:
    core = core_of()
    effects = submit(core, **request_)
    (_, outcome), = effects.outcomes
    assert (outcome.status, outcome.code) == (OutcomeStatus.REJECTED, code)
    assert not effects.records
    assert not effects.commands


def test_a_business_key_function_that_raises_is_bad_input() -> None:
    effects = submit(core_of(saga(business_key=_boom)))
    assert effects.outcomes[0][1].code == "E_INVALID_INPUT"


def test_admission_limit_names_when_to_come_back() -> None:
    core = core_of(open_max=1)
    submit(core, key="one")
    (_, outcome), = submit(core, key="two").outcomes
    assert outcome.code == "E_OVERLOADED"
    assert outcome.retry_after_ms > 0


def test_nothing_is_sent_before_begun_is_durable() -> None:
    core = core_of()
    effects = submit(core)
    (begun,) = effects.records
    assert isinstance(begun, Begun)
    assert not effects.commands
    assert core.appended([(begun, AppendResult(AppendStatus.STORED))], 1_001).commands["s"]


def test_the_same_key_joins_and_another_input_conflicts() -> None:
    core = core_of()
    submit(core)
    assert not submit(core, number=2).outcomes
    (_, outcome), = submit(core, number=3, input=encode_plain({"amount": 9})).outcomes
    assert outcome.code == "E_KEY_CONFLICT"
    assert core.open_count == 1


def test_a_builder_that_raises_aborts_before_the_decision() -> None:
    core = core_of(saga(steps=[Step(name="a", service="s", request=_boom, compensation="undo")]))
    (begun,) = submit(core).records
    (decided,) = core.appended([(begun, AppendResult(AppendStatus.STORED))], 1_001).records
    assert (decided.decision, decided.code) == (Decision.ABORT, "E_BUILDER_FAILED")


def test_a_partition_not_held_is_never_unknown_so_aborted() -> None:
    core = core_of()
    core.drop([partition_of_key("k")])
    (_, outcome), = submit(core).outcomes
    assert outcome.status is OutcomeStatus.RETRY


def test_quarantine_runs_no_user_code() -> None:
    core = core_of(quarantine_after=2)
    begun = Begun(make_id(900, 5, 1, 1), "q", b"x", "sample", 1, encode_plain({}), 900, 90_000, 30_000)
    effects = core.adopt({5: 2}, [StoredTransaction(begun, State.PREPARING, recoveries=2)], 1_000)
    assert effects.records[0].code == "E_QUARANTINED"
    assert not effects.commands


def test_a_saga_that_is_not_deployed_is_parked_not_dropped() -> None:
    core = core_of()
    begun = Begun(make_id(900, 5, 1, 1), "q", b"x", "sample", 99, encode_plain({}), 900, 90_000, 30_000)
    effects = core.adopt({5: 2}, [StoredTransaction(begun, State.PREPARING)], 1_000)
    assert effects.records[0].code == "E_UNKNOWN_SAGA"
    assert core.open_count == 1


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
