"""The client's own thread: an event loop that keeps one conversation per shard and settles handles."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec
import uvloop

from orchestrator.errors import ErrorCode, IndefiniteError, OverloadedError, RefusedForNowError
from orchestrator.exchange import Caller, Port
from orchestrator.logs import log_event
from orchestrator.outcome import Handle, from_message
from orchestrator.protocol.identifiers import partition_of, partition_of_key
from orchestrator.protocol.messages import (
    SCHEMA_VERSION,
    ActRequest,
    CancelRequest,
    ClientBatch,
    LookupRequest,
    OutcomeBatch,
    OutcomeMessage,
    OutcomeStatus,
    SubmitRequest,
)
from orchestrator.protocol.records import encode

RETRY_S = 0.05
WAITING_MAX = 100_000
FULL_RETRY_MS = 100
GATHER_S_MAX = 0.005  # a call to a shard stays open until some order has its outcome: wait about as long as one takes

Request = SubmitRequest | CancelRequest | LookupRequest | ActRequest
_OUTCOMES = msgspec.msgpack.Decoder(OutcomeBatch)


class PortFactory(Protocol):
    """Makes the port of a shard by its index."""

    def __call__(self, shard: int) -> Port:
        """The port."""


class Conversation:
    """Sends requests from any thread, coalesced; every request is repeated until it is answered.

    Args:
        shards: how many there are; partition p belongs to shard p % shards.
        port: makes each shard's port.
        waiting_max: requests without an answer, beyond which new submits are refused.
        release: gives up what the ports have open; called on the loop.
    """

    def __init__(
        self, shards: int, port: PortFactory, *, waiting_max: int = WAITING_MAX, release: Callable[[], None] = lambda: None,
    ) -> None:
        self._shards = shards
        self._port = port
        self._waiting_max = waiting_max
        self._release = release
        self._full_until_s: dict[tuple[int, str], float] = {}  # by shard and saga: where it is full, and until when
        self._down_until_s: dict[tuple[int, str], tuple[float, str]] = {}  # likewise where a service is down, and which
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}
        self._sagas: dict[int, str] = {}
        self._queue: list[Request] = []
        self._lock = threading.Lock()
        self._woken = False
        self._closed, self._failure = False, ""
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(self._bug)
        self._thread = threading.Thread(target=self._run, name="raytx-client", daemon=True)
        self._callers: list[Caller[Request, OutcomeMessage]] = []
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._handles)

    def refusal(self, key: str, saga: str) -> RefusedForNowError | None:
        """Why a submit of this key must not be sent now; None if it may.

        A shard that is full has said when to come back, and asking it before that would only take from it the time that
        it needs for what it has accepted. It may be full for one saga only: that of a service that does not answer.
        """
        if len(self._handles) >= self._waiting_max:
            return OverloadedError(f"{len(self._handles)} requests of this client wait for an answer", FULL_RETRY_MS)
        if self._full_until_s:
            shard = partition_of_key(key) % self._shards
            left_s = self._full_until_s.get((shard, saga), 0.0) - time.monotonic()
            if left_s > 0:
                return OverloadedError(f"shard {shard} has said that it is full for {saga}", int(left_s * 1000) + 1)
        if self._down_until_s:
            until_s, why = self._down_until_s.get((partition_of_key(key) % self._shards, saga), (0.0, ""))
            left_s = until_s - time.monotonic()
            if left_s > 0:
                return RefusedForNowError(ErrorCode.UNAVAILABLE, why, int(left_s * 1000) + 1)
        return None

    def request(self, key: str, make: Callable[[int], Request], cancel: Callable[[Handle], Handle]) -> Handle:
        """Queue what `make(number)` returns; the handle settles when a shard has answered.

        Raises:
            IndefiniteError: E_UNREACHABLE, the client is closed.
        """
        number = next(self._numbers)
        handle = Handle(key, number, cancel)
        request = make(number)
        with self._lock:
            if self._closed or self._failure:
                raise IndefiniteError(ErrorCode.UNREACHABLE, self._failure or "this client is closed")
            self._handles[number] = handle
            if isinstance(request, SubmitRequest):
                self._sagas[number] = request.saga
            self._queue.append(request)
            wake, self._woken = not self._woken, True
        if wake:
            self._loop.call_soon_threadsafe(self._flush)
        return handle

    def abandon(self, number: int) -> None:
        """Send a request no more, and wait for its answer no more."""
        with self._lock:
            self._handles.pop(number, None)
            self._queue = [request for request in self._queue if request.number != number]
            closed = self._closed
        if not closed:
            self._loop.call_soon_threadsafe(self._forget, number)

    def close(self) -> None:
        """Stop; handles still waiting raise IndefiniteError: what they asked for may have happened."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for handle in list(self._handles.values()):
            handle.settle(None, IndefiniteError(ErrorCode.UNREACHABLE, "the client was closed before the outcome came"))
        self._handles.clear()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._callers = [self._caller(shard) for shard in range(self._shards)]
        self._loop.run_forever()

    def _bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody has foreseen, in this client or from its shards: whoever waits must not wait for ever."""
        error = context.get("exception")
        told = f"this client has failed: {context['message']}" + (f" ({type(error).__name__}: {error})" if error else "")
        log_event("client_failed", level="ERROR", code=ErrorCode.UNREACHABLE, message=told)
        if error is None:
            return
        with self._lock:
            self._failure = told
            handles, self._handles = list(self._handles.values()), {}
        for handle in handles:
            handle.settle(None, IndefiniteError(ErrorCode.UNREACHABLE, told))

    async def _close(self) -> None:
        for caller in self._callers:
            await caller.close()
        self._release()
        await asyncio.sleep(0)  # what was ended is closed at the loop's next turn

    def _caller(self, shard: int) -> Caller[Request, OutcomeMessage]:
        return Caller(
            self._port(shard),
            encode=self._encode,
            decode=partial(self._decode, shard),
            deliver=partial(self._deliver, shard),
            key=_number,
            settles=lambda outcome, _: outcome.status is not OutcomeStatus.RETRY,
            key_of_result=_number,
            gather_s_max=GATHER_S_MAX,
            weigh=lambda request: len(request.input) if isinstance(request, SubmitRequest) else 0,
        )

    def _flush(self) -> None:
        with self._lock:
            queue, self._queue = self._queue, []
            self._woken = False
        if self._shards == 1:
            self._callers[0].send(queue)
            return
        by_shard: dict[int, list[Request]] = {}
        for request in queue:
            by_shard.setdefault(self._shard_of(request), []).append(request)
        for shard, requests in by_shard.items():
            self._callers[shard].send(requests)

    def _shard_of(self, request: Request) -> int:
        by_id = not isinstance(request, SubmitRequest) and request.transaction
        partition = partition_of(request.transaction) if by_id else partition_of_key(request.key)  # type: ignore[union-attr]
        return partition % self._shards

    def _encode(self, requests: list[Request]) -> bytes:
        return encode(ClientBatch(
            SCHEMA_VERSION, self._name,
            [r for r in requests if isinstance(r, SubmitRequest)],
            [r for r in requests if isinstance(r, CancelRequest)],
            [r for r in requests if isinstance(r, LookupRequest)],
            [r for r in requests if isinstance(r, ActRequest)]))

    def _decode(self, shard: int, answer: bytes) -> tuple[str, list[OutcomeMessage]]:
        batch = _OUTCOMES.decode(answer)
        for saga, full_ms in batch.full_ms.items():  # known before anything was refused
            self._full_until_s[shard, saga] = time.monotonic() + full_ms / 1000
        return batch.conversation, batch.outcomes

    def _deliver(self, shard: int, outcomes: list[OutcomeMessage]) -> None:
        for message in outcomes:
            saga = self._sagas.pop(message.number, "") if message.status is not OutcomeStatus.RETRY else ""
            if message.code == ErrorCode.OVERLOADED:
                self._full_until_s[shard, saga] = time.monotonic() + message.retry_after_ms / 1000
            elif message.code == ErrorCode.UNAVAILABLE:
                self._down_until_s[shard, saga] = (time.monotonic() + message.retry_after_ms / 1000, message.message)
            if message.status is OutcomeStatus.RETRY:
                self._loop.call_later(RETRY_S, self._ask_again, message.number)
                continue
            handle = self._handles.pop(message.number, None)
            if handle is not None:
                handle.settle(*from_message(message, handle.key))

    def _forget(self, number: int) -> None:
        self._sagas.pop(number, None)
        for caller in self._callers:
            caller.forget(number)

    def _ask_again(self, number: int) -> None:
        for caller in self._callers:
            caller.resend(number)


def _number(message: Request | OutcomeMessage) -> int:
    return message.number
