"""The asynchronous parts under way: one per (transaction, step), whoever asks for it again joins."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from actors.ledger import answer
from actors.runner import UNASKED, Outcome, request_of
from orchestrator.errors import ErrorCode, RaytxError
from orchestrator.logs import log_event, redact
from orchestrator.protocol.bounds import clipped
from orchestrator.protocol.messages import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from actors.ledger import Key
    from actors.operation import Operation
    from actors.runner import Work

ASK_S_MAX = 60.0


class Asking:
    """Runs asynchronous parts; lives on one event loop.

    Args:
        service: the service's name, for logs.
        operations: by name.
        resume: gets works to be worked off again, now with an answer (or without one, where a rollback came first).
        reply: gets outcomes of works whose asynchronous part failed: transient, nothing was written.
        failed: told what `resume` or `reply` raised.
    """

    def __init__(
        self, service: str, operations: Mapping[str, Operation], resume: Callable[[list[Work]], None],
        reply: Callable[[list[Outcome]], None], failed: Callable[[BaseException], None],
    ) -> None:
        self._service, self._operations = service, operations
        self._resume, self._reply, self._crashed = resume, reply, failed
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._waiting: dict[Key, list[Work]] = {}

    def start(self, work: Work) -> None:
        """Ask for this work, or join what is asked already for its (transaction, step)."""
        key = (work.command.transaction, work.command.step)
        if key in self._waiting:
            self._waiting[key].append(work)
            return
        self._waiting[key] = [work]
        task = self._running[key] = asyncio.get_running_loop().create_task(self._ask(key, work))
        task.add_done_callback(self._ended)

    def rolled_back(self, key: Key) -> None:
        """The tombstone is written: nobody needs the answer any more."""
        task = self._running.get(key)
        if task is not None:
            task.cancel()
            # what waits meets the tombstone; a task cancelled before its first step would never say so itself
            self._settle(key)

    async def close(self) -> None:
        """Cancel everything under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crashed(error)

    def _settle(self, key: Key) -> None:
        self._running.pop(key, None)
        waiting = self._waiting.pop(key, [])
        if waiting:
            self._resume(waiting)

    async def _ask(self, key: Key, work: Work) -> None:
        command = work.command
        operation = self._operations[command.operation]
        try:
            async with asyncio.timeout(ASK_S_MAX):
                found = await operation.inquire(command, request_of(operation, command))
        except (Exception, asyncio.CancelledError) as error:  # of user code: the attempt counts as transient
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # from outside, by the rollback or the end: nobody waits
            self._failed(key, work, error)
            return
        self._running.pop(key, None)
        # a repeat with another request must not get this one's answer: it meets the row, or asks for itself
        self._resume([w._replace(answer=found if w.command.request == command.request else UNASKED)
                      for w in self._waiting.pop(key, [])])

    def _failed(self, key: Key, work: Work, error: BaseException) -> None:
        code = error.code if isinstance(error, RaytxError) else str(ErrorCode.SERVICE_ERROR)
        told = clipped(redact(f"{type(error).__name__}: {error}"))
        log_event("ask_failed", level="WARNING", transaction=key[0], service=self._service, step=key[1],
                  attempt=work.command.attempt, code=code, message=told)
        self._running.pop(key, None)
        self._reply([Outcome(w, answer(w.command, Status.ERROR, code, told)) for w in self._waiting.pop(key, [])])
