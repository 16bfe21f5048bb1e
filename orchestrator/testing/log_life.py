"""The log's process: whoever arrives while a group is being made durable joins the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator.protocol.records import AppendRequest, TakeRequest, encode
from orchestrator.testing.life import Life, Message
from orchestrator.testing.log_model import LogModel, MemoryLog

if TYPE_CHECKING:
    from orchestrator.testing.journal import Journal
    from orchestrator.testing.world import World

_APPEND = msgspec.msgpack.Decoder(AppendRequest)
_TAKE = msgspec.msgpack.Decoder(TakeRequest)


class LogLife(Life):
    """One life of the transaction log over its journal."""

    def __init__(self, world: World, role: str, number: int, journal: Journal) -> None:
        super().__init__(world, role, number)
        self._journal = journal
        self.ready = False
        self._waiting: list[Message] = []
        self._busy = False

    def boot(self) -> None:
        """Open the journal; what it holds is durable from then on."""
        if self.world.disk_is_full(self.role):
            self.after(300, self.boot)
            return
        self._log = MemoryLog(self._journal, self.world.options.retention_ms)
        for txn, entry in self._log.model.transactions.items():
            if entry.decided is not None:
                self.world.decided(txn, entry.decided)
        self.ready = True
        self._go()

    @property
    def model(self) -> LogModel:
        """What it holds."""
        return self._log.model

    def on_append(self, message: Message) -> None:
        """An `AppendRequest`."""
        self._waiting.append(message)
        self._go()

    def on_take(self, message: Message) -> None:
        """A `TakeRequest`."""
        self._waiting.append(message)
        self._go()

    def on_load(self, message: Message) -> None:
        """A transaction by (key, id)."""
        if self.ready:  # reads the file, also where a successor writes it by now
            log = self._log
            if log.superseded:
                log = MemoryLog(self._journal, self.world.options.retention_ms, read_only=True)
            self.answer(message, log.stored(*message.body))

    def on_owner(self, message: Message) -> None:
        """Who owns a partition."""
        if self.ready:
            self.answer(message, self._log.owner(message.body))

    def _go(self) -> None:
        if self.ready and not self._busy and self._waiting:
            self._busy = True
            delay_ms = self.world.commit_ms(self.role)
            self.world.witness.committing(delay_ms)
            self.after(delay_ms, self._turn)

    def _turn(self) -> None:
        if self.world.disk_is_full(self.role):
            self.after(100, self._turn)
            return
        waiting, self._waiting = self._waiting, []
        for message in [m for m in waiting if m.method == "take"]:
            request = _TAKE.decode(message.body)
            self.world.witness.taking(request, self._log.model)
            self.answer(message, encode(self._log.take(request, self.world.wall_ms)))
        self._append([m for m in waiting if m.method == "append"])
        self._busy = False
        self._go()

    def _append(self, messages: list[Message]) -> None:
        if not messages:
            return
        requests = [_APPEND.decode(message.body) for message in messages]
        replies = self._log.append(requests, self.world.wall_ms)
        for request in requests:
            for record in [item.record for item in request.records]:
                stored = self._log.model.transactions.get(record.transaction)
                if stored is not None and stored.decided is not None:
                    self.world.decided(record.transaction, stored.decided)
        for message, request, reply in zip(messages, requests, replies, strict=True):
            self.world.witness.appended(request, reply)
            self.answer(message, encode(reply))
