"""What is open after a restart is driven a little at a time, however much it is."""

from __future__ import annotations

from pydantic import BaseModel

from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind, OutcomeStatus, Reply, Status
from orchestrator.protocol.pacing import AT_A_TIME, AT_ONCE, PLACE_MS, TURN_MS
from orchestrator.protocol.records import AppendResult, AppendStatus, Begun, Decided, Decision, Ended, State, StoredTransaction
from orchestrator.saga import Saga, Step, encode_plain

NOW_MS = 1_000_000
DURATION_MS = 30_000
SERVICES = ("s", "t")


class Input(BaseModel):
    amount: int = 1


SAGA = Saga(name="sample", input=Input, steps=[
    Step(name=service, service=service, request=lambda _: {}, compensation="undo") for service in SERVICES])
INPUT = encode_plain({})


def stored(number: int, *, decided: Decision | None = None, deadline_ms: int = NOW_MS + DURATION_MS, **more):
    identity = make_id(NOW_MS - 10_000 + number % 5_000, 5, 1, number)
    begun = Begun(identity, f"k{number}", b"", "sample", 1, INPUT, NOW_MS, deadline_ms, DURATION_MS)
    if decided is None:
        return StoredTransaction(begun, State.PREPARING, **more)
    state = State.COMMITTING if decided is Decision.COMMIT else State.ABORTING
    return StoredTransaction(begun, state, Decided(identity, decided, NOW_MS), **more)


class Deployment:
    """A core with a log and services that answer on the next turn; one that is down takes everything and says nothing."""

    def __init__(self, down: frozenset[str] = frozenset()) -> None:
        self.core = Coordinator({("sample", 1): SAGA}, open_max=10)
        self.down = down
        self.now_ms = NOW_MS
        self.commands_by_turn: list[int] = []
        self.decided: dict[str, Decided] = {}
        self.ended: dict[str, int] = {}
        self.first_sent_ms: dict[str, int] = {}

    def adopt(self, open_: list[StoredTransaction]) -> None:
        self.decided = {s.begun.transaction: s.decided for s in open_ if s.decided is not None}
        self.pending = self.core.adopt({5: 2}, open_, self.now_ms)

    def turn(self) -> None:
        effects, self.pending, self.now_ms = self.pending, Effects(), self.now_ms + TURN_MS
        commands = [command for service in effects.commands for command in effects.commands[service]]
        self.commands_by_turn.append(len(commands))
        for command in commands:
            self.first_sent_ms.setdefault(command.transaction, self.now_ms)
        replies = [answer(c) for service, sent in effects.commands.items() if service not in self.down for c in sent]
        self.pending.include(self.core.receive(replies, self.now_ms))
        self.pending.include(self.core.appended([(r, self.store(r)) for r in effects.records], self.now_ms))
        self.pending.include(self.core.tick(self.now_ms))

    def store(self, record) -> AppendResult:
        if isinstance(record, Decided):
            return AppendResult(AppendStatus.STORED, self.decided.setdefault(record.transaction, record))
        if isinstance(record, Ended):
            self.ended[record.transaction] = self.now_ms
        return AppendResult(AppendStatus.STORED)

    def run(self, until_ms: int) -> None:
        while self.core.open_count and self.now_ms < until_ms:
            self.turn()
        self.turn()


def answer(command: Command) -> Reply:
    status = Status.YES if command.kind is Kind.PREPARE else Status.ACK
    return Reply(command.transaction, command.step, command.kind, command.attempt, status)


def test_a_hundred_thousand_open_transactions_are_driven_in_bounded_portions_and_all_end(occurred) -> None:
    world = Deployment()
    commit, abort = Decision.COMMIT, Decision.ABORT
    world.adopt([
        *(stored(n) for n in range(40_000)),
        *(stored(n, deadline_ms=NOW_MS - 5) for n in range(40_000, 60_000)),
        *(stored(n, decided=commit) for n in range(60_000, 90_000)),
        *(stored(n, decided=abort) for n in range(90_000, 100_000))])
    world.run(NOW_MS + 60_000)
    assert len(world.ended) == 100_000
    assert world.now_ms - NOW_MS <= 100_000 / AT_A_TIME * TURN_MS + 1_000  # 16.6 s
    assert max(world.commands_by_turn) <= 3 * len(SERVICES) * AT_A_TIME  # what gets its turn, and what follows on that
    committed = {txn for txn, decided in world.decided.items() if decided.decision is commit}
    assert committed == {stored(n).begun.transaction for n in (*range(40_000), *range(60_000, 90_000))}
    codes = {world.decided[stored(n).begun.transaction].code for n in range(40_000, 60_000)}
    assert codes == {"E_TIMEOUT"}
    occurred("54")


def test_what_is_decided_comes_first_then_by_deadline() -> None:
    world = Deployment()
    late = [stored(n) for n in range(300)]
    soon = [stored(n, deadline_ms=NOW_MS + 20_000) for n in range(300, 600)]
    decided = [stored(n, decided=Decision.COMMIT) for n in range(600, 900)]
    world.adopt([*late, *soon, *decided])
    world.run(NOW_MS + 60_000)
    first, second, third = ([world.first_sent_ms[s.begun.transaction] for s in group] for group in (decided, soon, late))
    assert max(first) <= min(second)
    assert max(second) <= min(third)


def test_no_more_than_a_bound_are_under_way_and_one_that_is_stuck_gives_up_its_place() -> None:
    world = Deployment(down=frozenset({"t"}))
    world.adopt([stored(n) for n in range(3 * AT_ONCE)])
    while world.now_ms < NOW_MS + PLACE_MS:
        world.turn()
    assert len(world.first_sent_ms) == AT_ONCE
    while world.now_ms < NOW_MS + 4 * PLACE_MS:
        world.turn()
    assert len(world.first_sent_ms) == 3 * AT_ONCE


def test_one_whose_deadline_passes_while_it_waits_is_not_prepared() -> None:
    world = Deployment()
    doomed = stored(1, deadline_ms=NOW_MS + 10)
    world.adopt([*(stored(n, decided=Decision.ABORT) for n in range(2, AT_A_TIME + 2)), doomed])
    world.run(NOW_MS + 60_000)
    assert world.decided[doomed.begun.transaction].code == "E_TIMEOUT"


def test_a_cancel_of_one_that_waits_for_its_turn_is_obeyed_when_it_comes() -> None:
    world = Deployment()
    last = stored(0)
    world.adopt([*(stored(n, decided=Decision.COMMIT) for n in range(1, AT_A_TIME + 1)), last])
    effects = world.core.cancel(Waiter("client", 1), "k0", "", world.now_ms)
    assert not effects.records
    world.run(NOW_MS + 60_000)
    assert world.decided[last.begun.transaction].code == "E_CANCELLED"


def test_a_cancel_does_not_take_the_input_from_one_that_is_committed() -> None:
    """The log answers a proposed ABORT with the COMMIT that it has; what is performed then needs the input."""
    tell = Step(name="tell", service="s", request=lambda ctx: {"amount": ctx.input.amount}, after=["t"], after_commit=True)
    saga = Saga(name="sample", input=Input, steps=[*SAGA.steps, tell])
    world = Deployment()
    world.core = Coordinator({("sample", 1): saga}, open_max=10)
    before = 5 * AT_A_TIME
    last = stored(before + 1, decided=Decision.COMMIT, deadline_ms=NOW_MS + 25_000)
    world.adopt([last, *(stored(n, decided=Decision.COMMIT, deadline_ms=NOW_MS) for n in range(before))])
    world.pending.include(world.core.cancel(Waiter("client", 1), last.begun.key, "", world.now_ms))
    told: list[OutcomeStatus] = []
    notices: list[str] = []
    while world.core.open_count and world.now_ms < NOW_MS + 10_000:
        told += [outcome.status for _, outcome in world.pending.outcomes]
        notices += [notice.event for notice in world.pending.notices]
        world.turn()
    assert "parked" not in notices
    assert told == [OutcomeStatus.COMMITTED]


def test_no_decision_is_proposed_for_a_suspect_before_its_trial() -> None:
    """It may be committed: it would be driven without its input, ahead of its trial."""
    core = Coordinator({("sample", 1): SAGA}, open_max=10, quarantine_after=2)
    (mark,) = core.adopt({5: 2}, [stored(1, decided=Decision.COMMIT, recoveries=2)], NOW_MS).records
    effects = core.cancel(Waiter("client", 1), "k1", "", NOW_MS)
    assert not effects.records
    effects = core.appended([(mark, AppendResult(AppendStatus.STORED))], NOW_MS)
    assert {command.kind for commands in effects.commands.values() for command in commands} == {Kind.COMMIT}
