"""A service's spans: one per message, current while its handler runs, over when its outcome is known."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from actors.operation import bind_operations
from actors.runner import Outcome, Work
from actors.spans import ServiceSpans, open_service_spans
from orchestrator.errors import DefiniteError
from orchestrator.protocol.messages import Command, Kind, Reply, Status
from orchestrator.protocol.traceparent import span_id_of
from orchestrator.tracing.chosen import check_tracing
from orchestrator.tracing.current import current_traceparent
from orchestrator.tracing.tracer import Tracer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PLACE = f"00-{TRACE}-{span_id_of('t', 's')}-01"


class Hold(BaseModel):
    amount: int = 1


class Purse:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def _see(self) -> None:
        self.seen.append(trace.get_current_span().get_span_context().span_id)

    async def ask_hold(self, request: Hold) -> int:
        self._see()
        return request.amount

    def prepare_hold(self, state, request: Hold, answer: int) -> Hold:
        self._see()
        if request.amount == 13:
            raise RuntimeError("tok_secret")
        return Hold(amount=answer)

    def commit_hold(self, state, request: Hold, result: Hold) -> None:
        self._see()

    def rollback_hold(self, state, request: Hold, result: Hold) -> None:
        self._see()


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> ServiceSpans:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return ServiceSpans(Tracer(provider), "purse")


def command(kind: Kind = Kind.PREPARE, attempt: int = 1, place: str = PLACE) -> Command:
    return Command("t", "s", kind, attempt, 1, "hold", b"", place)


def outcome(of: Command, status: Status, code: str = "") -> Outcome:
    return Outcome(Work(of, "shard"), Reply(of.transaction, of.step, of.kind, of.attempt, status, code))


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


async def test_handlers_run_within_the_span_of_their_message(spans, exporter) -> None:
    purse = Purse()
    operation = spans.within(bind_operations(purse))["hold"]
    prepare, commit = command(), command(Kind.COMMIT)
    spans.arrived([prepare, commit])
    answer = await operation.inquire(prepare, Hold())
    assert operation.start(prepare, {}, Hold(), answer) == Hold(amount=1)
    operation.finish(commit, {}, Hold(), Hold())
    spans.delivered([outcome(prepare, Status.YES), outcome(commit, Status.ACK)])
    first, second = exporter.get_finished_spans()
    assert purse.seen == [first.context.span_id, first.context.span_id, second.context.span_id]
    assert (first.name, first.kind, f"{first.parent.span_id:016x}") == (
        "purse prepare", trace.SpanKind.SERVER, span_id_of("t", "s"))
    assert dict(first.attributes) == {
        "raytx.transaction": "t", "raytx.service": "purse", "raytx.step": "s", "raytx.kind": "PREPARE", "raytx.attempt": 1,
        "raytx.status": "YES"}


def test_an_exceptions_text_stays_out_of_the_trace(spans, exporter) -> None:
    operation = spans.within(bind_operations(Purse()))["hold"]
    spans.arrived([command()])
    with pytest.raises(RuntimeError):
        operation.start(command(), {}, Hold(amount=13), 13)
    spans.delivered([outcome(command(), Status.ERROR, "E_SERVICE_ERROR")])
    span = only(exporter)
    assert "tok_secret" not in span.to_json()
    assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, "E_SERVICE_ERROR")


def test_what_is_not_traced_makes_no_span_and_hides_what_is_current(spans, exporter) -> None:
    purse = Purse()
    operation = spans.within(bind_operations(purse))["hold"]
    untraced = [command(place=""), command(attempt=2, place=PLACE[:-1] + "0"), command(attempt=3, place="nonsense")]
    spans.arrived(untraced)
    for one in untraced:
        operation.start(one, {}, Hold(), 1)
    spans.delivered([outcome(one, Status.YES) for one in untraced])
    assert purse.seen == [0, 0, 0]
    assert exporter.get_finished_spans() == ()


def test_a_message_whose_answer_is_waited_for_stays_open_and_a_repeat_joins(spans, exporter) -> None:
    spans.arrived([command()])
    spans.delivered([Outcome(Work(command(), "shard"), None)])
    spans.arrived([command()])
    assert exporter.get_finished_spans() == ()
    spans.delivered([outcome(command(), Status.NO, "POOR"), outcome(command(), Status.NO, "POOR")])
    assert only(exporter).attributes["raytx.code"] == "POOR"
    assert only(exporter).status.status_code is trace.StatusCode.UNSET


class Raising(SpanProcessor):
    def on_end(self, span) -> None:
        raise RuntimeError("no room")


def test_a_processor_that_raises_ends_the_tracing_only(exporter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Raising())
    spans = ServiceSpans(Tracer(provider), "purse")
    spans.arrived([command()])
    spans.delivered([outcome(command(), Status.YES)])
    assert spans.broken
    spans.arrived([command(attempt=2)])
    assert not spans.span_of(command(attempt=2)).get_span_context().is_valid


ASKED: list[str] = []


def broken_provider(actor, data_dir):
    ASKED.append(actor)
    raise OSError(f"{actor}: no collector")


def test_a_function_that_fails_leaves_the_actor_untraced(tmp_path) -> None:
    assert open_service_spans(f"{__name__}:broken_provider", "purse", tmp_path) is None
    assert ASKED == ["service-purse"]


@pytest.mark.parametrize("path", ["nowhere:provider", "json:nothing", "json:__name__", "json", ""])
def test_a_setting_that_names_no_function_is_refused(path: str) -> None:
    with pytest.raises(DefiniteError, match="tracing"):
        check_tracing(path)


def test_a_good_setting_is_not_refused() -> None:
    check_tracing("json:loads")
    check_tracing(None)


def test_the_current_span_is_the_parent_of_a_submit() -> None:
    assert current_traceparent() == ""
    context = trace.SpanContext(int(TRACE, 16), 0xf067aa0ba902b7, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert current_traceparent() == f"00-{TRACE}-00f067aa0ba902b7-01"
