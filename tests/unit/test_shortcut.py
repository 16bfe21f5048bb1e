"""What is short is done on the event loop itself, what is long or large by the writer's thread; never both at once."""

import asyncio
import threading
import time

import pytest

from actors.writer import Writer
from orchestrator.shortcut import ITEMS_MAX, SECONDS_MAX, Shortcut


def test_nothing_is_known_at_first_and_one_short_turn_opens_the_way():
    shortcut = Shortcut()
    assert not shortcut.open(1)
    shortcut.took(1, SECONDS_MAX / 10)
    assert shortcut.open(1)
    assert shortcut.open(ITEMS_MAX)
    assert not shortcut.open(ITEMS_MAX + 1)


def test_one_long_turn_closes_the_way_until_several_have_been_short():
    shortcut = Shortcut()
    shortcut.took(1, 0.0)
    shortcut.took(1, 2 * SECONDS_MAX)
    turns = 0
    while not shortcut.open(1):
        shortcut.took(1, SECONDS_MAX / 10)
        turns += 1
    assert turns > 2


def test_large_turns_say_nothing_about_small_ones():
    shortcut = Shortcut()
    shortcut.took(1, 0.0)
    shortcut.took(ITEMS_MAX + 1, 10 * SECONDS_MAX)
    assert shortcut.open(1)


class Rig:
    """A writer whose jobs tell which thread did them, and whether two ran at once."""

    def __init__(self):
        self.failures = []
        self.writer = Writer("writer", self.failures.append)
        self.threads = []
        self.inside = 0

    def job(self, hold=None):
        self.inside += 1
        assert self.inside == 1, "two turns at once"
        if hold is not None:
            assert hold.wait(10)
        self.threads.append(self.writer.thread)
        assert self.writer.thread == threading.get_ident()
        self.inside -= 1
        return len(self.threads)

    async def warm(self):
        done = asyncio.Event()
        self.writer.run(self.job, lambda _: done.set(), 1)
        await done.wait()


@pytest.fixture
async def rig():
    made = Rig()
    yield made
    await made.writer.close()
    assert made.failures == []


async def test_a_short_job_is_done_before_run_returns_and_by_this_thread(rig):
    await rig.warm()
    results = []
    rig.writer.run(rig.job, results.append, 1)
    assert results == [2]
    assert rig.threads[0] != rig.threads[1] == threading.get_ident()


async def test_a_job_behind_a_queued_one_is_queued_too(rig):
    await rig.warm()
    hold, results = threading.Event(), []
    first = asyncio.ensure_future(rig.writer.result(lambda: rig.job(hold)))
    await asyncio.sleep(0)  # it is with the thread now
    rig.writer.run(rig.job, results.append, 1)
    assert results == []
    hold.set()
    assert await first == 2
    assert await rig.writer.result(rig.job) == 4
    assert results == [3]


async def test_what_is_large_or_has_been_slow_goes_to_the_thread(rig):
    await rig.warm()
    large = asyncio.Event()
    rig.writer.run(rig.job, lambda _: large.set(), ITEMS_MAX + 1)
    await large.wait()
    slow = []
    rig.writer.run(lambda: time.sleep(2 * SECONDS_MAX) or rig.job(), slow.append, 1)
    assert slow, "nothing was known of it yet"
    again = asyncio.Event()
    rig.writer.run(rig.job, lambda _: again.set(), 1)
    await again.wait()
    assert rig.threads.count(threading.get_ident()) == 1


async def test_what_a_job_raises_here_is_told_as_from_the_thread(rig):
    await rig.warm()
    rig.writer.run(lambda: 1 / 0, lambda _: None, 1)
    assert [type(failure) for failure in rig.failures] == [ZeroDivisionError]
    rig.failures.clear()
    assert rig.writer.turns.progress() is None
