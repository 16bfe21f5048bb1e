"""A service's host with the setting `tracing`: spans of what it is sent, and of what it has to ask for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator.protocol.messages import Kind, Status
from orchestrator.protocol.traceparent import span_id_of
from unit.test_service_host import message, purse, rig_of, txn

__all__ = ["rig_of"]  # the fixture

PLACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01"
exporter = InMemorySpanExporter()
asked: list[tuple[str, Path]] = []


def provider(actor: str, data_dir: Path) -> TracerProvider:
    asked.append((actor, data_dir))
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


def failing(actor: str, data_dir: Path) -> TracerProvider:
    raise OSError(f"{actor}: no collector for {data_dir}")


def traced(kind: Kind = Kind.PREPARE, **more):
    return msgspec.structs.replace(message(kind, **more), traceparent=PLACE.format(span_id_of(txn(1), "pay")))


@pytest.fixture(autouse=True)
def nothing_written() -> None:
    exporter.clear()
    asked.clear()


async def test_every_message_has_its_span(rig_of, tmp_path) -> None:
    rig = rig_of(tracing=f"{__name__}:provider")
    assert (await rig.one(traced())).status is Status.YES
    assert (await rig.one(traced(Kind.COMMIT))).status is Status.ACK
    assert (await rig.one(message(Kind.PREPARE, 2))).status is Status.YES  # of a transaction that nobody traces
    assert asked == [("service-purse", tmp_path)]
    assert [(span.name, span.attributes["raytx.status"]) for span in exporter.get_finished_spans()] == [
        ("purse prepare", "YES"), ("purse commit", "ACK")]


async def test_an_asynchronous_part_that_fails_ends_the_span_of_its_message(rig_of) -> None:
    rig = rig_of(tracing=f"{__name__}:provider")
    purse.gate.set()
    reply = await rig.one(traced(operation="slow", amount=13))
    assert reply.status is Status.ERROR
    (span,) = exporter.get_finished_spans()
    assert (span.attributes["raytx.status"], span.attributes["raytx.code"]) == ("ERROR", reply.code)


async def test_a_provider_that_fails_leaves_the_service_serving(rig_of) -> None:
    rig = rig_of(tracing=f"{__name__}:failing")
    assert (await rig.one(traced())).status is Status.YES
    assert exporter.get_finished_spans() == ()
