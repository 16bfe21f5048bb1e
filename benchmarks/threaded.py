"""A driver's port to what is written with plain functions: a pool of threads, one of them an order at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.outcome import Handle, Outcome, OutcomeKind

Place = Callable[[str, dict[str, Any]], str]


class ThreadedPort:
    """Fits the drivers' port.

    Args:
        sagas: by name, what runs one: key and input to the code of an abort, "" where it committed.
        threads: how many run at a time.
    """

    def __init__(self, sagas: Mapping[str, Place], threads: int) -> None:
        self._sagas = sagas
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bench")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._pool.shutdown()

    def submit(self, saga: str, data: Any, *, key: str) -> Handle:
        """Queue one; returns at once."""
        handle = Handle(key, 0, _no_cancel)
        self._pool.submit(self._run, handle, saga, data)
        return handle

    def _run(self, handle: Handle, saga: str, data: Any) -> None:
        try:
            code = self._sagas[saga](handle.key, data)
        except Exception as error:  # noqa: BLE001 - whatever the other system raises: what came of it is unknown
            handle.settle(None, IndefiniteError(ErrorCode.UNREACHABLE, f"{type(error).__name__}: {error}"))
            return
        kind = OutcomeKind.ABORTED if code else OutcomeKind.COMMITTED
        handle.settle(Outcome(handle.key, handle.key, kind, code), None)


def _no_cancel(handle: Handle) -> Handle:
    return handle
