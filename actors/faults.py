"""Simulated failures: they wrap a service from outside, every draw follows from the seed, and off means no wrapper."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from actors.operation import Operation, Refused
from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.protocol.messages import Command, Kind, Reply, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

    from actors.operation import State
    from orchestrator.config import FaultSettings

SIMULATED_DECLINE = "SIMULATED_DECLINE"
_DRAW_RANGE = 1 << 32
_DIE = partial(os._exit, 1)  # no exit handler runs, as with kill -9


@dataclass(frozen=True, slots=True)
class Draws:
    """Coins that fall the same way in every run with the same seed.

    Attributes:
        settings: the probabilities and the seed.
        opening: how often the service's database had been opened: a part of the crash draws, so that a restarted
            service does not die of the same attempt again.
    """

    settings: FaultSettings
    opening: int

    def hits(self, fault: str, message: Command | Reply) -> bool:
        """Whether the fault, a probability of the settings, strikes this attempt."""
        probability: float = getattr(self.settings, fault)
        if probability == 0:
            return False
        coin = f"{self.settings.seed}/{fault}/{message.transaction}/{message.step}/{message.kind:d}/{message.attempt}"
        if fault.startswith("crash"):
            coin += f"/{self.opening}"
        digest = hashlib.blake2b(coin.encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") < probability * _DRAW_RANGE


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyOperation(Operation):
    """An operation that fails now and then."""

    inner: Operation
    draws: Draws
    die: Callable[[], None]

    @property
    def asks(self) -> bool:
        """Latency is an asynchronous part of its own, also where the operation has none."""
        settings = self.draws.settings
        return self.inner.asks or settings.latency_ms > 0 or (settings.tail_ms > 0 and settings.tail_probability > 0)

    async def inquire(self, command: Command, request: BaseModel) -> Any:
        """The asynchronous part, later."""
        settings = self.draws.settings
        tail_ms = settings.tail_ms if self.draws.hits("tail_probability", command) else 0
        await asyncio.sleep((settings.latency_ms + tail_ms) / 1_000)
        return await self.inner.inquire(command, request) if self.inner.asks else None

    def start(self, command: Command, state: State, request: BaseModel, answer: Any) -> Any:
        """Prepare or perform, unless a fault strikes first."""
        self._strike(command)
        if command.kind is Kind.PREPARE and self.draws.hits("decline", command):
            return Refused(SIMULATED_DECLINE, "declined by the simulated faults of this service")
        return self.inner.start(command, state, request, answer)

    def finish(self, command: Command, state: State, request: BaseModel, result: BaseModel) -> None:
        """Commit or roll back, unless a fault strikes first."""
        self._strike(command)
        self.inner.finish(command, state, request, result)

    def _strike(self, command: Command) -> None:
        if self.draws.hits("crash_before", command):
            self.die()
        if self.draws.hits("transient", command):
            raise IndefiniteError(ErrorCode.SERVICE_ERROR, "a simulated transient failure: nothing was done")


class FaultyService:
    """A service's operations and its mail with simulated failures.

    Args:
        bound: the service's operations.
        settings: which failures, and how often.
        opening: number of this opening of the service's database.
        die: ends the process at once.
    """

    def __init__(
        self, bound: Mapping[str, Operation], settings: FaultSettings, opening: int,
        die: Callable[[], None] = _DIE,
    ) -> None:
        self._draws, self._die = Draws(settings, opening), die
        self.bound: Mapping[str, Operation] = {name: self._wrap(operation) for name, operation in bound.items()}

    def arriving(self, commands: list[Command]) -> list[Command]:
        """Without the attempts that hang: they have no effect and are never answered."""
        return [command for command in commands if not self._draws.hits("hang", command)]

    def leaving(self, replies: list[Reply]) -> list[Reply]:
        """Without the replies that are lost; the process may die here, when the effects are durable and untold."""
        if any(reply.status in (Status.YES, Status.ACK) and self._draws.hits("crash_after", reply) for reply in replies):
            self._die()
        return [reply for reply in replies if not self._draws.hits("lose_reply", reply)]

    def _wrap(self, inner: Operation) -> FaultyOperation:
        return FaultyOperation(
            name=inner.name, prepares=inner.prepares, request=inner.request, result=inner.result, run=inner.run,
            commit=inner.commit, rollback=inner.rollback, ask=inner.ask, inner=inner, draws=self._draws, die=self._die)
