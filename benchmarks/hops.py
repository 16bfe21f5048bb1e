"""What one call between two processes costs, over everything that could carry it: bytes in, the same bytes out.

python -m benchmarks.hops [CALLS]
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from orchestrator.plane.endpoint import Endpoint, this_host
from orchestrator.plane.link import Plane

CALLS, ROUNDS = 10_000, 3
PAYLOAD_BYTES = 1_024
TITLE = f"one call of {PAYLOAD_BYTES:,} bytes and back, medians of {ROUNDS} rounds"
ALONE, TOGETHER = 1, 64  # calls in flight
WAYS = ("unix", "tcp", "zmq", "grpc", "ray")
_METHOD = "/raytx.Echo/Echo"

Call = Callable[[bytes], Awaitable[bytes]]


def measure_hops(calls: int, rounds: int, ways: Sequence[str] = WAYS) -> dict[str, dict[str, float]]:
    """Every way in turn, so many rounds.

    Args:
        calls: of one measurement.
        rounds: the medians of so many are told.
        ways: those that are measured.

    Returns:
        By way: `alone_us`, the time of one call, and `together_per_s`, calls a second with 64 in flight.
    """
    found: dict[str, dict[str, list[float]]] = {way: {"alone_us": [], "together_per_s": []} for way in ways}
    for _ in range(rounds):
        for way in ways:
            alone_us, per_s = uvloop.run(_measure(way, calls))
            found[way]["alone_us"].append(alone_us)
            found[way]["together_per_s"].append(per_s)
    return {way: {name: statistics.median(values) for name, values in one.items()} for way, one in found.items()}


async def _measure(way: str, calls: int) -> tuple[float, float]:
    async with _WAYS[way]() as call:
        await _call_s(call, calls // 10, TOGETHER)  # warm
        alone_s = await _call_s(call, calls // 10, ALONE)
        together_s = await _call_s(call, calls, TOGETHER)
    return alone_s * 1e6, 1 / together_s


async def _call_s(call: Call, number: int, at_once: int) -> float:
    """Seconds that pass for each call; at least one for each of those at once."""
    payload, each = bytes(PAYLOAD_BYTES), max(number // at_once, 1)

    async def one_after_another() -> None:
        for _ in range(each):
            assert len(await call(payload)) == PAYLOAD_BYTES

    began_s = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return (time.perf_counter() - began_s) / (each * at_once)


# ---- the ways ---------------------------------------------------------------------------------------------------------


class _Introduction:
    """Stands in for the one Ray call that introduces two processes."""

    timeout_s = 30.0

    def __init__(self, address: bytes) -> None:
        self._address = address

    async def call(self, _payload: Any) -> bytes:
        return self._address


@contextlib.asynccontextmanager
async def _plane(way: str) -> AsyncIterator[Call]:
    async with _served(way) as address:
        plane = Plane(lambda _actor, _method: _Introduction(bytes.fromhex(address)))  # type: ignore[arg-type,return-value]
        yield plane("echo", "echo").call
        plane.close()


@contextlib.asynccontextmanager
async def _zmq() -> AsyncIterator[Call]:
    import zmq.asyncio  # noqa: PLC0415 - of the extra `bench`

    async with _served("zmq") as address:
        sock: Any = zmq.asyncio.Context.instance().socket(zmq.DEALER)  # type: ignore[attr-defined]
        sock.connect(address)
        waiting: dict[bytes, asyncio.Future[bytes]] = {}

        async def receive() -> None:
            while True:
                number, answer = await sock.recv_multipart()
                waiting.pop(number).set_result(answer)

        async def call(payload: bytes) -> bytes:
            number = b"%d" % len(waiting) + time.perf_counter_ns().to_bytes(8)
            waiting[number] = asyncio.get_running_loop().create_future()
            answer = waiting[number]
            await sock.send_multipart([number, payload])
            return await answer

        receiving = asyncio.ensure_future(receive())
        yield call
        receiving.cancel()
        sock.close(0)


@contextlib.asynccontextmanager
async def _grpc() -> AsyncIterator[Call]:
    async with _served("grpc") as address, grpc.aio.insecure_channel(address) as channel:
        yield channel.unary_unary(_METHOD)


@contextlib.asynccontextmanager
async def _ray() -> AsyncIterator[Call]:
    import ray  # noqa: PLC0415 - slow to import

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        echo = ray.remote(_Echo).remote()

        async def call(payload: bytes) -> bytes:
            return bytes(await echo.echo.remote(payload))

        yield call
    finally:
        ray.shutdown()


_WAYS: dict[str, Callable[[], AbstractAsyncContextManager[Call]]] = {
    "unix": partial(_plane, "unix"), "tcp": partial(_plane, "tcp"), "zmq": _zmq, "grpc": _grpc, "ray": _ray}


# ---- the other process ------------------------------------------------------------------------------------------------


class _Echo:
    async def echo(self, payload: bytes) -> bytes:
        return payload


@contextlib.asynccontextmanager
async def _served(way: str) -> AsyncIterator[str]:
    """A process that echoes; its address."""
    with tempfile.TemporaryDirectory(prefix="raytx-hop-") as directory:  # here: the process is killed, and removes nothing
        command = [sys.executable, "-m", "benchmarks.hops", way, f"{directory}/socket"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220, S603 - before anything is measured
            assert process.stdout is not None
            try:
                yield process.stdout.readline().strip()
            finally:
                process.kill()


async def _serve(way: str, path: str) -> None:
    if way in ("unix", "tcp"):
        endpoint = Endpoint({"echo": _Echo().echo}, lambda: "127.0.0.1")
        address = await endpoint.address(this_host() if way == "unix" else "another")
        print(address.hex(), flush=True)  # noqa: T201 - to whoever started it
        await asyncio.Event().wait()
    await {"zmq": _serve_zmq, "grpc": _serve_grpc}[way](path)


async def _serve_zmq(path: str) -> None:
    import zmq.asyncio  # noqa: PLC0415 - as above

    sock: Any = zmq.asyncio.Context.instance().socket(zmq.ROUTER)  # type: ignore[attr-defined]
    sock.bind(f"ipc://{path}")
    print(f"ipc://{path}", flush=True)  # noqa: T201 - as above
    while True:
        await sock.send_multipart(await sock.recv_multipart())


async def _serve_grpc(path: str) -> None:
    server = grpc.aio.server()

    async def echo(payload: bytes, _context: Any) -> bytes:
        return payload

    server.add_generic_rpc_handlers([
        grpc.method_handlers_generic_handler("raytx.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})])
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    print(f"unix:{path}", flush=True)  # noqa: T201 - as above
    await server.wait_for_termination()


def _main(arguments: list[str]) -> None:
    if arguments and arguments[0] in WAYS:
        uvloop.run(_serve(*arguments))
        return
    found = measure_hops(int(arguments[0]) if arguments else CALLS, ROUNDS)
    table = Table("over", "alone, us", "times a Unix socket", "64 at once, calls/s", "share of a Unix socket", title=TITLE)
    base = found["unix"]
    for way, one in found.items():
        table.add_row(
            way, f"{one['alone_us']:,.0f}", f"{one['alone_us'] / base['alone_us']:.1f}", f"{one['together_per_s']:,.0f}",
            f"{one['together_per_s'] / base['together_per_s']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    _main(sys.argv[1:])
