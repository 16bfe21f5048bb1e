"""The shard's reading side of the log."""

from __future__ import annotations

import asyncio

from orchestrator.errors import IndefiniteError
from orchestrator.loader import Loader
from orchestrator.protocol.effects import Joiner, Lookup, Waiter
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import Begun, State, StoredTransaction


def stored(number: int) -> StoredTransaction:
    return StoredTransaction(Begun(make_id(1, 3, 1, number), f"k{number}", b"", "s", 1, b"", 1, 2, 3), State.PREPARING)


def by_key(number: int) -> Lookup:
    return Lookup(Joiner(Waiter("client", number), None), f"k{number}", "")


def by_id(number: int) -> Lookup:
    return Lookup(Joiner(Waiter("client", number), None), "", make_id(1, 3, 1, number))


class Log:
    """Knows the even ones."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str]]] = []
        self.fail = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, keys: list[str], transactions: list[str]) -> list[StoredTransaction]:
        self.calls.append((keys, transactions))
        await self.gate.wait()
        if self.fail:
            self.fail -= 1
            raise IndefiniteError("E_UNREACHABLE", "lost")
        known = [stored(number) for number in range(0, 10_000, 2)]
        return [s for s in known if s.begun.key in set(keys) or s.begun.transaction in set(transactions)]


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_everything_that_waits_is_loaded_in_one_call() -> None:
    log, told = Log(), []
    loader = Loader(log, told.extend)
    log.gate.clear()
    loader.add([by_key(1)])
    await until(lambda: log.calls)
    for number in range(2, 500):
        loader.add([by_key(number)])
    loader.add([by_id(8), by_id(9), by_key(8)])
    log.gate.set()
    await until(lambda: len(told) == 502)
    assert len(log.calls) == 2
    assert {lookup for lookup, found in told if found is not None} == {
        *(by_key(number) for number in range(2, 500, 2)), by_id(8)}
    assert all(found.begun.key == lookup.key for lookup, found in told if found is not None and lookup.key)


async def test_a_call_that_failed_is_made_again() -> None:
    log, told = Log(), []
    log.fail = 2
    Loader(log, told.extend).add([by_key(4)])
    await until(lambda: told)
    assert told == [(by_key(4), stored(4))]
    assert len(log.calls) == 3


async def test_what_there_is_no_room_for_is_given_back() -> None:
    log, told = Log(), []
    log.gate.clear()
    loader = Loader(log, told.extend, waiting_max=3)
    assert not loader.add([by_key(1)])
    await until(lambda: log.calls)
    assert loader.add([by_key(number) for number in range(2, 7)]) == [by_key(5), by_key(6)]
    assert loader.add([by_key(7)]) == [by_key(7)]
    log.gate.set()
    await until(lambda: len(told) == 4)
    assert not loader.add([by_key(5)])
