"""Callers: they submit under keys, several at once, cancel, lose patience with nobody and ask until they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orchestrator.errors import ErrorCode
from orchestrator.protocol.identifiers import partition_of, partition_of_key
from orchestrator.protocol.messages import (
    SCHEMA_VERSION,
    ActKind,
    ActRequest,
    CancelRequest,
    ClientBatch,
    OutcomeBatch,
    OutcomeMessage,
    OutcomeStatus,
    SubmitRequest,
)
from orchestrator.protocol.records import Act, encode
from orchestrator.testing.simulation.life import Life, Message

if TYPE_CHECKING:
    from orchestrator.testing.simulation.world import World

_OUTCOMES = msgspec.msgpack.Decoder(OutcomeBatch)
ASK_AGAIN_MS = 700
ASK_AGAIN_MS_MAX = 3_000


class Told(NamedTuple):
    """What a caller was told of one request; `cancel` says what it was."""

    key: str
    input: bytes
    outcome: OutcomeMessage
    cancel: bool


class ClientLife(Life):
    """One process with callers in it."""

    def __init__(self, world: World, role: str, number: int) -> None:
        super().__init__(world, role, number)
        self._requests: dict[int, tuple[str, bytes, bool]] = {}
        self._acts: set[int] = set()
        self._next = 0

    def submit(self, saga: str, key: str, payload: bytes, deadline_ms: int) -> None:
        """Ask for a transaction until its outcome is told."""
        number = self._open(key, payload, cancel=False)
        request = SubmitRequest(number, key, saga, payload, deadline_ms)
        self._ask(number, key, lambda: ClientBatch(SCHEMA_VERSION, self.name, [request]), ASK_AGAIN_MS)

    def cancel(self, key: str) -> None:
        """Ask for a cancellation until it is told what came of it."""
        number = self._open(key, b"", cancel=True)
        request = CancelRequest(number, key)
        self._ask(number, key, lambda: ClientBatch(SCHEMA_VERSION, self.name, [], [request]), ASK_AGAIN_MS)

    def act(self, kind: ActKind, transaction: str, step: str, who: str, reason: str) -> None:
        """Act on a transaction as an operator, until that is answered."""
        number = self._open("", b"", cancel=False)
        self._acts.add(number)
        request = ActRequest(number, kind, transaction, who, reason, self.world.wall_ms, step)
        self._ask(
            number, transaction, lambda: ClientBatch(SCHEMA_VERSION, self.name, [], acts=[request]), ASK_AGAIN_MS,
            partition_of(transaction))

    def pause(self, act: Act) -> None:
        """Pause or resume as an operator: first the log, then whoever is a shard now."""
        def changed(_: object) -> None:
            for life in list(self.world.lives.values()):
                if life.role.startswith("shard-"):
                    self.mail(life, "learn", None)

        self.call("log", "pause", lambda: act, changed)

    @property
    def waiting(self) -> bool:
        """Whether somebody has not been told yet."""
        return bool(self._requests)

    def on_outcomes(self, message: Message) -> None:
        """An `OutcomeBatch`."""
        for outcome in _OUTCOMES.decode(message.body).outcomes:
            if outcome.status is OutcomeStatus.RETRY or outcome.code == ErrorCode.UNAVAILABLE:
                continue  # it is asked again by and by
            request = self._requests.pop(outcome.number, None)
            if request is not None and outcome.number not in self._acts:
                key, payload, cancel = request
                self.world.told(Told(key, payload, outcome, cancel))

    def _open(self, key: str, payload: bytes, *, cancel: bool) -> int:
        self._next += 1
        self._requests[self._next] = (key, payload, cancel)
        return self._next

    def _ask(
        self, number: int, key: str, batch: Callable[[], ClientBatch], again_ms: int, partition: int | None = None,
    ) -> None:
        if number not in self._requests:
            return
        shard = (partition_of_key(key) if partition is None else partition) % self.world.shards
        self.mail(f"shard-{shard}", "exchange", encode(batch()))
        following_ms = min(again_ms * 2, ASK_AGAIN_MS_MAX)
        self.after(again_ms, lambda: self._ask(number, key, batch, following_ms, partition))
