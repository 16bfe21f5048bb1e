"""The driver's own place in a trace."""

from __future__ import annotations

from opentelemetry import trace

from orchestrator.protocol.traceparent import TraceParent


def current_traceparent() -> str:
    """The `traceparent` of OpenTelemetry's current span; empty where there is none."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return str(TraceParent(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags) & 3))
