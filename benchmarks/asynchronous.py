"""A driver's port to what is written with asyncio: one event loop in a thread of its own, one task an order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import uvloop

from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.outcome import Handle, Outcome, OutcomeKind

Place = Callable[[str, dict[str, Any]], Awaitable[str]]


class AsyncPort:
    """Fits the drivers' port.

    Args:
        sagas: by name, what runs one: key and input to the code of an abort, "" where it committed.
    """

    def __init__(self, sagas: Mapping[str, Place]) -> None:
        self._sagas = sagas
        self._loop = uvloop.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bench-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def submit(self, saga: str, data: Any, *, key: str) -> Handle:
        """Start one; returns at once."""
        handle = Handle(key, 0, _no_cancel)
        self._loop.call_soon_threadsafe(self._start, handle, saga, data)
        return handle

    def _start(self, handle: Handle, saga: str, data: Any) -> None:
        task = self._loop.create_task(self._run(handle, saga, data))
        self._tasks.add(task)  # the loop itself keeps weak references only
        task.add_done_callback(self._tasks.discard)

    async def _run(self, handle: Handle, saga: str, data: Any) -> None:
        try:
            code = await self._sagas[saga](handle.key, data)
        except Exception as error:  # noqa: BLE001 - whatever the other system raises: what came of it is unknown
            handle.settle(None, IndefiniteError(ErrorCode.UNREACHABLE, f"{type(error).__name__}: {error}"))
            return
        kind = OutcomeKind.ABORTED if code else OutcomeKind.COMMITTED
        handle.settle(Outcome(handle.key, handle.key, kind, code), None)


def _no_cancel(handle: Handle) -> Handle:
    return handle
