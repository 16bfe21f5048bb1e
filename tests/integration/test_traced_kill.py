"""An order whose shard is killed: all processes' spans, exported to files by OpenTelemetry's SDK, are one tree."""

from __future__ import annotations

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


def spans(shop: Shop, transaction: str, until: Callable[[Sequence[Span]], bool]) -> list[Span]:
    """The transaction's spans, once they have all been written: the end is told to nobody."""
    end_s = time.monotonic() + SETTLE_S
    while True:
        found = transactions_spans(spans_of(Path(shop.deployment.data_dir, "spans").glob("*.jsonl")), transaction)
        if until(found):
            return found
        assert time.monotonic() < end_s, [(span["name"], parent(span)) for span in found]
        time.sleep(0.05)


def ended(found: Sequence[Span]) -> bool:
    return any(span["name"] == "place_order" for span in found)


def prepared(found: Sequence[Span]) -> bool:
    return any(span["name"] == "payment prepare" for span in found)


def test_one_tree_across_a_shards_death(shop_of: Callable[..., Shop]) -> None:
    slow = {"shipping": FaultSettings(latency_ms=1_500)}
    shop = shop_of(Settings(tracing="integration.traced_to_files:provider", faults=slow))
    above = SpanContext(int(TRACE, 16), int(DRIVER, 16), is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(above)):
        handle = shop.client.submit("place_order", order())
    killed = None
    while killed is None:
        listed = [row for row in spans_of(Path(shop.deployment.data_dir, "spans").glob("service-payment*.jsonl"))
                  if row["attributes"].get("raytx.step") == "authorize"]
        killed = shop.kill("orchestrator") if listed else None
    transaction = handle.outcome(60).transaction
    found = spans(shop, transaction, ended)
    assert problems(found, steps=STEPS, above=DRIVER, recovered=True) == []
    assert {span["context"]["trace_id"] for span in found} == {f"0x{TRACE}"}
    writers = {span["resource"]["attributes"]["service.name"] for span in found}
    assert writers == {"shard-0", *(f"service-{name}" for name in ("inventory", "payment", "shipping", "notification"))}
    told = timeline(shop.deployment.data_dir, shop.deployment.app, transaction)
    assert told.trace_id == TRACE
    assert shop.audit()["ok"]


def test_a_bad_explicit_traceparent_is_refused_and_a_good_one_kept(shop_of: Callable[..., Shop]) -> None:
    shop = shop_of(Settings(tracing="integration.traced_to_files:failing"))  # actors log it and go on untraced
    with pytest.raises(DefiniteError, match="traceparent"):
        shop.client.submit("place_order", order(), traceparent="00-0-0-01")
    outcome = shop.client.submit("place_order", order(), traceparent=f"00-{TRACE}-{DRIVER}-01").outcome(30)
    assert outcome.committed
    assert timeline(shop.deployment.data_dir, shop.deployment.app, outcome.transaction).trace_id == TRACE
