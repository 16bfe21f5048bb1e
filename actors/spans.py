"""A service's spans: one per message that it works off, from its arrival until it is durable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from actors.operation import Operation
from orchestrator.protocol.messages import Kind, Status
from orchestrator.protocol.traceparent import parse
from orchestrator.tracing.tracer import Tracer, failed, open_tracer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from actors.operation import State
    from actors.runner import Outcome
    from orchestrator.protocol.messages import Command

_FAILED = frozenset({Status.ERROR, Status.VIOLATION, Status.FENCED})
MessageKey = tuple[str, str, Kind, int]


class ServiceSpans:
    """Follows the messages of traced transactions through a service; lives on its event loop.

    Args:
        tracer: writes the spans.
        service: the service's name.
    """

    def __init__(self, tracer: Tracer, service: str) -> None:
        self._tracer, self._service = tracer, service
        self._open: dict[MessageKey, Span] = {}
        self.broken = False

    def arrived(self, commands: Iterable[Command]) -> None:
        """Messages were taken in; what a repeat joins has its span already."""
        if self.broken:
            return
        try:
            for command in commands:
                if command.traceparent and _key(command) not in self._open:
                    self._start(command)
        except Exception as error:  # noqa: BLE001 - user code: samplers, processors
            self._fail(error)

    def delivered(self, outcomes: Iterable[Outcome]) -> None:
        """What became of messages, durable where it has to be."""
        if not self._open:
            return
        try:
            for work, reply in outcomes:
                span = self._open.pop(_key(work.command), None) if reply is not None else None
                if span is None or reply is None:
                    continue
                span.set_attribute("raytx.status", reply.status.name)
                if reply.code:
                    span.set_attribute("raytx.code", reply.code)
                if reply.status in _FAILED:
                    span.set_status(StatusCode.ERROR, reply.code or reply.status.name)
                span.end()
        except Exception as error:  # noqa: BLE001 - user code: processors, exporters
            self._fail(error)

    def span_of(self, command: Command) -> Span:
        """The span of a message that is being worked off; one that records nothing where it is not traced."""
        return self._open.get(_key(command), trace.INVALID_SPAN)

    def within(self, operations: Mapping[str, Operation]) -> dict[str, Operation]:
        """The operations, their handlers run with the message's span as the current one."""
        return {
            name: _TracedOperation(
                name=name, prepares=inner.prepares, request=inner.request, result=inner.result, run=inner.run,
                commit=inner.commit, rollback=inner.rollback, ask=inner.ask, inner=inner, spans=self)
            for name, inner in operations.items()}

    def _start(self, command: Command) -> None:
        under = parse(command.traceparent)
        if under is None or not under.sampled:
            return
        self._open[_key(command)] = self._tracer.start(
            f"{self._service} {command.kind.name.lower()}", under,
            {"raytx.transaction": command.transaction, "raytx.service": self._service, "raytx.step": command.step,
             "raytx.kind": command.kind.name, "raytx.attempt": command.attempt},
            kind=SpanKind.SERVER)

    def _fail(self, error: Exception) -> None:
        self.broken = True
        self._open.clear()
        failed(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TracedOperation(Operation):
    inner: Operation
    spans: ServiceSpans

    async def inquire(self, command: Command, request: BaseModel) -> Any:
        with _current(self.spans.span_of(command)):
            return await self.inner.inquire(command, request)

    def start(self, command: Command, state: State, request: BaseModel, answer: Any) -> Any:
        with _current(self.spans.span_of(command)):
            return self.inner.start(command, state, request, answer)

    def finish(self, command: Command, state: State, request: BaseModel, result: BaseModel) -> None:
        with _current(self.spans.span_of(command)):
            self.inner.finish(command, state, request, result)


def open_service_spans(path: str, service: str, data_dir: Path) -> ServiceSpans | None:
    """A service's spans; None where the function that the setting `tracing` names fails."""
    tracer = open_tracer(path, f"service-{service}", data_dir)
    return ServiceSpans(tracer, service) if tracer else None


def _current(span: Span) -> Any:
    """An exception's text may hold what a trace must not: the status tells that there was one."""
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


def _key(command: Command) -> MessageKey:
    return command.transaction, command.step, command.kind, command.attempt
