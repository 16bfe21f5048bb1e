"""The direct data plane without Ray: a stand-in introduces caller and actor, all else is the real thing over real sockets."""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections import Counter

import msgspec
import pytest
import uvloop

from orchestrator.config import Transport
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.plane import endpoint as endpoint_module
from orchestrator.plane.endpoint import STRANGERS_MAX, Endpoint, this_host
from orchestrator.plane.frames import (
    ADDRESSES,
    HELLO_BYTES_MAX,
    SCHEMA_VERSION,
    TCP_SILENCE_MS_MAX,
    Address,
    Hello,
    Request,
    Response,
    encode,
    frame,
)
from orchestrator.plane.link import Plane
from orchestrator.transport import way_to


class Actor:
    """What is served: it echoes, doubles a number, raises, and holds calls until it is told."""

    def __init__(self):
        self.endpoint = self.release = None
        self.held = self.gone = 0
        self.start()

    def start(self):
        """A (new) incarnation."""
        self.endpoint = Endpoint(
            {"echo": self.echo, "double": self.double, "refuse": self.refuse, "fail": self.fail, "hold": self.hold,
             "long": self.long},
            lambda: "127.0.0.1")
        self.release = asyncio.Event()

    async def echo(self, payload):
        return payload

    async def long(self, length):
        return bytes(int(length))

    async def double(self, number):
        return b"%d" % (2 * number)

    async def refuse(self, _payload):
        raise DefiniteError(ErrorCode.INVALID_INPUT, "that is no batch")

    async def fail(self, _payload):
        raise ZeroDivisionError("by nothing")

    async def hold(self, payload):
        self.held += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.gone += 1
            raise
        return payload


class Introduction:
    """Stands in for calls through Ray: counts them, and may be unable to reach the actor."""

    def __init__(self, actor, *, here=True):
        self.actor, self.here, self.calls, self.reachable, self.timeout_s = actor, here, [], True, 5.0

    def __call__(self, _actor, method):
        return _ThroughRay(self, method)


class _ThroughRay:
    def __init__(self, ray, method):
        self.ray, self.method = ray, method

    @property
    def timeout_s(self):
        return self.ray.timeout_s

    async def call(self, payload):
        self.ray.calls.append(self.method)
        if not self.ray.reachable:
            raise IndefiniteError(ErrorCode.UNREACHABLE, "it is dead")
        if self.method == "endpoint":
            return await self.ray.actor.endpoint.address(payload if self.ray.here else "elsewhere")
        return await self.ray.actor.endpoint.methods[self.method](payload)


@pytest.fixture(params=[True, False], ids=["unix", "tcp"])
async def meeting(request):
    actor = Actor()
    ray = Introduction(actor, here=request.param)
    plane = Plane(ray)
    yield actor, ray, plane
    plane.close()
    await actor.endpoint.close()
    await asyncio.sleep(0)


async def echoed(payload, *, here):
    """What comes back over a connection on the loop that runs; Ray is not asked to carry it."""
    actor = Actor()
    ray = Introduction(actor, here=here)
    plane = Plane(ray)
    answer = await plane("log", "echo").call(payload)
    plane.close()
    await actor.endpoint.close()
    assert ray.calls == ["endpoint"]
    return answer


@pytest.mark.parametrize("here", [True, False], ids=["unix", "tcp"])
def test_it_goes_directly_on_the_loop_that_actors_and_clients_run_on(here):
    assert uvloop.run(echoed(b"x", here=here)) == b"x"


async def turns(number=20):
    for _ in range(number):
        await asyncio.sleep(0.001)


async def test_calls_go_over_one_connection_and_ray_introduces_once(meeting):
    actor, ray, plane = meeting
    echo, double = plane("log", "echo"), plane("log", "double")
    assert await asyncio.gather(*(echo.call(b"%d" % n) for n in range(50))) == [b"%d" % n for n in range(50)]
    assert await double.call(21) == b"42"
    assert ray.calls == ["endpoint"]
    assert actor.endpoint.refused == {}


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 3_000_000])
async def test_payloads_of_every_size_arrive_whole(meeting, size):
    _, _, plane = meeting
    payload = os.urandom(size)
    assert await plane("log", "echo").call(payload) == payload


async def test_a_slow_call_holds_no_other_one(meeting):
    actor, _, plane = meeting
    slow = asyncio.ensure_future(plane("log", "hold").call(b"slow"))
    assert await plane("log", "echo").call(b"quick") == b"quick"
    assert not slow.done()
    actor.release.set()
    assert await slow == b"slow"


@pytest.mark.parametrize(("method", "told"), [("refuse", "that is no batch"), ("fail", "ZeroDivisionError: by nothing")])
async def test_what_a_method_raises_is_an_unknown_outcome_as_over_ray(meeting, method, told):
    _, _, plane = meeting
    with pytest.raises(IndefiniteError, match=told):
        await plane("log", method).call(b"")
    assert await plane("log", "echo").call(b"on") == b"on"


async def test_a_connection_that_breaks_leaves_all_calls_unknown_and_the_next_one_is_introduced_anew(meeting):
    actor, ray, plane = meeting
    calls = [asyncio.ensure_future(plane("log", "hold").call(b"")) for _ in range(5)]
    while actor.held < 5:
        await asyncio.sleep(0)
    await actor.endpoint.close()
    for found in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(found, IndefiniteError)
        assert found.code == ErrorCode.UNREACHABLE
    assert actor.gone == 5  # nobody waits for what they do
    actor.start()
    assert await plane("log", "echo").call(b"again") == b"again"
    assert ray.calls == ["endpoint"] * 2


async def test_a_caller_that_gives_up_in_time_asks_ray_who_is_there_now(meeting):
    _, ray, plane = meeting
    ray.timeout_s = 0.05
    with pytest.raises(IndefiniteError, match="in time"):
        await plane("log", "hold").call(b"")
    ray.timeout_s = 5.0
    assert await plane("log", "echo").call(b"x") == b"x"
    assert ray.calls == ["endpoint"] * 2


async def test_an_actor_that_ray_does_not_reach_is_unknown_to_all_who_wait(meeting):
    _, ray, plane = meeting
    ray.reachable = False
    found = await asyncio.gather(*(plane("log", "echo").call(b"") for _ in range(4)), return_exceptions=True)
    assert [type(one) for one in found] == [IndefiniteError] * 4
    assert ray.calls == ["endpoint"]
    ray.reachable = True
    assert await plane("log", "echo").call(b"x") == b"x"


async def test_what_cannot_be_connected_to_is_called_through_ray_for_a_while(monkeypatch):
    actor = Actor()
    ray = Introduction(actor)
    plane = Plane(ray)
    address = ADDRESSES.decode(await actor.endpoint.address(this_host()))
    lost = msgspec.structs.replace(address, path="\0raytx-nobody")
    monkeypatch.setattr(actor.endpoint, "address", lambda _host: asyncio.sleep(0, msgspec.msgpack.encode(lost)))
    assert [await plane("log", "echo").call(b"%d" % n) for n in range(3)] == [b"0", b"1", b"2"]
    assert ray.calls == ["endpoint", "echo", "echo", "echo"]
    await actor.endpoint.close()


async def test_an_actor_that_could_not_listen_once_is_called_through_ray_and_listens_later(monkeypatch):
    actor = Actor()
    ray = Introduction(actor)
    plane = Plane(ray)
    listen, failures = Endpoint._listen, [OSError(24, "too many open files")]

    async def fails_once(self, *, here):
        if failures:
            raise failures.pop()
        return await listen(self, here=here)

    monkeypatch.setattr(Endpoint, "_listen", fails_once)
    monkeypatch.setattr("orchestrator.plane.link.INDIRECT_S", 0.0)
    assert await plane("log", "echo").call(b"1") == b"1"
    assert ray.calls == ["endpoint", "echo"]
    assert await plane("log", "echo").call(b"2") == b"2"
    assert ray.calls == ["endpoint", "echo", "endpoint"]
    plane.close()
    await actor.endpoint.close()


async def test_an_answer_that_cannot_even_be_written_is_told_as_too_long(meeting, monkeypatch):
    *_, plane = meeting

    def short(message):
        if len(getattr(message, "answer", b"")) > 5_000:
            raise OverflowError("int too big to convert")
        return frame(message)

    monkeypatch.setattr("orchestrator.plane.endpoint.FRAME_BYTES_MAX", 5_000)
    monkeypatch.setattr("orchestrator.plane.endpoint.frame", short)
    with pytest.raises(IndefiniteError, match="too long"):
        await plane("log", "long").call(b"9999")


async def test_both_sides_notice_that_a_host_is_gone(monkeypatch):
    actor = Actor()
    plane = Plane(Introduction(actor, here=False))
    assert await plane("log", "echo").call(b"x") == b"x"
    (session,) = actor.endpoint._sessions
    sock = session._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == TCP_SILENCE_MS_MAX
    plane.close()
    await actor.endpoint.close()


async def test_what_is_too_long_for_a_frame_goes_through_ray(meeting, monkeypatch):
    _, ray, plane = meeting
    monkeypatch.setattr("orchestrator.plane.link.FRAME_BYTES_MAX", 10_000)
    assert await plane("log", "echo").call(b"x" * 20_000) == b"x" * 20_000
    assert ray.calls == ["echo"]


async def test_an_answer_too_long_for_a_frame_is_of_unknown_outcome_and_ray_carries_it_the_next_time(meeting, monkeypatch):
    actor, ray, plane = meeting
    monkeypatch.setattr("orchestrator.plane.endpoint.FRAME_BYTES_MAX", 10_000)
    long = plane("log", "long")
    with pytest.raises(IndefiniteError, match="too long"):
        await long.call(b"9999")
    assert len(await long.call(b"9999")) == 9_999
    assert ray.calls == ["endpoint", "long"]
    assert await plane("log", "echo").call(b"x") == b"x"  # the others keep their connection
    assert ray.calls == ["endpoint", "long"]
    assert actor.endpoint.refused == {}


# ---- those who should not be there --------------------------------------------------------------------------------


async def connected(endpoint):
    address = ADDRESSES.decode(await endpoint.address(this_host()))
    reader, writer = await asyncio.open_unix_connection(address.path)
    return address, reader, writer


async def refused(endpoint, sent, *, greeted=False):
    """Why a connection was ended over which this was sent; it is closed without an answer."""
    address, reader, writer = await connected(endpoint)
    if greeted:
        writer.write(frame(Hello(SCHEMA_VERSION, address.incarnation, address.token)))
    writer.write(sent)
    with contextlib.suppress(ConnectionResetError):  # it was ended with something unread
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    (reason,) = endpoint.refused
    return reason


@pytest.fixture
async def endpoint():
    actor = Actor()
    yield actor.endpoint
    await actor.endpoint.close()


@pytest.mark.parametrize(("hello", "reason"), [
    (lambda e: Hello(SCHEMA_VERSION, e.incarnation, b"\0" * 32), "unauthenticated"),
    (lambda e: Hello(SCHEMA_VERSION, e.incarnation, b""), "unauthenticated"),
    (lambda e: Hello(SCHEMA_VERSION, "of a predecessor", e.token), "unauthenticated"),
    (lambda e: Hello(SCHEMA_VERSION + 1, e.incarnation, e.token), "version"),
    (lambda _: Request(1, "echo", b"without a hello"), "unauthenticated"),
    (lambda _: Response(1, done=True, answer=b""), "malformed"),
])
async def test_nobody_speaks_who_was_not_told_how(endpoint, hello, reason):
    assert await refused(endpoint, frame(hello(endpoint))) == reason


@pytest.mark.parametrize(("sent", "reason"), [
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "oversized"),
    (struct.pack(">I", HELLO_BYTES_MAX + 1), "oversized"),
    (struct.pack(">I", 3) + b"abc", "malformed"),
    (struct.pack(">I", 0), "malformed"),
])
async def test_what_is_no_hello_is_refused_and_counted(endpoint, sent, reason):
    assert await refused(endpoint, sent) == reason


@pytest.mark.parametrize(("sent", "reason"), [
    (struct.pack(">I", 0xFFFFFFFF), "oversized"),
    (struct.pack(">I", 4) + b"\xc1\xc1\xc1\xc1", "malformed"),
    (frame(Request(1, "status", b"")), "unknown_method"),
    (frame(Request(1, "__init__", b"")), "unknown_method"),
])
async def test_who_is_known_must_speak_well_too(endpoint, sent, reason):
    assert await refused(endpoint, sent, greeted=True) == reason


async def test_who_says_nothing_is_not_waited_for(endpoint, monkeypatch):
    monkeypatch.setattr(endpoint_module, "HELLO_S_MAX", 0.02)
    _, reader, writer = await connected(endpoint)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert endpoint.refused == {"silent": 1}
    assert endpoint.strangers == 0
    writer.close()


async def test_a_crowd_of_strangers_is_bounded_and_lets_those_in_who_are_known(endpoint):
    crowd = [await connected(endpoint) for _ in range(STRANGERS_MAX)]
    await turns()
    assert endpoint.strangers == STRANGERS_MAX
    assert await refused(endpoint, b"") == "crowd"
    crowd[0][2].close()
    await turns()
    address, reader, writer = await connected(endpoint)
    writer.write(frame(Hello(SCHEMA_VERSION, address.incarnation, address.token)) + frame(Request(7, "echo", b"in")))
    assert await asyncio.wait_for(reader.readexactly(4), 5)
    for _, _, left in [*crowd, (None, None, writer)]:
        left.close()


CONNECT = """
import os, socket, sys
os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
peer.connect(chr(0) + sys.argv[1])
sys.exit(peer.recv(1) != b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_the_process_of_another_user_is_refused(endpoint):
    address = ADDRESSES.decode(await endpoint.address(this_host()))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CONNECT, address.path[1:], stderr=subprocess.DEVNULL)
    await asyncio.wait_for(process.wait(), 20)
    assert endpoint.refused == {"stranger": 1}


async def test_an_impostor_at_an_actors_place_is_told_no_token(monkeypatch):
    """The caller looks whose process listens before it says anything."""
    heard = []

    async def listen(reader, writer):
        heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_unix_server(listen, "\0raytx-test-impostor")
    actor = Actor()
    ray, lost = Introduction(actor), encode(Address("i", b"t" * 32, path="\0raytx-test-impostor"))
    monkeypatch.setattr(actor.endpoint, "address", lambda _host: asyncio.sleep(0, lost))
    monkeypatch.setattr("orchestrator.plane.link.is_own", lambda _transport: False)
    plane = Plane(ray)
    assert await plane("log", "echo").call(b"x") == b"x"
    assert ray.calls == ["endpoint", "echo"]
    await turns()
    assert b"".join(heard) == b""
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(("sent", "reason"), [
    (struct.pack(">I", 0xFFFFFFFF), "oversized"),
    (struct.pack(">I", 3) + b"abc", "malformed"),
    (frame(Request(1, "echo", b"this is no answer")), "malformed"),
])
async def test_an_answer_that_cannot_be_read_ends_the_connection_and_is_counted_by_who_called(monkeypatch, sent, reason):
    async def answer(reader, writer):
        await reader.read(1)
        writer.write(sent)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(answer, "\0raytx-test-babbler")
    actor = Actor()
    found = encode(Address("i", b"t" * 32, path="\0raytx-test-babbler"))
    monkeypatch.setattr(actor.endpoint, "address", lambda _host: asyncio.sleep(0, found))
    refused = Counter()
    plane = Plane(Introduction(actor), refused)
    for times in (1, 2):
        with pytest.raises(IndefiniteError, match="broke"):
            await plane("log", "echo").call(b"x")
        assert refused == {reason: times}
    plane.close()
    server.close()
    await server.wait_closed()


def test_an_actor_counts_in_one_place_what_comes_over_both_kinds_of_connections():
    refused = Counter()
    assert way_to("raytx-test", Transport.DIRECT, refused).refused is refused
