"""Where a database is written: one turn at a time, in a thread of its own, or on the event loop where that takes no time.

Handing a turn to a thread and back means waking two threads, which a short turn on a quick disk is worth saving. So a turn of
few rows runs on the event loop, as long as the turns before it were quick. One that turns out to be slow (the disk
hesitates, a handler computes) holds the loop up once; the next ones are the thread's again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from orchestrator.watchdog import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK_S = 0.002  # a turn that takes longer is not for the event loop, nor are those right after it
SHORT_MAX = 16  # records or messages: their turn is a short one
QUICK_TURNS = 8  # so many quick ones in a row, wherever they ran, and the next one may run on the loop

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[], Any]
    done: Callable[[Any], None]
    short: bool


class Writer:
    """Runs jobs one after another, in the order they came; call it from one event loop, the one that made it.

    Args:
        name: of the thread.
        failed: told what a job raised (in the thread or on the loop; the job's result never comes) or what was done with its
            result (on the loop). What waits runs afterwards, unless the process has ended by then.

    Attributes:
        turns: a job is one.
    """

    def __init__(self, name: str, failed: Callable[[BaseException], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._failed = failed
        self.turns = Turns()
        self._waiting: deque[_Job] = deque()
        self._busy = self._closed = False
        self._quick = 0  # turns in a row
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        self._on_loop = False
        self._looping = threading.get_ident()

    @property
    def thread(self) -> int:
        """The ident of the thread that the turn under way, or the last one, runs in."""
        return self._looping if self._on_loop else self._thread.ident or 0

    def run(self, work: Callable[[], T], done: Callable[[T], None], *, short: bool = False) -> None:
        """Queue a job.

        Args:
            work: runs in the thread, or on the loop; never during this call.
            done: gets its result, on the loop.
            short: whether it is a turn of few rows, which may run on the loop.
        """
        self._waiting.append(_Job(work, done, short))
        if not self._busy:
            self._go()

    async def result(self, work: Callable[[], T]) -> T:
        """The job's result; waits for ever where the job failed, since then the process ends or refuses to serve."""
        future: asyncio.Future[T] = self._loop.create_future()
        self.run(work, lambda value: None if future.done() else future.set_result(value))
        return await future

    def call_on_loop(self, function: Callable[[], None]) -> None:
        """Call something on the loop, from any thread."""
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """Let the turn under way end, and the thread with it; what waits is not run any more."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _go(self) -> None:
        """Start the next turn; there is one at a time, so the loop and the thread never write at once."""
        if self._closed or not self._waiting:
            self._busy = False
            return
        self._busy = True
        job = self._waiting.popleft()
        self._on_loop = job.short and self._quick >= QUICK_TURNS
        if self._on_loop:
            self._loop.call_soon(self._here, job)  # not now: who asks for it does not wait for its answer yet
        else:
            self._queue.put(job)

    def _here(self, job: _Job) -> None:
        if self._closed:
            return
        try:
            value = self._timed(job)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the owner decides
            self._failed(error)
            self._go()
        else:
            self._finish(job, value)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                value = self._timed(job)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the owner decides
                self._failed(error)
                self._loop.call_soon_threadsafe(self._go)
            else:
                self._loop.call_soon_threadsafe(self._finish, job, value)

    def _timed(self, job: _Job) -> Any:
        began_s = time.perf_counter()
        try:
            with self.turns:
                return job.work()
        finally:
            self._quick = self._quick + 1 if time.perf_counter() - began_s <= QUICK_S else 0

    def _finish(self, job: _Job, value: Any) -> None:
        self._go()  # first: the next turn need not wait until this one is answered
        try:
            job.done(value)
        except BaseException as error:  # noqa: BLE001 - the loop would only note it, and nobody would go on
            self._failed(error)
