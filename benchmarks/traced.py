"""What tracing costs where it is off, and what where it is on: processor time per order of the core and of all its spans.

The core of a shard runs four-step transactions in this process, without Ray, log and services; spans of shard and services
are made as in their actors, and exported to nobody in batches.

python -m benchmarks.traced [ORDERS]
"""

from __future__ import annotations

import gc
import sys
import time
import timeit
from collections.abc import Sequence
from typing import Any

import msgspec
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from actors.runner import Outcome, Work
from actors.spans import ServiceSpans
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.messages import Command, Kind, Reply, Status, SubmitRequest
from orchestrator.protocol.records import AppendResult, AppendStatus, Decided, Record, encode
from orchestrator.saga import Saga, Step, encode_plain
from orchestrator.tracing.shard_spans import ShardSpans
from orchestrator.tracing.tracer import Tracer

ORDERS, ROUNDS, BATCH = 2_000, 7, 50
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
SIDES = {"off": "", "on, not sampled": f"{PARENT}00", "on, sampled": f"{PARENT}01"}


class Nothing(BaseModel):
    """No input."""


SAGA = Saga(name="order", input=Nothing, steps=[
    Step(name="hold", service="stock", request=lambda _: {}, compensation="release"),
    Step(name="charge", service="money", request=lambda _: {}, compensation="refund"),
    Step(name="ship", service="post", after=("hold", "charge"), request=lambda _: {}, compensation="recall"),
    Step(name="tell", service="mail", after=("ship",), after_commit=True, request=lambda _: {})])
_INPUT, _RESULT = encode_plain({}), encode_plain({})


class _ToNobody(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        del spans
        return SpanExportResult.SUCCESS


class _Shard:
    """A shard's shell as far as spans see it: what is appended is durable at once, what is sent is answered yes."""

    def __init__(self, spans: ShardSpans | None, services: ServiceSpans | None) -> None:
        self._spans, self._services = spans, services
        self._core = Coordinator({("order", 1): SAGA}, open_max=10 * BATCH)
        self._core.adopt(dict.fromkeys(range(256), 1), [], 1_000)
        self._key = 0

    def orders(self, count: int, traceparent: str) -> None:
        for _ in range(0, count, BATCH):
            self._key += BATCH
            requests = [SubmitRequest(n, f"k{self._key + n}", "order", _INPUT, 0, traceparent) for n in range(BATCH)]
            self._apply(self._core.submit([(Waiter("c", request.number), request) for request in requests], 1_000))

    def _apply(self, effects: Effects) -> None:
        while effects.records or effects.commands:
            if self._spans is not None:
                self._spans.applied(effects)
            following = Effects()
            if effects.records:
                results = [(record, _stored(record)) for record in effects.records]
                if self._spans is not None:
                    self._spans.appended(results)
                following.include(self._core.appended(results, 1_001))
            for commands in effects.commands.values():
                replies = self._served(commands)
                if self._spans is not None:
                    self._spans.received(replies)
                following.include(self._core.receive(replies, 1_002))
            effects = following

    def _served(self, commands: list[Command]) -> list[Reply]:
        if self._services is not None:
            self._services.arrived(commands)
        outcomes = [Outcome(Work(command, "s"), _answer(command)) for command in commands]
        if self._services is not None:
            self._services.delivered(outcomes)
        return [outcome.reply for outcome in outcomes if outcome.reply is not None]


class _FormerCommand(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A command without a place in a trace."""

    transaction: str
    step: str
    kind: Kind
    attempt: int
    epoch: int
    operation: str
    request: bytes = b""


def order_us(orders: int, rounds: int) -> dict[str, float]:
    """Processor time of an order in µs by side, threads of the exporter included; the least disturbed round of each."""
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, traceparent in SIDES.items():
            provider = TracerProvider(shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(_ToNobody()))
            tracer = Tracer(provider) if side != "off" else None
            shard = _Shard(ShardSpans(tracer) if tracer else None, ServiceSpans(tracer, "s") if tracer else None)
            shard.orders(orders // 10, traceparent)  # warm
            gc.collect()
            began_s = time.process_time()
            shard.orders(orders, traceparent)
            found[side].append((time.process_time() - began_s) / orders * 1e6)
            provider.shutdown()
    return {side: min(values) for side, values in found.items()}


def off_ns() -> dict[str, float]:
    """What is left where nothing is traced, in ns: the test of one attribute, and an empty field in a message."""
    shard = _Shard(None, None)
    command = Command("0" * 32, "hold", Kind.PREPARE, 1, 1, "hold", b"x" * 200)
    former = _FormerCommand(*(getattr(command, name) for name in _FormerCommand.__struct_fields__))
    now, then = msgspec.msgpack.Decoder(Command), msgspec.msgpack.Decoder(_FormerCommand)
    message, earlier = encode(command), msgspec.msgpack.encode(former)
    with_field = _each_ns("decode(encode(value))", {"decode": now.decode, "encode": encode, "value": command})
    without = _each_ns("decode(encode(value))", {"decode": then.decode, "encode": encode, "value": former})
    names = {"shard": shard}
    test, empty = _each_ns("shard._spans is not None", names), _each_ns("pass", names)
    return {
        "test of the attribute, per batch": test - empty,
        "empty field, encoded and decoded, per message": with_field - without,
        "bytes of the empty field": float(len(message) - len(earlier))}


def _each_ns(statement: str, names: dict[str, Any]) -> float:
    """Processor time of a statement: the lowest of many short rounds is the least disturbed one."""
    return min(timeit.repeat(statement, globals=names, timer=time.thread_time, number=20_000, repeat=25)) / 20_000 * 1e9


def _stored(record: Record) -> AppendResult:
    return AppendResult(AppendStatus.STORED, record if isinstance(record, Decided) else None)


def _answer(command: Command) -> Reply:
    status = Status.YES if command.kind is Kind.PREPARE else Status.ACK
    return Reply(command.transaction, command.step, command.kind, command.attempt, status, "", "", _RESULT)


def main() -> None:
    """Measure and print."""
    orders = int(sys.argv[1]) if len(sys.argv) > 1 else ORDERS
    table = Table(title=f"tracing: {orders} orders, the lowest of {ROUNDS} alternating rounds")
    table.add_column("tracing")
    table.add_column("µs of processor time per order", justify="right")
    for side, value in order_us(orders, ROUNDS).items():
        table.add_row(side, f"{value:.1f}")
    for what, value in off_ns().items():
        table.add_row(what, f"{value:.0f}{'' if what.startswith('bytes') else ' ns'}")
    Console().print(table)


if __name__ == "__main__":
    main()
