"""A shard's spans: one per transaction, one per step, one per attempt, read off what goes in and out of the core.

The span of a transaction and those of its steps are written when it ends, by whoever ends it, under ids derived from the
transaction's: so a shard's death leaves no span without its parent. A death between that and the durable Ended has the
successor write them again, under the same ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec

import msgspec
from opentelemetry.trace import Span, SpanKind, StatusCode

from orchestrator.protocol.effects import Effects, Notice
from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.messages import Command, Kind, Reply, Status, SubmitRequest
from orchestrator.protocol.records import (
    AppendResult,
    AppendStatus,
    Begun,
    Decided,
    Decision,
    Ended,
    Parked,
    Record,
    Resolved,
    State,
    StoredTransaction,
)
from orchestrator.protocol.traceparent import TraceParent, parse, span_id_of
from orchestrator.tracing.tracer import SpanEvent, Tracer, WholeSpan, failed, open_tracer

EVENTS_MAX = 64  # of one span that is still open: a parked step is retried for ever
UNANSWERED = "UNANSWERED"
_FAILED = frozenset({Status.ERROR.name, Status.VIOLATION.name, Status.FENCED.name, UNANSWERED})
_RETRIES = frozenset({"retry", "attempt_timeout"})
P = ParamSpec("P")


class _Open:
    """A span that is written at the end of its transaction."""

    __slots__ = ("attributes", "began_ns", "ended_ns", "error", "events", "unkept")

    def __init__(self, began_ns: int, attributes: dict[str, str | int | bool]) -> None:
        self.began_ns = self.ended_ns = began_ns
        self.attributes = attributes
        self.events: list[SpanEvent] = []
        self.unkept = 0
        self.error = ""

    def happened(self, name: str, at_ns: int, **attributes: str | int) -> None:
        if len(self.events) >= EVENTS_MAX:
            self.unkept += 1
            return
        told = {f"raytx.{key}": value for key, value in attributes.items() if value != ""}
        self.events.append(SpanEvent(name, at_ns, told))

    def whole(self, name: str, under: TraceParent, span_id: str) -> WholeSpan:
        unkept = {"raytx.events_not_kept": self.unkept} if self.unkept else {}
        return WholeSpan(name, under, span_id, self.began_ns, max(self.began_ns, self.ended_ns),
                         {**self.attributes, **unkept}, self.events, self.error)


class _Traced:
    """One open transaction whose spans are wanted."""

    __slots__ = ("attempts", "begun", "recovered", "root", "steps", "under")

    def __init__(self, begun: Begun, under: TraceParent, *, recovered: bool) -> None:
        self.begun, self.under, self.recovered = begun, under, recovered
        self.root = _Open(begun.began_ms * 1_000_000, {
            "raytx.transaction": begun.transaction, "raytx.saga": begun.saga, "raytx.saga_version": begun.version})
        self.steps: dict[str, _Open] = {}
        self.attempts: dict[str, tuple[Kind, int, Span]] = {}  # under way, by step

    def step(self, name: str, service: str, now_ns: int) -> _Open:
        found = self.steps.get(name)
        if found is None:
            # when an earlier incarnation sent it first is known to nobody: not before the transaction began
            began_ns = self.root.began_ns if self.recovered else now_ns
            found = self.steps[name] = _Open(began_ns, {
                "raytx.transaction": self.begun.transaction, "raytx.saga": self.begun.saga, "raytx.service": service,
                "raytx.step": name})
        return found


def _harmless(method: Callable[Concatenate[ShardSpans, P], None]) -> Callable[Concatenate[ShardSpans, P], None]:
    """Whatever a span processor raises ends the tracing, never a transaction."""

    @wraps(method)
    def guarded(self: ShardSpans, /, *args: P.args, **named: P.kwargs) -> None:
        if self.broken:
            return
        try:
            method(self, *args, **named)
        except Exception as error:  # noqa: BLE001 - user code: processors, exporters
            self.broken = True
            self.open.clear()
            failed(error)

    return guarded


class ShardSpans:
    """Follows the transactions of a shard whose spans are wanted.

    Args:
        tracer: writes them.
        clock_ns: Unix time, ns.
    """

    def __init__(self, tracer: Tracer, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._tracer, self._clock_ns = tracer, clock_ns
        self.open: dict[str, _Traced] = {}
        self.broken = False

    def rooted(self, submits: Sequence[SubmitRequest]) -> Sequence[SubmitRequest]:
        """The requests, a new trace for each that belongs to none: so every answer to "is it sampled" is durable."""
        if self.broken or all(request.traceparent for request in submits):
            return submits
        try:
            return [request if request.traceparent else self._rooted(request) for request in submits]
        except Exception as error:  # noqa: BLE001 - the user's sampler
            self.broken = True
            failed(error)
            return submits

    @_harmless
    def adopted(self, transactions: Iterable[StoredTransaction]) -> None:
        """Open transactions that were taken over: their spans go on where the last incarnation left them."""
        now_ns = self._clock_ns()
        for stored in transactions:
            ended = stored.state in (State.COMMITTED, State.ABORTED)  # held for a ledger only: its spans are written
            traced = None if ended else self._follow(stored.begun, recovered=True)
            if traced is not None:
                traced.root.attributes["raytx.recoveries"] = stored.recoveries
                traced.root.happened("recovered", now_ns, recoveries=stored.recoveries)
                if stored.decided is not None:
                    self._decided(traced, stored.decided, stored.decided.at_ms * 1_000_000)

    @_harmless
    def applied(self, effects: Effects) -> None:
        """What the core wants done; commands of traced transactions are given their place in the trace here."""
        now_ns = self._clock_ns()
        for record in effects.records:
            if isinstance(record, Begun):
                self._follow(record, recovered=False)
        if not self.open:
            return
        for notice in effects.notices:
            self._notice(notice, now_ns)
        for service, commands in effects.commands.items():
            for index, command in enumerate(commands):
                traced = self.open.get(command.transaction)
                if traced is not None:
                    commands[index] = self._sent(traced, service, command, now_ns)
        for record in effects.records:
            self._recorded(record, now_ns)

    @_harmless
    def received(self, replies: Iterable[Reply]) -> None:
        """Answers of a participant, before the core sees them."""
        if not self.open:
            return
        for reply in replies:
            traced = self.open.get(reply.transaction)
            if traced is not None:
                self._answered(traced, reply)

    @_harmless
    def appended(self, results: Iterable[tuple[Record, AppendResult]]) -> None:
        """The log's answers, before the core sees them."""
        if not self.open:
            return
        for record, result in results:
            traced = self.open.get(record.transaction)
            if traced is None:
                continue
            if result.status is AppendStatus.FENCED or (
                    isinstance(record, Begun) and result.status is not AppendStatus.STORED):
                del self.open[record.transaction]
            elif isinstance(record, Decided) and result.decided is not None:
                self._decided(traced, result.decided, self._clock_ns())
            elif isinstance(record, Resolved) and result.status is AppendStatus.STORED and record.step in traced.steps:
                traced.steps[record.step].happened("resolved", self._clock_ns(), step=record.step)

    @_harmless
    def dropped(self, partition: int) -> None:
        """A partition is another shard's now, and with it the spans of what is open there."""
        for transaction in [t for t in self.open if partition_of(t) == partition]:
            del self.open[transaction]

    def _rooted(self, request: SubmitRequest) -> SubmitRequest:
        new = self._tracer.new_trace(request.saga, {"raytx.saga": request.saga})
        return msgspec.structs.replace(request, traceparent=str(new))

    def _follow(self, begun: Begun, *, recovered: bool) -> _Traced | None:
        under = parse(begun.traceparent) if begun.traceparent else None
        if under is None or not under.sampled:
            return None
        traced = self.open[begun.transaction] = _Traced(begun, under, recovered=recovered)
        return traced

    def _sent(self, traced: _Traced, service: str, command: Command, now_ns: int) -> Command:
        step = traced.step(command.step, service, now_ns)
        step.attributes["raytx.attempt"] = command.attempt
        self._attempt_ended(traced, command.step, UNANSWERED, "")
        place = traced.under.under(span_id_of(command.transaction, command.step))
        span = self._tracer.start(
            f"{command.kind.name.lower()} {command.step}", place,
            {**_of_command(command), "raytx.saga": traced.begun.saga, "raytx.service": service}, kind=SpanKind.CLIENT)
        traced.attempts[command.step] = (command.kind, command.attempt, span)
        return msgspec.structs.replace(command, traceparent=str(place))

    def _answered(self, traced: _Traced, reply: Reply) -> None:
        step, under_way = traced.steps.get(reply.step), traced.attempts.get(reply.step)
        if step is None:
            return
        step.ended_ns = self._clock_ns()
        step.attributes["raytx.status"] = f"{reply.kind.name} {reply.status.name}"
        if reply.code:
            step.attributes["raytx.code"] = reply.code
        if under_way is not None and under_way[:2] == (reply.kind, reply.attempt):
            self._attempt_ended(traced, reply.step, reply.status.name, reply.code)

    def _attempt_ended(self, traced: _Traced, step: str, status: str, code: str) -> None:
        under_way = traced.attempts.pop(step, None)
        if under_way is None:
            return
        span = under_way[2]
        span.set_attribute("raytx.status", status)
        if code:
            span.set_attribute("raytx.code", code)
        if status in _FAILED:
            span.set_status(StatusCode.ERROR, code or status)
        span.end()

    def _decided(self, traced: _Traced, decided: Decided, at_ns: int) -> None:
        root = traced.root
        if "raytx.decision" in root.attributes:
            return
        root.attributes["raytx.decision"] = decided.decision.name
        if decided.decision is Decision.ABORT:
            root.attributes["raytx.code"] = root.error = decided.code
        root.happened("decided", at_ns, decision=decided.decision.name, code=decided.code, service=decided.service,
                      step=decided.step)

    def _notice(self, notice: Notice, now_ns: int) -> None:
        traced = self.open.get(notice.transaction) if notice.event in _RETRIES else None
        if traced is None:
            return
        silent = notice.event == "attempt_timeout"
        if silent and notice.step not in traced.attempts:
            return  # it was answered: what is over is the wait before the next attempt
        traced.step(notice.step, notice.service, now_ns).happened(
            "retry", now_ns, attempt=notice.attempt, code=UNANSWERED if silent else notice.code)

    def _recorded(self, record: Record, now_ns: int) -> None:
        traced = self.open.get(record.transaction)
        if traced is None:
            return
        if isinstance(record, Parked):
            where = traced.steps.get(record.step, traced.root)
            where.happened("parked" if record.code else "unparked", now_ns, code=record.code, step=record.step)
        elif isinstance(record, Ended):
            del self.open[record.transaction]
            self._write(traced, now_ns)

    def _write(self, traced: _Traced, now_ns: int) -> None:
        root, transaction = traced.root, traced.begun.transaction
        root.ended_ns = now_ns
        below = traced.under.under(span_id_of(transaction))
        for name, step in traced.steps.items():
            self._attempt_ended(traced, name, UNANSWERED, "")
            self._tracer.write(step.whole(name, below, span_id_of(transaction, name)))
        self._tracer.write(root.whole(traced.begun.saga, traced.under, span_id_of(transaction)))


def open_shard_spans(path: str, actor: str, data_dir: Path) -> ShardSpans | None:
    """A shard's spans; None where the function that the setting `tracing` names fails."""
    tracer = open_tracer(path, actor, data_dir)
    return ShardSpans(tracer) if tracer else None


def _of_command(command: Command) -> dict[str, str | int | bool]:
    return {"raytx.transaction": command.transaction, "raytx.step": command.step, "raytx.kind": command.kind.name,
            "raytx.attempt": command.attempt}
