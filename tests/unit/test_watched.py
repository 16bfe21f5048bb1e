"""A watch sees every synchronous handler call of a local participant, and decides what becomes of it."""

from __future__ import annotations

import msgspec

from actors.inventory import Inventory, Reserved
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import SCHEMA_VERSION, Command, CommandBatch, Kind, Reply, ReplyBatch, Status
from orchestrator.protocol.records import encode
from orchestrator.saga import encode_plain
from orchestrator.testing.simulation.journal import Journal


def told(life, *commands: Command) -> list[Reply]:
    life.arrive(encode(CommandBatch(SCHEMA_VERSION, "shard", "1", list(commands))))
    return [reply for mail in life.turn(1) for reply in msgspec.msgpack.decode(mail.payload, type=ReplyBatch).replies]


def command(kind: Kind, operation: str, step: str, request=None) -> Command:
    return Command(make_id(9, 0, 1, 1), step, kind, 1, 1, operation, encode_plain(request) if request else b"")


def test_every_call_is_seen() -> None:
    seen = []

    def watch(call, run):
        seen.append((call.part, call.operation, call.step, type(call.result).__name__))
        return run()

    life = Inventory().local(Journal("inventory"), 0, 1_000, watch=watch)
    told(life, command(Kind.PREPARE, "receive", "in", {"lines": [{"sku": "A", "quantity": 2}]}))
    told(life, command(Kind.COMMIT, "receive", "in"))
    reserve = {"order_id": "o", "lines": [("A", 1)]}
    assert [reply.status for reply in told(life, command(Kind.PREPARE, "reserve", "out", reserve))] == [Status.YES]
    told(life, command(Kind.ROLLBACK, "reserve", "out"))
    told(life, command(Kind.ROLLBACK, "reserve", "out"))
    assert seen == [
        ("prepare", "receive", "in", "NoneType"), ("commit", "receive", "in", "Received"),
        ("prepare", "reserve", "out", "NoneType"), ("rollback", "reserve", "out", Reserved.__name__)]
    assert set(life.values) == {"sku/A"}


def test_what_a_watch_raises_is_what_the_handler_raised() -> None:
    def watch(call, run):
        run()
        raise OSError("unplugged")

    life = Inventory().local(Journal("inventory"), 0, 1_000, watch=watch)
    (reply,) = told(life, command(Kind.PREPARE, "receive", "in", {"lines": [{"sku": "A", "quantity": 2}]}))
    assert (reply.status, reply.message) == (Status.ERROR, "OSError: unplugged")
    assert life.values == {}
