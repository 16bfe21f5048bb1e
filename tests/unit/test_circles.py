"""What an actor does over and over leaves nothing behind that refers to itself.

Such garbage is freed by the collector only, which serving processes call seldom (`orchestrator.garbage`): until then whole
batches with all their rows would be kept.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from actors import payment
from actors.runner import BatchRunner, Work
from actors.store import Retention, Store, create_store
from orchestrator.config import Settings
from orchestrator.exchange import Caller, Responder
from orchestrator.log.actor import LogSpec, TransactionLog
from orchestrator.log.store import create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind
from orchestrator.protocol.records import AppendRequest, Begun, Decided, Decision, Ended, EpochRecord, TakeRequest, encode
from orchestrator.saga import encode_plain

NOW_MS = 1_700_000_000_000
TIMES = 50


async def circles(once: Callable[[int], Awaitable[None]]) -> int:
    """How many objects that refer to themselves are left for each time something is done."""
    await once(0)  # what is made once may stay
    gc.collect()
    gc.disable()
    try:
        for number in range(1, TIMES + 1):
            await once(number)
        return gc.collect() // TIMES
    finally:
        gc.enable()


async def test_what_makes_circles_is_noticed() -> None:
    async def once(_: int) -> None:
        circle: list[object] = []
        circle.append(circle)

    assert await circles(once) == 1


async def test_an_append_leaves_none(tmp_path: Path) -> None:
    create_log(tmp_path / "log" / "log.sqlite")
    log = TransactionLog(LogSpec(str(tmp_path), "raytx-test", "run", Settings(log_level="OFF").pack()))
    await log.take(encode(TakeRequest(1, 0, "first", [7], 1, "run")))

    async def once(number: int) -> None:
        txn = make_id(NOW_MS, 7, 1, number)
        records = [Begun(txn, txn, b"a" * 16, "order", 1, b"input", NOW_MS, NOW_MS + 30_000, 30_000),
                   Decided(txn, Decision.COMMIT, NOW_MS), Ended(txn, NOW_MS)]
        await log.append(encode(AppendRequest(1, 0, "first", number + 1, [EpochRecord(1, record) for record in records])))

    assert await circles(once) == 0
    assert log._purging is not None
    log._purging.cancel()
    log._writer.close()
    log._readers.shutdown()


async def test_a_batch_of_a_service_leaves_none(tmp_path: Path) -> None:
    create_store(tmp_path / "payment.sqlite", "payment")
    store = Store(tmp_path / "payment.sqlite", "payment", "run")
    runner = BatchRunner("payment", payment.Payment().bound, store)
    request = encode_plain({"lines": [{"account": "ann", "amount_minor": 5}]})

    async def once(number: int) -> None:
        txn = make_id(NOW_MS, 7, 1, number)
        for kind in (Kind.PREPARE, Kind.COMMIT):
            command = Command(txn, "deposit", kind, 1, 1, "deposit", request)
            (outcome,) = runner.run([Work(command, "shard-0")], Retention(), NOW_MS)
            assert outcome.reply is not None

    assert await circles(once) == 0
    store.close()


async def test_an_exchange_leaves_none() -> None:
    responder: Responder[int] = Responder()
    received: list[int] = []

    class Port:
        async def call(self, payload: bytes) -> bytes:
            responder.put("me", msgspec.msgpack.decode(payload))
            return msgspec.msgpack.encode(await responder.collect("me"))

    responder.open("me")
    caller: Caller[int, int] = Caller(
        Port(), encode=msgspec.msgpack.encode, decode=lambda answer: ("", msgspec.msgpack.decode(answer)),
        deliver=received.extend, key=lambda number: number, settles=lambda *_: True, key_of_result=lambda number: number)

    async def once(number: int) -> None:
        caller.send([number])
        while caller._calls:
            await next(iter(caller._calls))

    assert await circles(once) == 0
    assert received == list(range(TIMES + 1))
    await caller.close()
