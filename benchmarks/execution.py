"""Has a plan run in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TextIO

import msgspec

from benchmarks.plan import Measured, Plan

TIMEOUT_S = 4 * 3_600.0
CLEAN_UP_S = 60.0
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
            code = _run([sys.executable, "-m", "benchmarks.run", str(asked), str(result)], file)
        if code or not result.exists():
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
            raise FailedRunError(f"{plan.system} ended with exit code {code}:\n{tail}")
        return msgspec.json.decode(result.read_bytes(), type=Measured)


def _run(command: list[str], output: TextIO) -> int:
    """Run a command to its end; where this process is to end before, the other one may clean up."""
    process = subprocess.Popen(  # noqa: S603 - this program itself
        command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)  # an interrupt reaches it from here only
    try:
        return process.wait(TIMEOUT_S)
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait(CLEAN_UP_S)
        raise
