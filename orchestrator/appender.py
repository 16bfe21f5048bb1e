"""A shard's side of the log: one append under way, everything else gathers for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from orchestrator.errors import IndefiniteError
from orchestrator.exchange import BATCH_MAX, fitting
from orchestrator.protocol.counts import Histogram
from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.records import (
    RECORD_SCHEMA,
    AppendReply,
    AppendRequest,
    AppendResult,
    AppendStatus,
    Begun,
    Ended,
    EpochRecord,
    Record,
)

LAZY_S = 0.05  # an Ended record waits so long for company: losing it only repeats idempotent messages
AGAIN_S_MIN = 0.02
AGAIN_S_MAX = 0.5
BATCH_BYTES_MAX = 32 * 1024 * 1024  # of inputs in one append; one that is longer goes alone


class AppendPort(Protocol):
    """The log, as far as an appender needs it."""

    async def append(self, request: AppendRequest) -> AppendReply:
        """Append a batch.

        Raises:
            IndefiniteError: the records may or may not be durable.
        """


class Appender:
    """Appends records in order; while an append's outcome is unknown only that same append is repeated.

    Args:
        port: the log.
        shard: index of the shard.
        incarnation: of the shard; sequences count within it, so that a late duplicate is dropped by the log.
        epochs: the epoch each partition is held under, live.
        deliver: told the results of every durable batch, and the reply (for the watermark).

    Attributes:
        appended: records of each append.
        took_ms: from sending an append to knowing it durable.
    """

    def __init__(
        self,
        port: AppendPort,
        *,
        shard: int,
        incarnation: str,
        epochs: Mapping[int, int],
        deliver: Callable[[Sequence[tuple[Record, AppendResult]], AppendReply], None],
    ) -> None:
        self._port, self._shard, self._incarnation, self._epochs, self._deliver = port, shard, incarnation, epochs, deliver
        self.appended, self.took_ms = Histogram(), Histogram()
        self._sequence = 0
        self._queue: list[Record] = []
        self._running: asyncio.Task[None] | None = None
        self._lazy: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Records that wait for the append under way."""
        return len(self._queue)

    def add(self, records: Sequence[Record]) -> None:
        """Queue records; an append leaves at once unless one is under way or all that waits is lazy."""
        if not records:
            return
        self._queue.extend(records)
        if self._running is None:
            self._go(hurry=not all(isinstance(record, Ended) for record in records))

    def _go(self, *, hurry: bool) -> None:
        loop = asyncio.get_running_loop()
        if not hurry:
            self._lazy = self._lazy or loop.call_later(LAZY_S, lambda: self._go(hurry=True))
            return
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        if self._running is None and self._queue:
            self._running = loop.create_task(self._append())
            self._running.add_done_callback(self._stopped)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._running = None
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        if self._queue:
            self._go(hurry=not all(isinstance(record, Ended) for record in self._queue))

    async def _append(self) -> None:
        count = _fitting(self._queue)
        if count < len(self._queue):  # what ends work goes before what begins some; a stable order keeps the rest
            self._queue.sort(key=_begins)
            count = _fitting(self._queue)
        batch, self._queue = self._queue[:count], self._queue[count:]
        fenced = [(r, AppendResult(AppendStatus.FENCED)) for r in batch if partition_of(r.transaction) not in self._epochs]
        batch = [r for r in batch if partition_of(r.transaction) in self._epochs]
        records = [EpochRecord(self._epochs[partition_of(r.transaction)], r) for r in batch]
        reply = await self._durable(records)
        self._deliver([*zip(batch, reply.results, strict=True), *fenced], reply)

    async def _durable(self, records: list[EpochRecord]) -> AppendReply:
        delay_s = AGAIN_S_MIN
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            self._sequence += 1
            request = AppendRequest(RECORD_SCHEMA, self._shard, self._incarnation, self._sequence, records)
            try:
                reply = await self._port.append(request)
            except IndefiniteError:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, AGAIN_S_MAX)
                continue
            if not reply.dropped:
                self.appended.observe(len(records))
                self.took_ms.observe((loop.time() - began_s) * 1_000)
                return reply


def _begins(record: Record) -> bool:
    return isinstance(record, Begun)


def _fitting(queue: list[Record]) -> int:
    return fitting(queue[:BATCH_MAX], _length, BATCH_BYTES_MAX)


def _length(record: Record) -> int:
    return len(record.input) if isinstance(record, Begun) else 0
