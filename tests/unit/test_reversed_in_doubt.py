"""A saga that asks for rollbacks in reversed order gets it from the answers to participants in doubt as well."""

from __future__ import annotations

from pydantic import BaseModel

from orchestrator.errors import ErrorCode
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.messages import Inquiry, Kind, Reply, Status, SubmitRequest
from orchestrator.protocol.records import AppendResult, AppendStatus, Begun, Decided, Decision
from orchestrator.saga import RollbackOrder, Saga, Step, encode_plain


class Nothing(BaseModel):
    pass


def step(name: str, *after: str) -> Step:
    return Step(name=name, service="s", request=lambda ctx: {}, after=after, compensation="undo")


def appended(core: Coordinator, effects: Effects) -> Effects:
    (record,) = effects.records
    assert isinstance(record, Begun | Decided)
    decided = record if isinstance(record, Decided) else None
    return core.appended([(record, AppendResult(AppendStatus.STORED, decided))], 1_000)


def aborting() -> tuple[Coordinator, str, Effects]:
    """Steps a, b after a, and c; c has refused, and the ABORT is durable."""
    steps = [step("a"), step("b", "a"), step("c")]
    saga = Saga(name="sample", input=Nothing, rollback_order=RollbackOrder.REVERSED, steps=steps)
    core = Coordinator({("sample", 1): saga}, open_max=10)
    core.adopt(dict.fromkeys(range(256), 1), [], 1_000)
    begun = core.submit([(Waiter("client", 1), SubmitRequest(1, "k", "sample", encode_plain({}), 0))], 1_000)
    transaction = begun.records[0].transaction
    appended(core, begun)
    for name, status in (("a", Status.YES), ("b", Status.YES), ("c", Status.NO)):
        effects = core.receive([Reply(transaction, name, Kind.PREPARE, 1, status, result=encode_plain({}))], 1_000)
    return core, transaction, appended(core, effects)


def settled(core: Coordinator, transaction: str, name: str) -> list[tuple[str, Kind]]:
    commands, absent = core.inquire([Inquiry(transaction, name, 1)])
    assert absent == []
    return [(command.step, command.kind) for command in commands]


def test_a_step_whose_turn_has_not_come_is_not_rolled_back_because_it_asks() -> None:
    core, transaction, effects = aborting()
    assert {command.step for command in effects.commands["s"]} == {"b", "c"}
    assert settled(core, transaction, "b") == [("b", Kind.ROLLBACK)]
    assert settled(core, transaction, "a") == []


def test_it_is_once_those_that_follow_it_have_acknowledged() -> None:
    core, transaction, _ = aborting()
    core.receive([Reply(transaction, "b", Kind.ROLLBACK, 1, Status.ACK)], 1_000)
    assert settled(core, transaction, "a") == [("a", Kind.ROLLBACK)]


def test_a_step_that_is_parked_does_not_hold_those_before_it_back() -> None:
    core, transaction, _ = aborting()
    core.receive([Reply(transaction, "b", Kind.ROLLBACK, 1, Status.VIOLATION, ErrorCode.VIOLATION)], 1_000)
    assert settled(core, transaction, "a") == [("a", Kind.ROLLBACK)]


def test_a_commit_waits_for_nobody() -> None:
    saga = Saga(name="sample", input=Nothing, rollback_order=RollbackOrder.REVERSED, steps=[step("a"), step("b", "a")])
    core = Coordinator({("sample", 1): saga}, open_max=10)
    core.adopt(dict.fromkeys(range(256), 1), [], 1_000)
    begun = core.submit([(Waiter("client", 1), SubmitRequest(1, "k", "sample", encode_plain({}), 0))], 1_000)
    transaction = begun.records[0].transaction
    appended(core, begun)
    for name in ("a", "b"):
        effects = core.receive([Reply(transaction, name, Kind.PREPARE, 1, Status.YES, result=encode_plain({}))], 1_000)
    (decided,) = effects.records
    assert isinstance(decided, Decided)
    assert decided.decision is Decision.COMMIT
    assert settled(core, transaction, "a") == []  # not durable yet
    appended(core, effects)
    assert settled(core, transaction, "a") == [("a", Kind.COMMIT)]


def test_a_step_that_the_definition_lacks_waits_for_nobody() -> None:
    core, transaction, _ = aborting()
    assert settled(core, transaction, "of another version") == [("of another version", Kind.ROLLBACK)]
