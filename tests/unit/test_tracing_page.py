"""The examples of docs/tracing.md do what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tracing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_provider_of_the_page_writes_spans_to_a_file(tmp_path: Path) -> None:
    names: dict = {}
    exec(compile(BLOCKS[0], "spans_to_files.py", "exec"), names)
    provider = names["provider"]("shard-0", tmp_path)
    provider.get_tracer("t").start_span("a").end()
    provider.shutdown()
    provider._active_span_processor._span_processors[0].span_exporter.out.close()
    (file,) = (tmp_path / "spans").iterdir()
    (line,) = file.read_text().splitlines()
    span = json.loads(line)
    assert (span["name"], span["resource"]["attributes"]["service.name"]) == ("a", "shard-0")


def test_the_other_examples_are_python() -> None:
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        compile(block, "docs/tracing.md", "exec")
