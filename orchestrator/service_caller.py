"""A shard's conversation with one service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator.exchange import Caller
from orchestrator.protocol.messages import Command, Kind, Reply, ReplyBatch, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.errors import IndefiniteError
    from orchestrator.exchange import Port

_REPLIES = msgspec.msgpack.Decoder(ReplyBatch)


def service_caller(
    port: Port, *, encode: Callable[[list[Command]], bytes], deliver: Callable[[list[Reply]], None],
    lost: Callable[[IndefiniteError], None],
) -> Caller[Command, Reply]:
    """Sends commands and gets replies; see `Caller`."""
    return Caller(
        port,
        encode=encode,
        decode=_decode,
        deliver=deliver,
        key=lambda command: (command.transaction, command.step),
        settles=_settles,
        patient=_finishes,  # the caller has been told the outcome
        first=_finishes,
        weigh=lambda command: len(command.request),
        key_of_result=lambda reply: (reply.transaction, reply.step),
        lost=lost,
    )


def _finishes(command: Command) -> bool:
    return command.kind is not Kind.PREPARE


def _settles(reply: Reply, command: Command) -> bool:
    """A vote or an ack ends the command whatever its attempt; a transient answer only that attempt."""
    if reply.kind is not command.kind:
        return False
    return reply.attempt >= command.attempt or reply.status in (Status.YES, Status.NO, Status.ACK, Status.VIOLATION)


def _decode(answer: bytes) -> tuple[str, list[Reply]]:
    batch = _REPLIES.decode(answer)
    return batch.conversation, batch.replies
