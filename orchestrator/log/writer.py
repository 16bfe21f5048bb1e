"""Group commit of the log: whoever arrives during a commit joins the next one, a lonely append waits for nobody."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.logs import log_event
from orchestrator.protocol.counts import Histogram
from orchestrator.writer import SHORT_MAX, Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.log.store import LogStore
    from orchestrator.protocol.records import AppendReply, AppendRequest
    from orchestrator.watchdog import Turns

T = TypeVar("T")


class _Group:
    """What one turn does: the jobs, one by one, then all appends with one commit."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[LogStore], Any], asyncio.Future[Any]]] = []
        self.requests: list[AppendRequest] = []
        self.waiting: list[asyncio.Future[AppendReply]] = []

    @property
    def short(self) -> bool:
        return not self.jobs and sum(len(request.records) for request in self.requests) <= SHORT_MAX


class LogWriter:
    """Runs everything that writes to a log, one turn at a time; call it from one event loop.

    Args:
        store: the log; this writer's alone from now on.
        failed: called (in the thread or on the loop) with an error after which the outcome of the turn is unknown. Not
            everybody of that turn is answered, and there is no other turn; it must end the process.

    Attributes:
        appended: how many appends were stored.
        records: those of each commit of appends.
    """

    def __init__(self, store: LogStore, failed: Callable[[BaseException], None]) -> None:
        self._store = store
        self.appended, self.records = 0, Histogram()
        self._loop = asyncio.get_running_loop()
        self._next = _Group()
        self._busy = False
        self._writer = Writer("log-writer", failed)

    @property
    def turns(self) -> Turns:
        """What its writer is at; every job of a turn is progress."""
        return self._writer.turns

    @property
    def thread(self) -> int:
        """The ident of the thread that the turn under way, or the last one, runs in."""
        return self._writer.thread

    @property
    def waiting(self) -> int:
        """Appends and jobs that wait for the next turn."""
        return len(self._next.requests) + len(self._next.jobs)

    def append(self, request: AppendRequest) -> asyncio.Future[AppendReply]:
        """Append a request together with whatever else waits; the reply comes when it is durable.

        Raises:
            IndefiniteError: E_UNREACHABLE, the disk is full; append the same again.
        """
        future: asyncio.Future[AppendReply] = self._loop.create_future()
        self._next.requests.append(request)
        self._next.waiting.append(future)
        self._go()
        return future

    def call(self, job: Callable[[LogStore], T]) -> asyncio.Future[T]:
        """Run a function of the store in the writer's turn.

        Raises:
            IndefiniteError: E_UNREACHABLE, the disk is full; do the same again.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._next.jobs.append((job, future))
        self._go()
        return future

    def close(self) -> None:
        """Let the turn under way end, then give the log up."""
        self._writer.close()
        self._store.close()

    def _go(self) -> None:
        if not self._busy and (self._next.jobs or self._next.requests):
            group, self._next = self._next, _Group()
            self._busy = True
            self._writer.run(partial(self._turn, group), self._answer, short=group.short)

    def _turn(self, group: _Group) -> list[tuple[asyncio.Future[Any], Any]]:
        answers: list[tuple[asyncio.Future[Any], Any]] = [
            (future, self._work(partial(job, self._store))) for job, future in group.jobs]
        if group.requests:
            now_ms = time.time_ns() // 1_000_000
            replies = self._work(partial(self._store.append, group.requests, now_ms))
            if isinstance(replies, IndefiniteError):
                replies = [replies] * len(group.waiting)
            else:
                self.appended += len(replies)
                self.records.observe(sum(len(request.records) for request in group.requests))
            answers += zip(group.waiting, replies, strict=True)
        return answers

    def _work(self, work: Callable[[], Any]) -> Any:
        self._writer.turns.step()
        return _unless_full(work)

    def _answer(self, answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
        self._busy = False
        self._go()
        for future, answer in answers:
            if future.done():
                continue  # its caller is gone
            if isinstance(answer, IndefiniteError):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _unless_full(work: Callable[[], Any]) -> Any:
    """The work's result, or an error as a value where the disk is full: the store has read anew what it holds.

    Unlike a failed fsync, a write for which there is no room leaves no page that is taken for clean, so the log can go
    on once there is room again.
    """
    try:
        return work()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        log_event("disk_full", level="ERROR", code=ErrorCode.UNREACHABLE, message=str(error))
        return IndefiniteError(ErrorCode.UNREACHABLE, "the transaction log's disk is full: make room")
