"""An order whose shard is killed: all processes' spans, exported to files by OpenTelemetry's SDK, are one tree."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from integration.shop import SETTLE_S, Shop, order
from integration.span_tree import Span, parent, problems, spans_of, transactions_spans
from orchestrator import DefiniteError, FaultSettings, Settings
from orchestrator.timeline import timeline

TRACE, DRIVER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STEPS = ["reserve", "authorize", "ship", "notify"]
SLOW_MS = 1_500


def spans(shop: Shop, until: Callable[[Sequence[Span]], bool]) -> list[Span]:
    """All that has been written, once that is enough: the end of a transaction is told to nobody."""
    end_s = time.monotonic() + SETTLE_S
    while True:
        found = spans_of(Path(shop.deployment.data_dir, "spans").glob("*.jsonl"))
        if until(found):
            return found
        assert time.monotonic() < end_s, [(span["name"], parent(span)) for span in found]
        time.sleep(0.02)


def held(found: Sequence[Span]) -> bool:
    """The money is, and the parcel is still being asked for."""
    return any(span["name"] == "payment prepare" and span["attributes"]["raytx.step"] == "authorize" for span in found)


def test_one_tree_across_a_shards_death(shop_of: Callable[..., Shop]) -> None:
    slow = {"shipping": FaultSettings(latency_ms=SLOW_MS)}
    shop = shop_of(Settings(tracing="integration.traced_to_files:provider", faults=slow))
    (pid,) = [status["pid"] for status in shop.statuses() if status["role"] == "orchestrator"]
    above = SpanContext(int(TRACE, 16), int(DRIVER, 16), is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(above)):
        handle = shop.client.submit("place_order", order(), deadline_ms=600_000)
    spans(shop, held)
    os.kill(pid, signal.SIGKILL)
    transaction = handle.outcome(SETTLE_S).transaction
    written = spans(shop, lambda found: "place_order" in {span["name"] for span in transactions_spans(found, transaction)})
    found = transactions_spans(written, transaction)
    assert problems(found, steps=STEPS, above=DRIVER, recovered=True) == []
    assert {span["context"]["trace_id"] for span in found} == {f"0x{TRACE}"}
    writers = {span["resource"]["attributes"]["service.name"] for span in found}
    assert writers == {"shard-0", *(f"service-{name}" for name in ("inventory", "payment", "shipping", "notification"))}
    assert timeline(shop.deployment.data_dir, shop.deployment.app, transaction).trace_id == TRACE
    explicit(shop, len(found))


def explicit(shop: Shop, written: int) -> None:
    """A caller's own traceparent: refused where it is none, kept where it is not sampled, and then nothing is written."""
    with pytest.raises(DefiniteError, match="traceparent"):
        shop.client.submit("place_order", order(), traceparent="00-0-0-01")
    before = len(spans(shop, bool))
    transaction = shop.client.submit(
        "place_order", order(), deadline_ms=600_000, traceparent=f"00-{TRACE}-{DRIVER}-00").outcome(SETTLE_S).transaction
    told = timeline(shop.deployment.data_dir, shop.deployment.app, transaction)
    assert (told.trace_id, told.sampled) == (TRACE, False)
    assert len(spans(shop, bool)) == before >= written
