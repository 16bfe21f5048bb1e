"""What writes spans: the tracer of a provider that the user's own function makes, with ids that raytx may choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.logs import log_event
from orchestrator.protocol.traceparent import TraceParent
from orchestrator.tracing.chosen import load

ZERO_ID = "0" * 16
_SAMPLED = 1

Attributes = Mapping[str, str | int | bool]


class SpanEvent(NamedTuple):
    """Something that happened in a span; `at_ns` is Unix time, ns."""

    name: str
    at_ns: int
    attributes: Attributes


class WholeSpan(NamedTuple):
    """A span that has ended.

    Attributes:
        name: of the span.
        under: where it belongs.
        span_id: 16 hexadecimal digits.
        began_ns: Unix time, ns.
        ended_ns: the same.
        attributes: of the span.
        events: in the order of time.
        error: a code, where the span's status is an error.
    """

    name: str
    under: TraceParent
    span_id: str
    began_ns: int
    ended_ns: int
    attributes: Attributes
    events: Sequence[SpanEvent] = ()
    error: str = ""


class _ChosenIds:
    """An id generator that hands out a chosen id once, and the generator's own otherwise."""

    def __init__(self, own: Any) -> None:
        self._own = own
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        chosen, self.trace_id = self.trace_id, 0
        return chosen or int(self._own.generate_trace_id())

    def generate_span_id(self) -> int:
        chosen, self.span_id = self.span_id, 0
        return chosen or int(self._own.generate_span_id())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


class _DecidedRoots:
    """A sampler that is not asked again about a root: its decision is durable in the log."""

    def __init__(self, own: Any, always: Any) -> None:
        self._own, self._always = own, always

    def should_sample(self, parent_context: Context | None, *args: Any, **named: Any) -> Any:
        is_root = not trace.get_current_span(parent_context).get_span_context().is_valid
        return (self._always if is_root else self._own).should_sample(parent_context, *args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


class Tracer:
    """Starts and writes spans; for one thread.

    Args:
        provider: an OpenTelemetry SDK's TracerProvider.

    Raises:
        DefiniteError: E_CONFIG: the provider is none whose ids can be chosen.
    """

    def __init__(self, provider: Any) -> None:
        self._tracer: Any = provider.get_tracer("raytx", version("raytx"))
        if not (hasattr(self._tracer, "id_generator") and hasattr(self._tracer, "sampler")):
            raise DefiniteError(
                ErrorCode.CONFIG, f"tracing: a {type(provider).__name__} is no TracerProvider of OpenTelemetry's SDK")
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415 - it has just been seen to be there

        self._sampler = self._tracer.sampler
        self._ids = self._tracer.id_generator = _ChosenIds(self._tracer.id_generator)
        self._tracer.sampler = _DecidedRoots(self._sampler, ALWAYS_ON)

    def new_trace(self, name: str, attributes: Attributes) -> TraceParent:
        """A new trace for a transaction that has nobody's, sampled or not as the provider's sampler decides."""
        trace_id = self._ids.generate_trace_id()
        result = self._sampler.should_sample(None, trace_id, name, SpanKind.INTERNAL, dict(attributes), ())
        return TraceParent(f"{trace_id:032x}", ZERO_ID, _SAMPLED if result.decision.is_sampled() else 0)

    def start(
        self, name: str, under: TraceParent, attributes: Attributes, *, kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        """Start a span below a place of a trace; an id is made for it."""
        span: Span = self._tracer.start_span(name, context=_context(under), kind=kind, attributes=dict(attributes))
        return span

    def write(self, whole: WholeSpan) -> None:
        """Write a span that has ended, under the id that it names."""
        self._ids.trace_id, self._ids.span_id = int(whole.under.trace_id, 16), int(whole.span_id, 16)
        try:
            span: Span = self._tracer.start_span(
                whole.name, context=_context(whole.under), attributes=dict(whole.attributes), start_time=whole.began_ns)
        finally:
            self._ids.trace_id = self._ids.span_id = 0
        for event in whole.events:
            span.add_event(event.name, dict(event.attributes), timestamp=event.at_ns)
        if whole.error:
            span.set_status(StatusCode.ERROR, whole.error)
        span.end(end_time=whole.ended_ns)


def open_tracer(path: str, actor: str, data_dir: Path) -> Tracer | None:
    """An actor's tracer; None, and a line in the log, where the user's function fails: transactions go on untraced.

    Args:
        path: the setting `tracing`.
        actor: the actor's name. The function is called with it and the data directory; it returns a provider, or installs
            one for the whole process and returns None.
        data_dir: of the deployment.
    """
    try:
        provider = load(path)(actor, data_dir)
        return Tracer(trace.get_tracer_provider() if provider is None else provider)
    except Exception as error:  # noqa: BLE001 - user code
        failed(error)
        return None


def failed(error: Exception) -> None:
    """Tell an operator that an actor does not trace any more."""
    log_event("tracing_failed", level="ERROR", code=ErrorCode.CONFIG,
              message=f"{type(error).__name__}: {error}; this process writes no more spans")


def _context(under: TraceParent) -> Context:
    """The parent alone: whatever is current in this process is none of the transaction's."""
    if under.is_root:
        return Context()
    parent = SpanContext(int(under.trace_id, 16), int(under.parent_id, 16), is_remote=True, trace_flags=TraceFlags(under.flags))
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())
