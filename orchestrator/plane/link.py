"""A caller's side of the data plane: one connection to each actor, made anew whenever it is needed and not there."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, cast

from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.logs import log_event
from orchestrator.plane.endpoint import is_own, this_host
from orchestrator.plane.frames import (
    ADDRESSES,
    ENVELOPE_BYTES,
    FRAME_BYTES_MAX,
    RESPONSES,
    SCHEMA_VERSION,
    Address,
    FrameBuffer,
    FrameError,
    Hello,
    Payload,
    Request,
    Response,
    bound_silence,
    decode,
    frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.transport import RayPort

CONNECT_S_MAX = 3.0
INDIRECT_S = 10.0  # what cannot go over a connection is called through Ray for so long before that is tried again


class Plane:
    """The connections of one event loop to the actors of one deployment.

    Args:
        through_ray: makes the way to an actor's method over Ray, by their names: it introduces, and it is the way for
            what cannot go directly.
        refused: where connections that are ended for what was answered over them are counted, by reason; in a counter of
            its own unless given.
    """

    def __init__(self, through_ray: Callable[[str, str], RayPort], refused: Counter[str] | None = None) -> None:
        self._through_ray = through_ray
        self.refused: Counter[str] = Counter() if refused is None else refused
        self._links: dict[str, _Link] = {}

    def __call__(self, actor: str, method: str) -> DirectMethod:
        """The way to one method of one actor.

        Args:
            actor: its name.
            method: the method's.
        """
        link = self._links.get(actor)
        if link is None:
            link = self._links[actor] = _Link(actor, self._through_ray(actor, "endpoint"), self.refused)
        return DirectMethod(link, method, self._through_ray(actor, method))

    def close(self) -> None:
        """End all connections, with all that waits for an answer."""
        for link in self._links.values():
            link.end()


class DirectMethod:
    """Calls one method of one actor, over its connection where that can be had and through Ray otherwise.

    Args:
        link: to the actor.
        name: the method's.
        through_ray: the same method; its time limit holds for both ways.
    """

    def __init__(self, link: _Link, name: str, through_ray: RayPort) -> None:
        self._link, self._name, self._through_ray = link, name, through_ray
        self._indirect_until_s = 0.0  # its answers have become too long

    def __repr__(self) -> str:
        return f"DirectMethod({self._link.actor}.{self._name})"

    async def call(self, payload: Payload) -> bytes:
        """One call.

        Raises:
            IndefiniteError: E_UNREACHABLE; it may or may not have been executed.
        """
        small = not isinstance(payload, bytes) or len(payload) <= FRAME_BYTES_MAX - ENVELOPE_BYTES
        session = await self._link.session() if small and time.monotonic() >= self._indirect_until_s else None
        if session is None:
            return await self._through_ray.call(payload)
        try:
            async with asyncio.timeout(self._through_ray.timeout_s):
                return await session.call(self._name, payload)
        except _TooLongError:
            self._indirect_until_s = time.monotonic() + INDIRECT_S
            raise
        except TimeoutError:  # who is stopped may have a successor elsewhere: ask Ray again
            session.end()
            raise _unreachable(self._link.actor, "did not answer in time") from None


class _TooLongError(IndefiniteError):
    """The call was executed, and no frame holds what it answered."""


class _Link:
    """The connection to one actor, or the way to it.

    Args:
        actor: its name.
        endpoint: its method that tells where it listens, through Ray.
        refused: see `Plane`.
    """

    def __init__(self, actor: str, endpoint: RayPort, refused: Counter[str]) -> None:
        self.actor, self._endpoint, self._refused = actor, endpoint, refused
        self._session: _Session | None = None
        self._connecting: asyncio.Task[_Session | None] | None = None
        self._indirect_until_s = 0.0

    async def session(self) -> _Session | None:
        """An open connection; None where there can be none now, though the actor can be reached through Ray.

        Raises:
            IndefiniteError: E_UNREACHABLE: nothing was sent.
        """
        if self._session is not None and self._session.open:
            return self._session
        if self._connecting is None:
            if time.monotonic() < self._indirect_until_s:
                return None
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def end(self) -> None:
        """Close the connection, if there is one."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._session is not None:
            self._session.end()

    def _connected(self, connecting: asyncio.Task[_Session | None]) -> None:
        self._connecting = None
        if not connecting.cancelled():
            connecting.exception()  # whoever waited has it

    async def _connect(self) -> _Session | None:
        address = ADDRESSES.decode(await self._endpoint.call(this_host()))
        session = _Session(self.actor, self._refused)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await _open(address, session)
        except (OSError, TimeoutError) as error:
            self._indirect_until_s = time.monotonic() + INDIRECT_S
            log_event("indirect", level="WARNING", service=self.actor, code=ErrorCode.UNREACHABLE,
                      message=f"no connection ({type(error).__name__}): it is called through Ray for {INDIRECT_S:.0f} s")
            return None
        session.send(Hello(SCHEMA_VERSION, address.incarnation, address.token))
        self._session = session
        return session


class _Session(asyncio.Protocol):
    """One connection, and the calls that wait for an answer from it."""

    def __init__(self, actor: str, refused: Counter[str]) -> None:
        self._actor, self._refused = actor, refused
        self._buffer = FrameBuffer(FRAME_BYTES_MAX)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._transport: asyncio.Transport
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Calls can be made from now on, unless it is somebody else's process that listens there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        if is_own(transport):
            bound_silence(self._transport)
            self.open = True
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Settle the calls that were answered."""
        try:
            for body in self._buffer.feed(data):
                self._settle(decode(RESPONSES, body))
        except FrameError as error:
            self._refused[error.reason] += 1
            log_event("connection_broken", level="ERROR", service=self._actor, status=error.reason,
                      message="an answer could not be read: what was asked is of unknown outcome")
            self.end()

    def connection_lost(self, _error: Exception | None) -> None:
        """Whatever was asked may or may not have been executed."""
        self.open = False
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(_unreachable(self._actor, "the connection broke"))

    async def call(self, method: str, payload: Payload) -> bytes:
        """One call.

        Raises:
            IndefiniteError: E_UNREACHABLE; it may or may not have been executed.
        """
        if not self.open:
            raise _unreachable(self._actor, "the connection broke")
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self.send(Request(number, method, payload))
            return await answer
        finally:
            self._waiting.pop(number, None)

    def send(self, message: Hello | Request) -> None:
        """Put a message on its way; the callers bound how many there are at once."""
        self._transport.write(frame(message))

    def end(self) -> None:
        """Close the connection, with all that waits for an answer."""
        self.open = False
        self._transport.abort()

    def _settle(self, response: Response) -> None:
        answer = self._waiting.get(response.number)
        if answer is None or answer.done():
            return  # its caller has given it up
        if response.done:
            answer.set_result(response.answer)
        else:
            told = response.answer.decode(errors="replace")
            answer.set_exception(_TooLongError(ErrorCode.UNREACHABLE, f"{self._actor}: {told}") if response.too_long
                                 else _unreachable(self._actor, told))


async def _open(address: Address, session: _Session) -> None:
    loop = asyncio.get_running_loop()
    if address.path:  # connected here: not every event loop knows of sockets without a file
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(address.path)  # at once, or refused
            await loop.create_unix_connection(lambda: session, sock=sock)
        except OSError:
            sock.close()
            raise
    elif address.host:
        await loop.create_connection(lambda: session, address.host, address.port)
    else:
        raise OSError("it listens nowhere")
    if not session.open:
        raise ConnectionRefusedError("another user's process listens there")


def _unreachable(actor: str, why: str) -> IndefiniteError:
    return IndefiniteError(ErrorCode.UNREACHABLE, f"{actor}: {why}")
