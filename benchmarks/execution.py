"""Has a plan run in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.plan import Measured, Plan

TIMEOUT_S = 4 * 3_600.0
_TAIL_LINES = 12


class FailedRunError(Exception):
    """A run ended without a result; the message has the last lines of its output."""


def execute(plan: Plan) -> Measured:
    """Run a plan.

    Raises:
        FailedRunError: it did not come to an end.
    """
    with tempfile.TemporaryDirectory(prefix="raytx-run-") as directory:
        asked, result, output = (Path(directory) / name for name in ("plan.json", "result.json", "output"))
        asked.write_bytes(msgspec.json.encode(plan))
        with output.open("w") as file:
            done = subprocess.run(  # noqa: S603 - this program itself
                [sys.executable, "-m", "benchmarks.run", str(asked), str(result)],
                stdout=file, stderr=subprocess.STDOUT, check=False, timeout=TIMEOUT_S)
        if done.returncode or not result.exists():
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
            raise FailedRunError(f"{plan.system} ended with exit code {done.returncode}:\n{tail}")
        return msgspec.json.decode(result.read_bytes(), type=Measured)
