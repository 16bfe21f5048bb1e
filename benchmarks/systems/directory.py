"""Where a run keeps its data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.plan import Plan


@contextmanager
def data_directory(plan: Plan) -> Iterator[Path]:
    """The history's directory, or a new one that goes at the end."""
    if plan.history:
        yield Path(plan.history)
        return
    with tempfile.TemporaryDirectory(prefix="raytx-bench-", dir=plan.scratch or None) as made:
        yield Path(made) / "data"
