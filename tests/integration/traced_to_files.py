"""What the setting `tracing` may name: every span goes to a file of its process as soon as it has ended."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor


def provider(actor: str, data_dir: Path) -> TracerProvider:
    made = TracerProvider(resource=Resource.create({"service.name": actor}), shutdown_on_exit=False)
    directory = data_dir / "spans"
    directory.mkdir(exist_ok=True)
    file = (directory / f"{actor}-{os.getpid()}.jsonl").open("a", buffering=1)
    made.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(
        out=file, formatter=lambda span: span.to_json(indent=None) + "\n")))
    return made
