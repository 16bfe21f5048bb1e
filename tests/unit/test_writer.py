"""One turn at a time, in the thread or on the event loop: which of them, in which order, and what becomes of failures."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from orchestrator import writer as writer_module
from orchestrator.writer import QUICK_TURNS, Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WAIT_S = 10


class Clock:
    """Takes the place of the clock that turns are measured by."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Rig:
    """A writer whose turns take as long as they say."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.failures: list[BaseException] = []
        self.failed = asyncio.Event()
        self.ran: list[str] = []
        self.under_way = 0
        self.writer = Writer("store-test", self._fail)

    def _fail(self, error: BaseException) -> None:
        self.failures.append(error)
        self.writer.call_on_loop(self.failed.set)

    def turn(self, name: str, took_s: float = 0.0, gate: threading.Event | None = None) -> int:
        """A turn of so many seconds; returns the ident of the thread that it ran in."""
        self.under_way += 1
        assert self.under_way == 1, "two turns at once"
        if gate is not None:
            assert gate.wait(WAIT_S)
        self.clock.now_s += took_s
        self.ran.append(name)
        self.under_way -= 1
        return threading.get_ident()

    async def short(self, name: str = "short", took_s: float = 0.0) -> int:
        """Where a short turn ran."""
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.writer.run(partial(self.turn, name, took_s), answered.set_result, short=True)
        return await asyncio.wait_for(answered, WAIT_S)

    async def trusted(self) -> None:
        """So many quick turns that the next short one may run on the loop."""
        for _ in range(QUICK_TURNS):
            assert await self.short("trust") != threading.get_ident()
        self.ran.clear()


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    clock = Clock()
    monkeypatch.setattr(writer_module, "time", clock)
    rig = Rig(clock)
    yield rig
    rig.writer.close()


async def test_a_short_turn_runs_on_the_loop_once_turns_were_quick(rig: Rig) -> None:
    await rig.trusted()
    assert await rig.short() == threading.get_ident() == rig.writer.thread


async def test_a_turn_that_is_not_short_runs_in_the_thread_all_the_same(rig: Rig) -> None:
    await rig.trusted()
    where = await rig.writer.result(partial(rig.turn, "long"))
    assert where == rig.writer.thread != threading.get_ident()


async def test_after_a_slow_turn_on_the_loop_the_thread_has_to_show_that_they_are_quick_again(rig: Rig) -> None:
    await rig.trusted()
    assert await rig.short(took_s=writer_module.QUICK_S * 1.01) == threading.get_ident()
    await rig.trusted()
    assert await rig.short() == threading.get_ident()


async def test_a_slow_turn_in_the_thread_counts_as_well(rig: Rig) -> None:
    await rig.trusted()
    await rig.writer.result(partial(rig.turn, "long", 1.0))
    assert await rig.short() != threading.get_ident()


async def test_turns_keep_their_order_and_never_run_at_once(rig: Rig) -> None:
    await rig.trusted()
    gate, done = threading.Event(), []
    run: Callable[..., None] = rig.writer.run
    run(partial(rig.turn, "1 in the thread", gate=gate), done.append)
    run(partial(rig.turn, "2 on the loop"), done.append, short=True)
    await asyncio.sleep(0)  # the loop is free to run it, and must not
    run(partial(rig.turn, "3 in the thread"), done.append)
    run(partial(rig.turn, "4 on the loop"), done.append, short=True)
    run(partial(rig.turn, "5 on the loop"), done.append, short=True)
    assert rig.ran == []
    gate.set()
    await rig.writer.result(partial(rig.turn, "6 in the thread"))
    assert [name[0] for name in rig.ran] == list("123456")
    assert [where == threading.get_ident() for where in done] == [False, True, False, True, True]


async def test_a_turn_on_the_loop_begins_after_the_call_that_asked_for_it(rig: Rig) -> None:
    await rig.trusted()
    rig.writer.run(partial(rig.turn, "later"), lambda _: None, short=True)
    assert rig.ran == []
    await rig.short()
    assert rig.ran == ["later", "short"]


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_turn_that_fails_is_told_and_the_next_one_runs(rig: Rig, trusted: bool) -> None:
    if trusted:
        await rig.trusted()
    where = []

    def fails() -> None:
        where.append(threading.get_ident() == threading.main_thread().ident)
        raise OSError("gone")

    rig.writer.run(fails, lambda _: pytest.fail("it has no result"), short=True)
    assert await rig.short("next")
    assert [str(failure) for failure in rig.failures] == ["gone"]
    assert where == [trusted]
    assert rig.writer.turns.progress() is None


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_failure_with_a_result_is_told_and_the_next_turn_runs(rig: Rig, trusted: bool) -> None:
    if trusted:
        await rig.trusted()

    def broken(_: int) -> None:
        raise KeyError("a bug")

    rig.writer.run(partial(rig.turn, "answered wrongly"), broken, short=True)
    await rig.short("next")
    assert [repr(failure) for failure in rig.failures] == ["KeyError('a bug')"]
    assert rig.ran == ["answered wrongly", "next"]


async def test_a_turn_that_has_not_begun_when_it_is_closed_does_not_run(rig: Rig) -> None:
    await rig.trusted()
    rig.writer.run(partial(rig.turn, "pending on the loop"), lambda _: None, short=True)
    rig.writer.run(partial(rig.turn, "waits"), lambda _: None)
    rig.writer.close()
    rig.writer.run(partial(rig.turn, "too late"), lambda _: None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert rig.ran == []


async def test_closing_waits_for_the_turn_in_the_thread(rig: Rig) -> None:
    gate = threading.Event()
    rig.writer.run(partial(rig.turn, "under way", gate=gate), lambda _: None)
    threading.Timer(0.05, gate.set).start()
    rig.writer.close()
    assert rig.ran == ["under way"]
