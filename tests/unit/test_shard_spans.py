"""A shard's spans, from a real coordinator's effects: the tree of a commit, of an abort, and across a recovery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import sampling as trace_sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from pydantic import BaseModel, StrictInt

from integration.span_tree import problems
from orchestrator.errors import DefiniteError
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.messages import Command, Kind, Reply, Status, SubmitRequest
from orchestrator.protocol.records import (
    AppendResult,
    AppendStatus,
    Begun,
    Decided,
    Decision,
    Record,
    State,
    StoredTransaction,
)
from orchestrator.protocol.traceparent import parse, span_id_of
from orchestrator.saga import Saga, Step, encode_plain
from orchestrator.tracing.shard_spans import EVENTS_MAX, ShardSpans
from orchestrator.tracing.tracer import Tracer

DRIVER = "00f067aa0ba902b7"
PARENT = f"00-4bf92f3577b34da6a3ce929d0e0e4736-{DRIVER}-01"


class Order(BaseModel):
    amount: StrictInt = 1


SAGA = Saga(name="order", input=Order, steps=[
    Step(name="hold", service="stock", request=lambda ctx: {}, compensation="release"),
    Step(name="charge", service="money", after=("hold",), request=lambda ctx: {}, compensation="refund"),
    Step(name="tell", service="mail", after=("charge",), after_commit=True, request=lambda ctx: {}),
])


class Life:
    """One incarnation of a shard, without its shell's waiting: what it appends is durable, what it sends is answered."""

    def __init__(self, exporter: InMemorySpanExporter, epoch: int = 1, **provider: Any) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False, **provider)
        self.provider.add_span_processor(SimpleSpanProcessor(exporter))
        self.spans = ShardSpans(Tracer(self.provider))
        self.core = Coordinator({("order", 1): SAGA}, open_max=10)
        self.epoch = epoch
        self.log: list[Record] = []
        self.sent: list[Command] = []

    def take(self, stored: Sequence[StoredTransaction] = ()) -> None:
        self.spans.adopted(stored)
        self.apply(self.core.adopt(dict.fromkeys(range(256), self.epoch), stored, 1_000))

    def submit(self, traceparent: str = "") -> None:
        requests = self.spans.rooted([SubmitRequest(1, "k", "order", encode_plain({}), 0, traceparent)])
        self.apply(self.core.submit([(Waiter("c", r.number), r) for r in requests], 1_000))

    def apply(self, effects: Effects) -> None:
        self.spans.applied(effects)
        self.sent += [command for commands in effects.commands.values() for command in commands]
        if effects.records:
            self.log += effects.records
            results = [(record, AppendResult(
                AppendStatus.STORED, record if isinstance(record, Decided) else None)) for record in effects.records]
            self.spans.appended(results)
            self.apply(self.core.appended(results, 1_001))

    def answer(self, status: Status = Status.YES, code: str = "") -> Command:
        command = self.sent.pop(0)
        if command.kind is not Kind.PREPARE and status is Status.YES:
            status = Status.ACK
        replies = [Reply(command.transaction, command.step, command.kind, command.attempt, status, code, "", encode_plain({}))]
        self.spans.received(replies)
        self.apply(self.core.receive(replies, 1_002))
        return command

    def finish(self) -> None:
        while self.sent:
            self.answer()


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def written(exporter: InMemorySpanExporter) -> list[dict[str, Any]]:
    return [json.loads(span.to_json()) for span in exporter.get_finished_spans()]


def named(exporter: InMemorySpanExporter, name: str) -> dict[str, Any]:
    return next(span for span in written(exporter) if span["name"] == name)


def test_a_commit_is_one_tree_under_the_callers_span(exporter) -> None:
    life = Life(exporter)
    life.take()
    life.submit(PARENT)
    life.finish()
    assert problems(written(exporter), steps=["hold", "charge", "tell"], above=DRIVER) == []
    assert [span["name"] for span in written(exporter)] == [
        "prepare hold", "prepare charge", "commit hold", "commit charge", "perform tell", "hold", "charge", "tell", "order"]
    root, charge = named(exporter, "order"), named(exporter, "commit charge")
    assert root["attributes"] == {
        "raytx.transaction": life.log[0].transaction, "raytx.saga": "order", "raytx.saga_version": 1,
        "raytx.decision": "COMMIT"}
    assert root["status"]["status_code"] == "UNSET"
    assert charge["attributes"] == {
        "raytx.transaction": life.log[0].transaction, "raytx.saga": "order", "raytx.service": "money",
        "raytx.step": "charge", "raytx.kind": "COMMIT", "raytx.attempt": 1, "raytx.status": "ACK"}
    assert not life.spans.open


def test_a_command_carries_its_steps_place(exporter) -> None:
    life = Life(exporter)
    life.take()
    life.submit(PARENT)
    place = parse(life.sent[0].traceparent)
    assert place is not None
    assert place.trace_id == PARENT[3:35]
    assert place.parent_id == span_id_of(life.sent[0].transaction, "hold")


def test_an_abort_says_why_and_what_was_rolled_back(exporter) -> None:
    life = Life(exporter)
    life.take()
    life.submit(PARENT)
    life.answer()
    life.answer(Status.NO, "POOR")
    life.finish()
    assert problems(written(exporter), steps=["hold", "charge"], above=DRIVER) == []
    root = named(exporter, "order")
    assert root["status"] == {"status_code": "ERROR", "description": "POOR"}
    assert root["events"][0]["attributes"] == {
        "raytx.decision": "ABORT", "raytx.code": "POOR", "raytx.service": "money", "raytx.step": "charge"}
    assert named(exporter, "prepare charge")["attributes"]["raytx.code"] == "POOR"
    assert named(exporter, "prepare charge")["status"]["status_code"] == "UNSET"  # a no is an answer
    assert "rollback hold" in [span["name"] for span in written(exporter)]
    assert "tell" not in [span["name"] for span in written(exporter)]


def test_a_recovered_transaction_goes_on_in_its_trace(exporter) -> None:
    first = Life(exporter)
    first.take()
    first.submit(PARENT)
    first.answer()  # and dies, with a prepare on its way
    begun = first.log[0]
    assert isinstance(begun, Begun)
    second = Life(exporter, epoch=2)
    second.take([StoredTransaction(msgspec.structs.replace(begun), State.PREPARING, recoveries=1)])
    second.finish()
    spans = written(exporter)
    assert problems(spans, steps=["hold", "charge", "tell"], above=DRIVER, recovered=True) == []
    assert named(exporter, "order")["start_time"] == "1970-01-01T00:00:01.000000Z"  # when it truly began
    assert [span["name"] for span in spans].count("prepare hold") == 2


def test_a_decided_one_tells_its_decision_again(exporter) -> None:
    first = Life(exporter)
    first.take()
    first.submit(PARENT)
    first.answer()
    first.answer()
    begun, decided = first.log[:2]
    assert isinstance(begun, Begun)
    assert isinstance(decided, Decided)
    exporter.clear()
    second = Life(exporter, epoch=2)
    second.take([StoredTransaction(begun, State.COMMITTING, decided, recoveries=1)])
    second.finish()
    assert problems(written(exporter), steps=["hold", "charge", "tell"], above=DRIVER, recovered=True) == []


def test_what_has_ended_and_is_held_for_a_ledger_is_not_followed(exporter) -> None:
    first = Life(exporter)
    first.take()
    first.submit(PARENT)
    first.finish()
    begun, decided = (record for record in first.log if isinstance(record, (Begun, Decided)))
    second = Life(exporter, epoch=2)
    second.take([StoredTransaction(begun, State.COMMITTED, decided, ended_ms=5)])
    assert not second.spans.open


def test_without_a_caller_the_transaction_is_the_root(exporter) -> None:
    life = Life(exporter)
    life.take()
    life.submit()
    begun = life.log[0]
    assert isinstance(begun, Begun)
    assert begun.traceparent.endswith(f"-{'0' * 16}-01")
    life.finish()
    assert problems(written(exporter), steps=["hold", "charge", "tell"]) == []


class Undecided(Sampler):
    """Samples the first it is asked about and nothing ever after."""

    def __init__(self) -> None:
        self.asked = 0

    def should_sample(self, parent_context, trace_id, name, *more):
        self.asked += 1
        sampler = trace_sampling.ALWAYS_ON if self.asked == 1 or trace.get_current_span(
            parent_context).get_span_context().is_valid else ALWAYS_OFF
        return sampler.should_sample(parent_context, trace_id, name, *more)

    def get_description(self) -> str:
        return "undecided"


def test_a_roots_sampling_is_decided_once(exporter) -> None:
    life = Life(exporter, sampler=Undecided())
    life.take()
    life.submit()
    life.finish()
    assert problems(written(exporter), steps=["hold", "charge", "tell"]) == []


@pytest.mark.parametrize(("traceparent", "sampler"), [(PARENT[:-1] + "0", None), ("", ALWAYS_OFF)])
def test_what_is_not_sampled_makes_no_spans(exporter, traceparent: str, sampler: Sampler | None) -> None:
    life = Life(exporter, **({"sampler": sampler} if sampler else {}))
    life.take()
    life.submit(traceparent)
    assert life.sent[0].traceparent == ""
    life.finish()
    begun = life.log[0]
    assert isinstance(begun, Begun)
    assert begun.traceparent.endswith("-00")
    assert written(exporter) == []
    assert not life.spans.open


def test_retries_and_parked_steps_are_events(exporter) -> None:
    life = Life(exporter)
    life.take()
    life.submit(PARENT)
    life.answer(Status.ERROR, "E_SERVICE_ERROR")
    life.apply(life.core.tick(4_000))
    life.answer()  # hold
    life.answer()  # charge
    life.answer(Status.VIOLATION, "E_VIOLATION")  # commit hold
    life.answer()  # commit charge
    life.answer()  # tell
    assert list(life.spans.open)  # parked: it has not ended
    assert life.spans.open[life.log[0].transaction].steps["hold"].events[-1].name == "parked"
    failed = next(span for span in written(exporter) if span["attributes"].get("raytx.status") == "ERROR")
    assert failed["status"]["status_code"] == "ERROR"
    events = life.spans.open[life.log[0].transaction].steps["hold"].events
    assert [(event.name, dict(event.attributes)) for event in events] == [
        ("retry", {"raytx.attempt": 1, "raytx.code": "E_SERVICE_ERROR"}),
        ("parked", {"raytx.code": "E_VIOLATION", "raytx.step": "hold"})]


def test_an_attempt_that_nobody_answered_ends_with_the_next(exporter) -> None:
    life = Life(exporter)
    life.take()
    life.submit(PARENT)
    life.apply(life.core.tick(4_000))
    assert [command.attempt for command in life.sent] == [1, 2]
    (span,) = written(exporter)
    assert (span["name"], span["attributes"]["raytx.status"], span["attributes"]["raytx.attempt"]) == (
        "prepare hold", "UNANSWERED", 1)


def test_events_of_what_stays_open_are_bounded(exporter) -> None:
    life = Life(exporter)
    life.take()
    life.submit(PARENT)
    for _ in range(EVENTS_MAX + 5):
        life.spans.open[life.sent[0].transaction].steps["hold"].happened("retry", 1)
    life.finish()
    assert named(exporter, "hold")["attributes"]["raytx.events_not_kept"] == 5


@pytest.mark.parametrize("status", [AppendStatus.BOUND, AppendStatus.CONFLICT, AppendStatus.FULL, AppendStatus.FENCED])
def test_one_that_never_was_is_forgotten(exporter, status: AppendStatus) -> None:
    life = Life(exporter)
    life.take()
    effects = life.core.submit([(Waiter("c", 1), SubmitRequest(1, "k", "order", encode_plain({}), 0, PARENT))], 1_000)
    life.spans.applied(effects)
    assert life.spans.open
    life.spans.appended([(effects.records[0], AppendResult(status))])
    assert not life.spans.open


def test_a_partition_that_is_anothers_takes_its_spans_along(exporter) -> None:
    life = Life(exporter)
    life.take()
    life.submit(PARENT)
    (transaction,) = life.spans.open
    life.spans.dropped((partition_of(transaction) + 1) % 256)
    assert life.spans.open
    life.spans.dropped(partition_of(transaction))
    assert not life.spans.open


class Raising(SpanProcessor):
    def on_end(self, span) -> None:
        raise RuntimeError("disk full")


def test_a_processor_that_raises_ends_the_tracing_and_nothing_else(exporter) -> None:
    life = Life(exporter)
    life.provider.add_span_processor(Raising())
    life.take()
    life.submit(PARENT)
    life.finish()
    assert life.spans.broken
    assert [record.decision for record in life.log if isinstance(record, Decided)] == [Decision.COMMIT]
    assert life.core.open_count == 0


def test_a_provider_whose_ids_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(DefiniteError, match="TracerProvider of OpenTelemetry's SDK"):
        Tracer(trace.NoOpTracerProvider())
