"""Branch coverage of core, ledger and log, whose error paths must all be tested: 100 %, or exit 1.

    nice python -m tests.coverage_gate

Runs the tests of these modules under coverage.py (extra `proof`) and lists what they leave out. A branch that no test can
reach is deleted, not excused.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COVERED = (
    "orchestrator/protocol/*", "actors/ledger.py", "actors/runner.py", "actors/store.py",
    *(f"orchestrator/log/{name}.py" for name in ("batch", "rows", "schema", "store", "writer", "reader", "verify")),
    *(f"orchestrator/{name}.py" for name in ("database", "creation", "migration", "mark", "ballast")))
TESTS = (
    "coordinator*", "drive_paths", "recovery_paths", "runner_paths", "disk_*", "ledger", "pacing", "standing", "retry_budget",
    "service_base", "service_host", "store", "database", "rescue", "log_*", "doubt", "audit_stores", "bounds", "secrecy",
    "draining", "migration", "desk", "acts_borders", "breaker*", "saga_versions", "trace*", "backlog", "reversed_in_doubt",
    "metrics_s*", "metrics_figures", "audit_asserted", "damaged_meta", "no_room", "foreign_log", "operate_commands", "summary",
    "terminal_watch")
SLOW = "hundred_thousand or stormed or no_more_than_a_bound or do_not_need_a_stopped"


def main() -> int:
    tests = sorted({str(path) for name in TESTS for path in (ROOT / "tests" / "unit").glob(f"test_{name}.py")})
    with tempfile.TemporaryDirectory() as scratch:
        # the same tracer for every version of Python: the one that counts branches
        environment = {**os.environ, "COVERAGE_FILE": f"{scratch}/coverage", "COVERAGE_CORE": "ctrace"}
        coverage = (sys.executable, "-m", "coverage")
        ran = subprocess.run(
            [*coverage, "run", "-m", "pytest", "-p", "no:cacheprovider", "-k", f"not ({SLOW})", *tests],
            cwd=ROOT, env=environment, check=False)
        if ran.returncode:
            return ran.returncode
        return subprocess.run(
            [*coverage, "report", "--fail-under=100", "--show-missing", f"--include={','.join(COVERED)}"],
            cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
