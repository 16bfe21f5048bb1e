"""The one thread that a store is used from."""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from orchestrator.watchdog import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Writer:
    """Runs jobs one after another, in a thread of its own; results come back to the event loop that made it.

    Args:
        name: of the thread.
        failed: told what a job raised (in that thread; the job's result never comes) or what was done with its result
            (on the loop).

    Attributes:
        turns: a job is one.
    """

    def __init__(self, name: str, failed: Callable[[BaseException], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._failed = failed
        self.turns = Turns()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def thread(self) -> int:
        """The thread's ident."""
        return self._thread.ident or 0

    def run(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        """Queue a job; `done` gets its result on the loop."""
        self._jobs.put(lambda: self._run(job, done))

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

    def _run(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        value = job()
        self._loop.call_soon_threadsafe(self._finish, done, value)

    def _finish(self, done: Callable[[T], None], value: T) -> None:
        try:
            done(value)
        except BaseException as error:  # noqa: BLE001 - the loop would only note it, and nobody would go on
            self._failed(error)
