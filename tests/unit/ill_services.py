"""A core under load with services that are ill: what leaves, what callers are told, second by second."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Notice, Waiter
from orchestrator.protocol.messages import Command, Kind, OutcomeMessage, OutcomeStatus, Reply, Status, SubmitRequest
from orchestrator.protocol.records import AppendResult, AppendStatus, Decided
from orchestrator.protocol.traffic import TRAFFIC, TrafficPolicy
from orchestrator.saga import Saga, Step, encode_plain

TURN_MS = 20
PER_TURN = 4  # submits: 200 a second


class Input(BaseModel):
    pass


def steps(*services: str) -> list[Step]:
    return [Step(name=service, service=service, request=lambda _: {}, compensation="undo") for service in services]


TELL = Step(name="tell", service="mail", request=lambda _: {}, after=("stock",), after_commit=True)
SAGAS = {("order", 1): Saga(name="order", input=Input, steps=steps("stock", "pay")),
         ("count", 1): Saga(name="count", input=Input, steps=steps("stock")),
         ("told", 1): Saga(name="told", input=Input, steps=[*steps("stock"), TELL])}


class Deployment:
    """A turn is 20 ms. What `ill` services answer is said by `answer_ill`; None is nothing."""

    def __init__(self, open_max: int = 1_000_000, policy: TrafficPolicy = TRAFFIC) -> None:
        self.core = Coordinator(SAGAS, open_max=open_max, traffic=policy)
        self.core.adopt(dict.fromkeys(range(256), 1), [], 0)
        self.now_ms = 0
        self.number = 0
        self.ill: set[str] = set()
        self.answer_ill: Status | None = None
        self.only: frozenset[Kind] = frozenset(Kind)  # kinds of messages that the ill answer so
        self.sent: list[Counter[str]] = []  # by second, messages by service
        self.begun: list[Counter[str]] = []  # the prepares and performs among them
        self.told: list[Counter[tuple[str, OutcomeStatus]]] = []  # by second
        self.codes: Counter[str] = Counter()
        self.outcomes: dict[int, OutcomeMessage] = {}
        self.notices: list[tuple[int, Notice]] = []
        self.saga_of: dict[int, str] = {}
        self.pending = Effects()

    def submit(self, saga: str, times: int = 1, key: str = "", duration_ms: int = 0) -> None:
        requests = []
        for _ in range(times):
            self.number += 1
            self.saga_of[self.number] = saga
            request = SubmitRequest(self.number, key or f"k{self.number}", saga, encode_plain({}), duration_ms)
            requests.append((Waiter("client", self.number), request))
        self.pending.include(self.core.submit(requests, self.now_ms))

    def turn(self) -> None:
        while len(self.sent) <= self.now_ms // 1_000:
            self.sent.append(Counter())
            self.begun.append(Counter())
            self.told.append(Counter())
        effects, self.pending = self.pending, Effects()
        self.now_ms += TURN_MS
        for service, commands in effects.commands.items():
            self.sent[-1][service] += len(commands)
            self.begun[-1][service] += sum(command.kind in (Kind.PREPARE, Kind.PERFORM) for command in commands)
            self.pending.include(self.core.receive(self.answers(service, commands), self.now_ms))
        for lookup in effects.lookups:
            self.pending.include(self.core.loaded(lookup, None, self.now_ms))
        stored = [(r, AppendResult(AppendStatus.STORED, r if isinstance(r, Decided) else None)) for r in effects.records]
        self.pending.include(self.core.appended(stored, self.now_ms))
        self.note(effects)
        self.pending.include(self.core.tick(self.now_ms))

    def note(self, effects: Effects) -> None:
        self.notices += [(self.now_ms, notice) for notice in effects.notices]
        for waiter, outcome in effects.outcomes:
            self.told[-1][self.saga_of[waiter.number], outcome.status] += 1
            self.codes[outcome.code] += 1
            self.outcomes[waiter.number] = outcome

    def answers(self, service: str, commands: list[Command]) -> list[Reply]:
        answered = [(c, self.answer(service, c)) for c in commands]
        return [Reply(c.transaction, c.step, c.kind, c.attempt, status, "E_SERVICE_ERROR" if status is Status.ERROR else "")
                for c, status in answered if status is not None]

    def answer(self, service: str, command: Command) -> Status | None:
        if service in self.ill and command.kind in self.only:
            return self.answer_ill
        return Status.YES if command.kind is Kind.PREPARE else Status.ACK

    def run(self, seconds: float, *sagas: str) -> None:
        for _ in range(int(seconds * 1_000 / TURN_MS)):
            for saga in sagas:
                self.submit(saga, PER_TURN)
            self.turn()

    def committed(self, saga: str, second: int) -> int:
        return self.told[second][saga, OutcomeStatus.COMMITTED]

    def turned(self) -> list[tuple[str, str, str, int]]:
        """Event, level, service and time of every turn of a breaker."""
        return [(n.event, n.level, n.service, at_ms) for at_ms, n in self.notices if n.event.startswith("breaker_")]
