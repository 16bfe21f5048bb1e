"""The coordinator alone, with a log that stores what it is given as soon as a test says so."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, OutcomeMessage, Reply, Status, SubmitRequest
from orchestrator.protocol.records import AppendResult, AppendStatus, Begun, Decided, Decision, Record, State, StoredTransaction
from orchestrator.saga import Saga, Step, encode_plain

WAITER = Waiter("client", 1)
NOW_MS = 1_000
STORED = AppendStatus.STORED


class Input(BaseModel):
    amount: int = 1


def step(name: str, *after: str, **more: Any) -> Step:
    """A step of a service of its own, `SERVICE-NAME` upper-case; the request names it."""
    if not more.get("after_commit"):
        more.setdefault("compensation", "undo")
    more.setdefault("request", lambda _: {"step": name})
    return Step(name=name, service=name.upper(), after=after, **more)


def saga(*steps: Step, **more: Any) -> Saga:
    return Saga(name="sample", input=Input, steps=steps or (step("a"),), **more)


def opened(number: int = 1, decision: Decision | None = None, *, ended: bool = False, **more: Any) -> StoredTransaction:
    """What the log has of a transaction of an earlier life, in partition 5."""
    begun = Begun(make_id(900, 5, 1, number), f"q{number}", b"x", more.pop("saga", "sample"), more.pop("version", 1),
                  more.pop("input", encode_plain({})), 900, 90_000, 30_000)
    if decision is None:
        return StoredTransaction(begun, State.PREPARING, **more)
    states = ((State.COMMITTING, State.COMMITTED), (State.ABORTING, State.ABORTED))
    decided = Decided(begun.transaction, decision, 950, "" if decision is Decision.COMMIT else "E_TIMEOUT")
    return StoredTransaction(begun, states[decision][ended], decided, **more)


class Alone:
    """A core that owns all partitions under epoch 1; `now_ms` stands still unless it is moved.

    Args:
        definition: the one saga that is deployed.
        adopted: open transactions of partition 5, taken up under epoch 2.
        options: of the coordinator.
    """

    def __init__(self, definition: Saga | None = None, adopted: list[StoredTransaction] | None = None, **options: Any) -> None:
        self.saga = definition or saga()
        options.setdefault("open_max", 10)
        self.core = Coordinator({(self.saga.name, self.saga.version): self.saga}, **options)
        self.now_ms = NOW_MS
        self.core.adopt(dict.fromkeys(range(256), 1), [], NOW_MS)
        if adopted is not None:
            self.adopted = self.core.adopt({5: 2}, adopted, NOW_MS)

    def submit(self, number: int = 1, key: str = "k", data: Any = None, duration_ms: int = 0) -> Effects:
        request = SubmitRequest(number, key, "sample", encode_plain(data or {}), duration_ms)
        return self.core.submit([(Waiter("client", number), request)], self.now_ms)

    def begun(self, **more: Any) -> Effects:
        """Submit, and have the log store it: the first prepares leave."""
        return self.stored(self.submit(**more))

    def stored(self, effects: Effects) -> Effects:
        """The log stores what these effects ask it to."""
        return self.answered(*[(r, STORED) for r in effects.records])

    def answered(self, *records: tuple[Record, AppendStatus]) -> Effects:
        return self.core.appended(
            [(r, AppendResult(s, r if isinstance(r, Decided) else None)) for r, s in records], self.now_ms)

    def say(self, command: Command, status: Status, code: str = "", **more: Any) -> Effects:
        """The participant answers a command."""
        told = {"step": command.step, "kind": command.kind, "attempt": command.attempt, "message": "", "result": b""} | more
        reply = Reply(command.transaction, told["step"], told["kind"], told["attempt"], status, code, told["message"],
                      told["result"])
        return self.core.receive([reply], self.now_ms)

    def committed(self, **more: Any) -> Effects:
        """All prepares say yes, and the COMMIT is durable: the commits leave."""
        effects = self.begun(**more)
        while effects.commands:
            told = [self.say(c, Status.YES, result=encode_plain({"of": c.step})) for c in commands(effects)]
            effects = Effects()
            for one in told:
                effects.include(one)
        return self.stored(effects)

    def tick(self, later_ms: int) -> Effects:
        self.now_ms += later_ms
        return self.core.tick(self.now_ms)


def commands(effects: Effects) -> list[Command]:
    """What leaves, to whomever."""
    return [command for queue in effects.commands.values() for command in queue]


def sent(effects: Effects) -> list[tuple[str, str, int]]:
    """Step, kind and attempt of what leaves."""
    return [(c.step, c.kind.name, c.attempt) for c in commands(effects)]


def told(effects: Effects) -> list[tuple[int, str, str]]:
    """Number, status and code of what callers are told."""
    return [(o.number, o.status.name, o.code) for o in outcomes(effects)]


def outcomes(effects: Effects) -> list[OutcomeMessage]:
    for waiter, outcome in effects.outcomes:
        assert waiter.number == outcome.number
    return [outcome for _, outcome in effects.outcomes]


def codes(effects: Effects) -> list[tuple[str, str]]:
    """Kind of record and its code, of what is to be stored."""
    return [(type(r).__name__, str(getattr(r, "code", ""))) for r in effects.records]
