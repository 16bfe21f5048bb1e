"""A shard's reading side of the log: one load under way, every other lookup gathers for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.errors import IndefiniteError
from orchestrator.protocol.effects import Lookup
from orchestrator.protocol.records import StoredTransaction

AGAIN_S = 0.05
BATCH_MAX = 1_024
WAITING_MAX = 16_384

Found = tuple[Lookup, StoredTransaction | None]


class LoadPort(Protocol):
    """The log, as far as a loader needs it."""

    async def load(self, keys: list[str], transactions: list[str]) -> list[StoredTransaction]:
        """Those of them that the log knows.

        Raises:
            IndefiniteError: the log did not answer.
        """


class Loader:
    """Loads what the core looks up, many in one call: refusing a submit costs a lookup, and must cost next to nothing.

    Args:
        port: the log.
        deliver: told what became of a batch of lookups.
        waiting_max: lookups beyond it are not taken.
    """

    def __init__(
        self, port: LoadPort, deliver: Callable[[Sequence[Found]], None], *, waiting_max: int = WAITING_MAX,
    ) -> None:
        self._port, self._deliver, self._waiting_max = port, deliver, waiting_max
        self._waiting: list[Lookup] = []
        self._running: asyncio.Task[None] | None = None

    def add(self, lookups: Sequence[Lookup]) -> Sequence[Lookup]:
        """Queue lookups; returns those for which there is no room, to be asked again later."""
        room = max(0, self._waiting_max - len(self._waiting))
        self._waiting.extend(lookups[:room])
        self._go()
        return lookups[room:]

    def _go(self) -> None:
        if self._running is None and self._waiting:
            self._running = asyncio.get_running_loop().create_task(self._load())
            self._running.add_done_callback(self._stopped)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._running = None
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        self._go()

    async def _load(self) -> None:
        batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
        keys = list({lookup.key for lookup in batch if not lookup.transaction})
        transactions = list({lookup.transaction for lookup in batch if lookup.transaction})
        while True:
            try:
                found = await self._port.load(keys, transactions)
                break
            except IndefiniteError:
                await asyncio.sleep(AGAIN_S)
        by_id = {stored.begun.transaction: stored for stored in found}
        by_key = {stored.begun.key: stored for stored in found}
        self._deliver([
            (lookup, by_id.get(lookup.transaction) if lookup.transaction else by_key.get(lookup.key)) for lookup in batch])
