"""What a caller is told: an outcome, and the handle on which to wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError, OverloadedError, RaytxError, RefusedForNowError
from orchestrator.protocol.messages import OutcomeMessage, OutcomeStatus, StepResult
from orchestrator.saga import decode_plain


class OutcomeKind(StrEnum):
    """How a transaction ended."""

    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"
    OPEN = "OPEN"  # told to an operator only: what was asked for is done, the transaction goes on


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one transaction ended, durable when it is told.

    Attributes:
        transaction: the id.
        key: the caller's idempotency key, empty where it was asked for by id.
        status: COMMITTED or ABORTED.
        code, message: why it aborted: a stable code and a text for a person.
        service, step, attempts: where it aborted, if a step was the reason.
    """

    transaction: str
    key: str
    status: OutcomeKind
    code: str = ""
    message: str = ""
    service: str = ""
    step: str = ""
    attempts: int = 0
    encoded: tuple[StepResult, ...] = field(default=(), repr=False)

    @property
    def committed(self) -> bool:
        """Whether every participant has committed or will."""
        return self.status is OutcomeKind.COMMITTED

    @property
    def results(self) -> dict[str, Any]:
        """The result of each prepared step by its name, as plain data; empty where it aborted."""
        return {item.step: decode_plain(item.result) for item in self.encoded}


class Handle:
    """One submitted (or looked-up) transaction; thread-safe, awaitable from any event loop.

    `await handle` and `outcome()` return the `Outcome` or raise what `submit`'s documentation names.
    """

    __slots__ = ("_callbacks", "_cancel", "_error", "_lock", "_outcome", "key", "number")

    def __init__(self, key: str, number: int, cancel: Callable[[Handle], Handle]) -> None:
        self.key = key
        self.number = number
        self._cancel = cancel
        self._outcome: Outcome | None = None
        self._error: RaytxError | None = None
        self._callbacks: list[Callable[[Handle], object]] | None = None
        self._lock = _LOCK

    def __repr__(self) -> str:
        return f"Handle(key={self.key!r}, {self._outcome.status if self._outcome else self._error or 'pending'})"

    @property
    def transaction(self) -> str | None:
        """The transaction id, once the outcome is known."""
        return self._outcome.transaction if self._outcome else None

    def done(self) -> bool:
        """Whether there is an outcome or an error."""
        return self._outcome is not None or self._error is not None

    def outcome(self, timeout_s: float | None = None) -> Outcome:
        """Wait for the outcome; not from within an event loop (there: `await handle`).

        Raises:
            DefiniteError: refused before anything was begun (E_KEY_CONFLICT, E_OVERLOADED, E_UNAVAILABLE, E_INVALID_INPUT...);
                a `RefusedForNowError` says after how long to try again.
            IndefiniteError: E_PENDING after `timeout_s` seconds (the transaction goes on; wait or ask again), or the
                client was closed.
        """
        if not self.done():
            event = threading.Event()
            self.add_done_callback(lambda _: event.set())
            if not event.wait(timeout_s):
                raise IndefiniteError(ErrorCode.PENDING, f"no outcome within {timeout_s} s; the transaction goes on")
        return self._get()

    def __await__(self) -> Generator[Any, None, Outcome]:
        if not self.done():
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self.add_done_callback(lambda _: _wake_on(loop, future))
            yield from future
        return self._get()

    def cancel(self) -> Handle:
        """Ask to abort it; the first durable decision wins, and the handle returned tells which."""
        return self._cancel(self)

    def add_done_callback(self, callback: Callable[[Handle], object]) -> None:
        """Have `callback(handle)` called when done: on the client's own thread (keep it short), or now if it is."""
        with self._lock:
            if not self.done():
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        callback(self)

    def settle(self, outcome: Outcome | None, error: RaytxError | None) -> None:
        """For the client: store what was told and wake whoever waits."""
        with self._lock:
            self._outcome, self._error = outcome, error
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception:  # one caller's mistake must not cost the others their outcomes
                logging.getLogger("raytx").exception("a done-callback of %r raised", self)

    def _get(self) -> Outcome:
        if self._outcome is None:
            assert self._error is not None
            raise self._error
        return self._outcome


_LOCK = threading.Lock()  # one for all handles: it is held for a few instructions


def _wake_on(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    with contextlib.suppress(RuntimeError):  # whoever waited has given up, and its loop is closed
        loop.call_soon_threadsafe(_wake, future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_KINDS = {
    OutcomeStatus.COMMITTED: OutcomeKind.COMMITTED, OutcomeStatus.ABORTED: OutcomeKind.ABORTED,
    OutcomeStatus.ACTED: OutcomeKind.OPEN}


def from_message(message: OutcomeMessage, key: str) -> tuple[Outcome | None, RaytxError | None]:
    """What a shard told, as an outcome or as the error to raise."""
    if message.status is OutcomeStatus.REJECTED:
        if message.code == ErrorCode.OVERLOADED:
            return None, OverloadedError(message.message, message.retry_after_ms)
        if message.retry_after_ms:
            return None, RefusedForNowError(message.code, message.message, message.retry_after_ms)
        return None, DefiniteError(message.code, message.message)
    outcome = Outcome(message.transaction, key, _KINDS[message.status], message.code, message.message, message.service,
                      message.step, message.attempts, tuple(message.results))
    return outcome, None
