"""The one place that a store is used from: a thread, and for what is short the event loop while that thread rests."""

from __future__ import annotations

import asyncio
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from orchestrator.shortcut import Shortcut
from orchestrator.watchdog import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Writer:
    """Runs jobs one after another, in a thread of its own or at once; results come back to the event loop that made it.

    Args:
        name: of the thread.
        failed: told what a job raised (where it ran; the job's result never comes) or what was done with its result
            (on the loop).

    Attributes:
        turns: a job is one.
    """

    def __init__(self, name: str, failed: Callable[[BaseException], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._failed = failed
        self.turns = Turns()
        self._shortcut = Shortcut()
        self._queued = 0  # jobs that the thread has, or whose results are on their way back
        self._at_once, self._loop_thread = False, threading.get_ident()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def thread(self) -> int:
        """The ident of the thread that works now."""
        return self._loop_thread if self._at_once else self._thread.ident or 0

    def run(self, job: Callable[[], T], done: Callable[[T], None], items: int | None = None) -> None:
        """Do a job; `done` gets its result on the loop.

        Args:
            job: the work.
            done: perhaps called before this returns, if the job is short.
            items: how many there are to be worked off; None for what is always queued.
        """
        if items is not None and not self._queued and self._shortcut.open(items):
            self._run_at_once(job, done, items)
            return
        self._queued += 1
        self._jobs.put(lambda: self._run(job, done, items))

    async def result(self, job: Callable[[], T]) -> T:
        """The job's result; waits for ever where the job failed, since then the process ends or refuses to serve."""
        future: asyncio.Future[T] = self._loop.create_future()
        self.run(job, lambda value: None if future.done() else future.set_result(value))
        return await future

    def call_on_loop(self, function: Callable[[], None]) -> None:
        """Call something on the loop, from any thread."""
        self._loop.call_soon_threadsafe(function)

    async def close(self) -> None:
        """Let the thread end after the jobs that are queued."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                with self.turns:
                    job()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the owner decides
                self._failed(error)

    def _run(self, job: Callable[[], T], done: Callable[[T], None], items: int | None) -> None:
        began_s = time.monotonic()
        value = job()
        if items is not None:
            self._shortcut.took(items, time.monotonic() - began_s)
        self._loop.call_soon_threadsafe(self._finish, done, value)

    def _run_at_once(self, job: Callable[[], T], done: Callable[[T], None], items: int) -> None:
        began_s = time.monotonic()
        self._at_once = True
        try:
            with self.turns:
                value = job()
        except BaseException as error:  # noqa: BLE001 - as in the thread
            self._failed(error)
            return
        finally:
            self._at_once = False
        self._shortcut.took(items, time.monotonic() - began_s)
        self._done(done, value)

    def _finish(self, done: Callable[[T], None], value: T) -> None:
        self._queued -= 1
        self._done(done, value)

    def _done(self, done: Callable[[T], None], value: T) -> None:
        try:
            done(value)
        except BaseException as error:  # noqa: BLE001 - the loop would only note it, and nobody would go on
            self._failed(error)
