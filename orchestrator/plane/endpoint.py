"""An actor's side of the data plane: it serves some of its methods to whom Ray has told how to reach it."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import socket
import struct
import uuid
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.errors import RaytxError
from orchestrator.logs import log_event
from orchestrator.ownership import boot_id
from orchestrator.plane.frames import (
    ENVELOPE_BYTES,
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    HELLOS,
    REQUESTS,
    SCHEMA_VERSION,
    Address,
    FrameBuffer,
    FrameError,
    Request,
    Response,
    bound_silence,
    decode,
    encode,
    frame,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

HELLO_S_MAX = 5.0
STRANGERS_MAX = 64  # connections that have not said who they are
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


class Endpoint:
    """Listens for one incarnation of an actor, from the first time that somebody asks for its address.

    The address is told through Ray, so who knows the token has been let in by Ray. It is another one for every incarnation:
    what was told of a predecessor opens nothing. On the same host the kernel tells besides whose process it is that connects.

    Args:
        methods: that may be called, by name; each takes bytes or a number, and returns bytes.
        node_ip: tells the address of this node, for listening to other hosts; Ray's unless given.

    Attributes:
        refused: connections that were ended for what came over them, by reason; the actor's own to others as well.
    """

    def __init__(
        self, methods: Mapping[str, Callable[[Any], Awaitable[bytes]]], node_ip: Callable[[], str] | None = None,
    ) -> None:
        self.methods, self._node_ip = methods, node_ip or _node_ip
        self.refused: Counter[str] = Counter()
        self.incarnation, self.token = uuid.uuid4().hex, secrets.token_bytes(32)
        self.strangers = 0
        self._sessions: set[_Session] = set()
        self._listening: dict[bool, asyncio.Task[asyncio.Server]] = {}  # by whether it is for this host

    async def address(self, host: str) -> bytes:
        """Where a peer on a host connects: msgpack of `Address`, to be told through Ray.

        Args:
            host: what `this_host` is there.

        Where nothing can be listened to just now, it is nowhere, and calls go through Ray.
        """
        here = host == this_host()
        if here not in self._listening:
            self._listening[here] = asyncio.get_running_loop().create_task(self._listen(here=here))
        listening = self._listening[here]
        try:
            server = await asyncio.shield(listening)
        except OSError as error:
            log_event("not_listening", level="WARNING", message=f"nobody can connect for now: {error}")
            if self._listening.get(here) is listening:
                del self._listening[here]  # whoever asks next has it tried again
            return encode(Address(self.incarnation, self.token))
        if here:
            return encode(Address(self.incarnation, self.token, path=self._path))
        name, port = server.sockets[0].getsockname()[:2]
        return encode(Address(self.incarnation, self.token, host=name, port=port))

    async def close(self) -> None:
        """Listen no more and end all connections."""
        for listening in list(self._listening.values()):
            with contextlib.suppress(OSError):
                (await listening).close()
        for session in list(self._sessions):
            session.end()

    def count(self, reason: str) -> None:
        """Note that a connection was refused; every tenfold of one reason is worth a line."""
        self.refused[reason] += 1
        if self.refused[reason] in (1, 10, 100, 1_000, 10_000, 100_000):
            log_event("connection_refused", level="WARNING", status=reason, refused=self.refused[reason],
                      message="somebody connected who does not speak as a process of this deployment does")

    def opened(self, session: _Session) -> None:
        """A connection is there."""
        self._sessions.add(session)

    def closed(self, session: _Session) -> None:
        """A connection is not there any more."""
        self._sessions.discard(session)

    @property
    def _path(self) -> str:
        return f"\0raytx-{self.incarnation}"  # no file: it goes with the process, and is seen in its network namespace only

    async def _listen(self, *, here: bool) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if here:
            return await loop.create_unix_server(lambda: _Session(self), self._path)
        return await loop.create_server(lambda: _Session(self), self._node_ip(), 0)


class _Session(asyncio.Protocol):
    """One connection to an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._buffer = FrameBuffer(HELLO_BYTES_MAX)
        self._known = False
        self._calls: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport
        self._patience: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a `Hello`, not for long."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        bound_silence(self._transport)
        self._endpoint.opened(self)
        self._endpoint.strangers += 1
        self._patience = asyncio.get_running_loop().call_later(HELLO_S_MAX, self._refuse, "silent")
        if self._endpoint.strangers > STRANGERS_MAX:
            self._refuse("crowd")
        elif not is_own(transport):
            self._refuse("stranger")

    def data_received(self, data: bytes) -> None:
        """Work off what came."""
        try:
            for body in self._buffer.feed(data):
                if self._known:
                    self._call(decode(REQUESTS, body))
                else:
                    self._greet(body)
        except FrameError as error:
            self._refuse(error.reason)

    def connection_lost(self, _error: Exception | None) -> None:
        """Nobody waits for what is still being done for this peer."""
        self._acquainted()
        self._endpoint.closed(self)
        for call in self._calls:
            call.cancel()

    def end(self) -> None:
        """Close the connection."""
        self._transport.abort()

    def _greet(self, body: bytes) -> None:
        hello = decode(HELLOS, body)
        if hello.schema != SCHEMA_VERSION:
            raise FrameError("version")
        same = hmac.compare_digest(hello.token, self._endpoint.token)
        if hello.incarnation != self._endpoint.incarnation or not same:
            raise FrameError("unauthenticated")
        self._acquainted()
        self._known = True
        self._buffer.bytes_max = FRAME_BYTES_MAX

    def _acquainted(self) -> None:
        if not self._patience.cancelled():
            self._patience.cancel()
            self._endpoint.strangers -= 1

    def _call(self, request: Request) -> None:
        method = self._endpoint.methods.get(request.method)
        if method is None:
            raise FrameError("unknown_method")
        call = asyncio.get_running_loop().create_task(self._answer(request, method))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _answer(self, request: Request, method: Callable[[Any], Awaitable[bytes]]) -> None:
        try:
            response = Response(request.number, done=True, answer=await method(request.payload))
        except RaytxError as error:
            response = Response(request.number, done=False, answer=str(error).encode())
        except Exception as error:  # noqa: BLE001 - the caller must hear of it, as over Ray
            told = f"{type(error).__name__}: {error}"
            log_event("call_failed", level="ERROR", status=request.method, message=told)
            response = Response(request.number, done=False, answer=told.encode())
        if not self._transport.is_closing():
            length = len(response.answer)
            fits = length <= FRAME_BYTES_MAX - ENVELOPE_BYTES
            self._transport.write(frame(response if fits else _too_long(request.number, length)))

    def _refuse(self, reason: str) -> None:
        if not self._transport.is_closing():
            self._endpoint.count(reason)
            self._transport.abort()


def _too_long(number: int, length: int) -> Response:
    told = f"its answer of {length} bytes is too long for a frame: Ray carries the next one"
    return Response(number, done=False, answer=told.encode(), too_long=True)


def is_own(transport: asyncio.BaseTransport) -> bool:
    """Whether the other end of a Unix socket is a process of this user, or of root; nothing is known of TCP."""
    sock = transport.get_extra_info("socket")
    if sock.family != socket.AF_UNIX:
        return True
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid in (os.geteuid(), 0)


@lru_cache(maxsize=1)
def this_host() -> str:
    """What tells whether two processes can meet on a Unix socket: the boot, and the namespace of the network."""
    return f"{boot_id()}/{Path('/proc/self/ns/net').stat().st_ino}"


def _node_ip() -> str:
    import ray  # noqa: PLC0415 - slow to import, and only where other hosts connect

    return str(ray.util.get_node_ip_address())
