"""The log's process: whoever arrives while a group is being made durable joins the next one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from orchestrator.protocol.records import Act, AppendReply, AppendRequest, TakeReply, TakeRequest, encode
from orchestrator.testing.simulation.life import Life, Message
from orchestrator.testing.simulation.log_model import LogModel

if TYPE_CHECKING:
    from orchestrator.testing.simulation.world import World

_APPEND = msgspec.msgpack.Decoder(AppendRequest)
_TAKE = msgspec.msgpack.Decoder(TakeRequest)


class AnyLog(Protocol):
    """The log's store, a model or the real one."""

    @property
    def model(self) -> LogModel:
        """What it holds."""

    @property
    def superseded(self) -> bool:
        """Whether a successor has opened the file."""

    def append(self, requests: Sequence[AppendRequest], now_ms: int) -> list[AppendReply]:
        """Append a group; when this returns, it is durable. Nothing is answered where there was no room for it."""

    def take(self, request: TakeRequest, now_ms: int) -> TakeReply:
        """Give partitions to a shard's incarnation."""

    def pause(self, act: Act, now_ms: int) -> None:
        """Pause or resume a saga or a service; when this returns, it is durable."""

    def owner(self, partition: int) -> tuple[int, int, str]:
        """Shard, epoch and incarnation."""


class LogLife(Life):
    """One life of the transaction log."""

    def __init__(self, world: World, role: str, number: int) -> None:
        super().__init__(world, role, number)
        self.ready = False
        self._waiting: list[Message] = []
        self._busy = False

    def boot(self) -> None:
        """Open the file; what it holds is durable from then on."""
        if self.world.stores.cannot_write(self.role):
            self.after(300, self.boot)
            return
        self._log = self.world.stores.open_log()
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
            key, transaction = message.body
            model = self.world.stores.read_log() if self._log.superseded else self._log.model
            self.answer(message, model.find(key, transaction))

    def on_pause(self, message: Message) -> None:
        """An `Act`: pause or resume."""
        if self.ready and not self.world.stores.cannot_write(self.role):
            self._log.pause(message.body, self.world.wall_ms)
            self.answer(message, None)

    def on_pauses(self, message: Message) -> None:
        """What is paused."""
        if self.ready:
            self.answer(message, self._log.model.pauses)

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
        if self.world.stores.cannot_write(self.role):
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
        if not replies:
            return  # no room: the callers ask again
        for request in requests:
            for record in [item.record for item in request.records]:
                stored = self._log.model.transactions.get(record.transaction)
                if stored is not None and stored.decided is not None:
                    self.world.decided(record.transaction, stored.decided)
        for message, request, reply in zip(messages, requests, replies, strict=True):
            self.world.witness.appended(request, reply)
            if not reply.dropped:
                records = [item.record for item in request.records]
                self.world.operator.stored(zip(records, reply.results, strict=True))
            self.answer(message, encode(reply))
