"""What goes over a connection of the data plane: a length in four bytes, big-endian, then so much msgpack.

The first frame of a connection is a `Hello`, at most `HELLO_BYTES_MAX` long; then `Request`s go one way and `Response`s the
other, in any order, matched by number.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import msgspec

SCHEMA_VERSION = 1
HELLO_BYTES_MAX = 512
FRAME_BYTES_MAX = 256 * 1024 * 1024  # what is longer goes through Ray, which has a place for it
ENVELOPE_BYTES = 1_024  # more than a frame adds to its payload
TCP_SILENCE_MS_MAX = 10_000  # what was sent and is not acknowledged for so long ends a connection: see tcp(7)
_LENGTH_BYTES = 4

Payload = bytes | int  # what an actor's method takes


class FrameError(Exception):
    """The other side does not speak as it should: the connection is of no use any more.

    Args:
        reason: one word, to be counted by.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """Who connects says to whom, and shows that Ray has told it how.

    Attributes:
        schema: version of these frames.
        incarnation: of the actor that is meant.
        token: of that incarnation.
    """

    schema: int
    incarnation: str
    token: bytes


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One call of a method."""

    number: int
    method: str
    payload: Payload


class Response(msgspec.Struct, frozen=True, array_like=True):
    """What came of a call: the method's answer, or a text for a person where it raised something.

    Attributes:
        number: the call's.
        done: whether there is an answer.
        answer: it, or the text.
        too_long: there was an answer that no frame holds; the call was executed, and Ray can carry the next one.
    """

    number: int
    done: bool
    answer: bytes
    too_long: bool = False


class Address(msgspec.Struct, frozen=True):
    """Where one incarnation of an actor can be reached by who asked for it through Ray.

    Attributes:
        incarnation: of the actor.
        token: shown in the `Hello`.
        path: of a Unix socket without a file, for who is on the same host; "" otherwise.
        host, port: of a TCP socket, for who is not.
    """

    incarnation: str
    token: bytes
    path: str = ""
    host: str = ""
    port: int = 0


class FrameBuffer:
    """Cuts what arrives into frames.

    Attributes:
        bytes_max: a longer frame is refused before it is read.
    """

    __slots__ = ("_data", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete now, without their lengths; `bytes_max` may change from one to the next.

        Raises:
            FrameError: one is longer than allowed.
        """
        if not self._data and self._length(data) == len(data):  # the usual case: one whole frame
            yield data[_LENGTH_BYTES:]
            return
        self._data += data
        start = 0
        with memoryview(self._data) as view:
            while 0 < (length := self._length(view[start : start + _LENGTH_BYTES])) <= len(view) - start:
                yield bytes(view[start + _LENGTH_BYTES : start + length])
                start += length
        del self._data[:start]

    def _length(self, data: bytes | memoryview) -> int:
        """Of the frame that begins here, its length included; 0 where that is not known yet."""
        if len(data) < _LENGTH_BYTES:
            return 0
        length = int.from_bytes(data[:_LENGTH_BYTES])
        if length > self.bytes_max:
            raise FrameError("oversized")
        return length + _LENGTH_BYTES


def bound_silence(transport: asyncio.Transport) -> None:
    """Notice within seconds that a host is gone or cut off, instead of within what TCP allows: a quarter of an hour."""
    sock = transport.get_extra_info("socket")
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, TCP_SILENCE_MS_MAX // 2_000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_SILENCE_MS_MAX)


def frame(message: Hello | Request | Response) -> bytes:
    """A message as it is sent."""
    body = encode(message)
    return len(body).to_bytes(_LENGTH_BYTES) + body


def decode(decoder: msgspec.msgpack.Decoder[Any], body: bytes) -> Any:
    """The message in a frame.

    Raises:
        FrameError: it is none.
    """
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise FrameError("malformed") from None


encode = msgspec.msgpack.Encoder().encode
HELLOS = msgspec.msgpack.Decoder(Hello)
REQUESTS = msgspec.msgpack.Decoder(Request)
RESPONSES = msgspec.msgpack.Decoder(Response)
ADDRESSES = msgspec.msgpack.Decoder(Address)
