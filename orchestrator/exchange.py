"""Batched conversation between a caller and a responder: count calls, not operations.

A caller sends what has gathered in one call and lets the rest gather until that call is answered; a second one leaves
beside it only when it is full, or the first takes unusually long or is open just to collect what is slow. So a lonely
operation waits for nobody, batches grow with the load, and nothing is held behind a slow operation. A responder starts
the operations and answers with whatever is ready. Results of an unanswered call are never lost for good: when a call
fails, everything outstanding is of unknown outcome and is sent again, which is harmless because every operation is
idempotent there. So it is when another one answers than before: a responder's successor, or one that has forgotten this
caller meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from orchestrator.errors import IndefiniteError

CALLS_IN_FLIGHT = 2
BATCH_MAX = 512  # in a call, an append, a service's commit; with more, the stages of a busy deployment wait for each other
BATCH_BYTES_MAX = 32 * 1024 * 1024  # in one call, and in one answer; what is longer by itself goes alone
GATHER_S_MIN = 0.002
GATHER_S_MAX = 0.05
PATIENCE_S = 0.01  # what nobody waits for leaves with the next operation that somebody does, or after so long
HOLD_S_MAX = 10.0  # a call with nothing to answer returns empty after so long, and is made anew while work is outstanding
PEER_IDLE_S = 120.0
PROBE_S = 0.1
RECONNECT_S_MIN = 0.02
RECONNECT_S_MAX = 0.1

Op = TypeVar("Op")
Result = TypeVar("Result")
Item = TypeVar("Item")


def fitting(items: Collection[Item], weigh: Callable[[Item], int], bytes_max: int) -> int:
    """How many of the first items have no more bytes together; one at least."""
    if sum(map(weigh, items)) <= bytes_max:
        return len(items)
    sums = itertools.accumulate(map(weigh, items))
    return max(sum(1 for _ in itertools.takewhile(lambda so_far: so_far <= bytes_max, sums)), 1)


class Port(Protocol):
    """One destination of a conversation; the transport decides how bytes get there."""

    async def call(self, payload: bytes) -> bytes:
        """One exchange.

        Raises:
            IndefiniteError: E_UNREACHABLE; the operations may or may not have been done.
        """


class Caller(Generic[Op, Result]):
    """The asking side: one per destination; lives on one event loop.

    Args:
        port: the destination.
        encode: makes one call's payload of operations (perhaps none: then the call only collects).
        decode: of an answered call: which conversation it belongs to ("" = none), and the results.
        deliver: told the results of every call, in arrival order.
        key: identity of an operation; a newer operation of the same key replaces the older.
        settles: whether a result ends the operation that is outstanding under its key.
        key_of_result: the key a result belongs to.
        lost: told (once per outage) that the destination does not answer.
        gather_s_max: longest time that operations gather behind a call that carries others, seconds.
        patient: whether nobody waits for an operation, so that it may leave a little later, in company.
        first: what leaves before the rest where not all of it fits into a call: what ends work, before what begins some.
        weigh: about how many bytes an operation adds to a call.
    """

    def __init__(
        self,
        port: Port,
        *,
        encode: Callable[[list[Op]], bytes],
        decode: Callable[[bytes], tuple[str, list[Result]]],
        deliver: Callable[[list[Result]], None],
        key: Callable[[Op], Hashable],
        settles: Callable[[Result, Op], bool],
        key_of_result: Callable[[Result], Hashable],
        lost: Callable[[IndefiniteError], None] | None = None,
        gather_s_max: float = GATHER_S_MAX,
        patient: Callable[[Op], bool] = lambda _: False,
        first: Callable[[Op], bool] = lambda _: False,
        weigh: Callable[[Op], int] = lambda _: 0,
    ) -> None:
        self._port, self._encode, self._decode, self._deliver = port, encode, decode, deliver
        self._key, self._settles, self._key_of_result, self._lost = key, settles, key_of_result, lost
        self._outstanding: dict[Hashable, Op] = {}
        self._unsent: dict[Hashable, Op] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._conversation = ""
        self._carrying = 0  # calls under way that took operations along
        self._round_s = GATHER_S_MIN  # moving average of what such a call takes
        self._gather_s_max = gather_s_max
        self._patient, self._first, self._weigh = patient, first, weigh
        self._hurry = False  # somebody waits for something unsent
        self._patience: asyncio.TimerHandle | None = None
        self._gathered: asyncio.TimerHandle | None = None
        self._broken = False
        self._closed = False

    @property
    def outstanding(self) -> int:
        """Operations sent or queued and not answered."""
        return len(self._outstanding)

    def send(self, operations: Iterable[Op]) -> None:
        """Queue operations; they leave at once unless others are on their way."""
        for operation in operations:
            key = self._key(operation)
            self._outstanding[key] = operation
            self._unsent[key] = operation
            if not self._hurry and not self._patient(operation):
                self._hurry = True
        self._pump()

    def resend(self, key: Hashable) -> None:
        """Send an operation again that was answered with "ask again", if it is still outstanding."""
        operation = self._outstanding.get(key)
        if operation is not None:
            self.send([operation])

    def forget(self, key: Hashable) -> None:
        """Drop an operation nobody waits for any more."""
        self._outstanding.pop(key, None)
        self._unsent.pop(key, None)

    async def close(self) -> None:
        """End the conversation; what is outstanding stays of unknown outcome."""
        self._closed = True
        self._stop_gathering()
        if self._patience is not None:
            self._patience.cancel()
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _pump(self) -> None:
        if self._closed or self._broken:
            return
        while self._unsent and len(self._calls) < CALLS_IN_FLIGHT:
            if not self._hurry:
                self._patience = self._patience or asyncio.get_running_loop().call_later(PATIENCE_S, self._out_of_patience)
                break
            if self._carrying and len(self._unsent) < BATCH_MAX:
                delay_s = min(max(2 * self._round_s, GATHER_S_MIN), self._gather_s_max)
                self._gathered = self._gathered or asyncio.get_running_loop().call_later(delay_s, self._beside)
                break
            self._start(self._take())
        if len(self._outstanding) > len(self._unsent) and not self._calls:
            self._start([])

    def _out_of_patience(self) -> None:
        self._patience = None
        self._hurry = True
        self._pump()

    def _beside(self) -> None:
        """What gathered has waited long enough: it leaves beside the call that is under way."""
        self._gathered = None
        if self._unsent and not self._closed and not self._broken and len(self._calls) < CALLS_IN_FLIGHT:
            self._start(self._take())

    def _take(self) -> list[Op]:
        batch = list(self._unsent.values())
        if len(batch) <= BATCH_MAX and fitting(batch, self._weigh, BATCH_BYTES_MAX) == len(batch):
            self._unsent.clear()
            self._hurry = False
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
            return batch
        batch.sort(key=lambda operation: not self._first(operation))  # stable
        batch = batch[:BATCH_MAX]
        batch = batch[:fitting(batch, self._weigh, BATCH_BYTES_MAX)]
        for operation in batch:
            del self._unsent[self._key(operation)]
        return batch

    def _start(self, batch: list[Op]) -> None:
        self._carrying += bool(batch)
        call = asyncio.get_running_loop().create_task(self._call(batch))
        self._calls.add(call)
        call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._pump()
        if not call.cancelled() and (error := call.exception()) is not None:
            raise error  # a bug in what the caller was given to encode, decode or deliver: the loop's handler is told

    async def _call(self, batch: list[Op]) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            answer = await self._port.call(self._encode(batch))
        except IndefiniteError as error:
            await self._reconnect(error)
            return
        finally:
            self._carrying -= bool(batch)
        if batch:
            self._round_s += (loop.time() - began_s - self._round_s) / 8
        self._stop_gathering()
        self._settle(answer)

    def _stop_gathering(self) -> None:
        if self._gathered is not None:
            self._gathered.cancel()
            self._gathered = None

    def _settle(self, answer: bytes) -> None:
        conversation, results = self._decode(answer)
        for result in results:
            key = self._key_of_result(result)
            operation = self._outstanding.get(key)
            if operation is not None and self._settles(result, operation):
                del self._outstanding[key]
                self._unsent.pop(key, None)
        if conversation and conversation != self._conversation:
            if self._conversation:  # whoever answers knows nothing of what was sent before
                self._send_everything_again()
            self._conversation = conversation
        if results:
            self._deliver(results)

    def _send_everything_again(self) -> None:
        self._unsent, self._hurry = dict(self._outstanding), True

    async def _reconnect(self, error: IndefiniteError) -> None:
        """One of the failed calls probes until the destination answers, then everything outstanding is sent again.

        A probe that has not failed for a while was taken in: it is held, because what it asks for is slow.
        """
        if self._broken:
            return
        self._broken, self._conversation = True, ""
        if self._lost is not None:
            self._lost(error)
        delay = RECONNECT_S_MIN
        while True:
            await asyncio.sleep(delay)
            delay = min(delay * 2, RECONNECT_S_MAX)
            payload = self._encode(list(self._outstanding.values())[:1])
            probe = asyncio.ensure_future(self._port.call(payload))
            await asyncio.wait([probe], timeout=PROBE_S)
            if not probe.done() or not isinstance(probe.exception(), IndefiniteError):
                break
        self._broken = False
        self._send_everything_again()
        self._pump()
        try:
            self._settle(await probe)
        except IndefiniteError as again:
            await self._reconnect(again)


class _Peer(Generic[Result]):
    """What waits for one caller."""

    __slots__ = ("conversation", "fresh", "ready", "seen_s", "waiting")

    def __init__(self) -> None:
        self.conversation = uuid.uuid4().hex
        self.fresh = True  # it has not called before
        self.ready: list[Result] = []
        self.waiting: deque[asyncio.Future[list[Result]]] = deque()
        self.seen_s = 0.0


class Responder(Generic[Result]):
    """The answering side: per caller the results that are ready and the calls that wait for some; lives on one loop.

    `busy` is true while a batch is being made durable: then a newer call does not make an older one return empty,
    because results are about to be ready.

    A conversation is what this responder knows of one caller, from the caller's first call until it is forgotten. Answers name
    it, so that a caller learns that what it sent before is not known any more.

    Args:
        weigh: about how many bytes a result adds to an answer.
    """

    def __init__(self, weigh: Callable[[Result], int] = lambda _: 0) -> None:
        self.busy = False
        self._weigh = weigh
        self._peers: dict[str, _Peer[Result]] = {}

    def open(self, peer_name: str) -> None:
        """Know a caller before its operations are looked at, so that what is refused at once finds its way back."""
        if peer_name not in self._peers:
            now_s = asyncio.get_running_loop().time()
            self._drop_idle(now_s)
            self._peers[peer_name] = _Peer()
            self._peers[peer_name].seen_s = now_s

    def conversation(self, peer_name: str) -> str:
        """The name of what is being said to a caller, "" where nothing is."""
        peer = self._peers.get(peer_name)
        return "" if peer is None else peer.conversation

    async def collect(self, peer_name: str, *, empty: bool = False) -> list[Result]:
        """Results for this caller: as soon as there are some, or empty when a newer call came or the hold is over.

        Args:
            peer_name: the caller's.
            empty: whether the call brought no operation: of one that has not called before, there is nothing to wait for.
        """
        loop = asyncio.get_running_loop()
        self.open(peer_name)
        peer = self._peers[peer_name]
        peer.seen_s = loop.time()
        fresh, peer.fresh = peer.fresh, False
        if peer.ready or (fresh and empty):
            return self._portion(peer)
        waiter: asyncio.Future[list[Result]] = loop.create_future()
        peer.waiting.append(waiter)
        timer = loop.call_later(HOLD_S_MAX, _release, waiter)
        self._release_older(peer)
        try:
            return await waiter
        finally:
            timer.cancel()
            if waiter in peer.waiting:
                peer.waiting.remove(waiter)

    def put(self, peer_name: str, results: list[Result]) -> None:
        """Make results ready; they leave with the oldest waiting call, or with the next one to come."""
        peer = self._peers.get(peer_name)
        if peer is None:
            return
        peer.ready.extend(results)
        while peer.ready and peer.waiting:
            waiter = peer.waiting.popleft()
            if not waiter.done():
                waiter.set_result(self._portion(peer))

    def idle(self) -> None:
        """The batch under way has ended: older calls that got nothing from it return, so that their callers can send."""
        self.busy = False
        for peer in self._peers.values():
            self._release_older(peer)

    def drop(self, peer_name: str) -> None:
        """Forget a caller that was fenced."""
        peer = self._peers.pop(peer_name, None)
        for waiter in peer.waiting if peer else ():
            _release(waiter)

    def _portion(self, peer: _Peer[Result]) -> list[Result]:
        """What is ready, or as much of it as an answer may hold."""
        count = fitting(peer.ready, self._weigh, BATCH_BYTES_MAX) if peer.ready else 0
        portion, peer.ready = peer.ready[:count], peer.ready[count:]
        return portion

    def _release_older(self, peer: _Peer[Result]) -> None:
        while not self.busy and len(peer.waiting) > 1:
            _release(peer.waiting.popleft())

    def _drop_idle(self, now_s: float) -> None:
        for name in [n for n, p in self._peers.items() if not p.waiting and now_s - p.seen_s > PEER_IDLE_S]:
            del self._peers[name]


def _release(waiter: asyncio.Future[list[Result]]) -> None:
    if not waiter.done():
        waiter.set_result([])
