"""One run in this process, asked for by the process that compares: `python -m benchmarks.run PLAN RESULT`.

Every run has a process of its own, so that none inherits the memory, the threads or the Ray connection of another.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import msgspec

from benchmarks.plan import ON_DBOS, Measured, Plan, System

_RUNNERS = {
    System.RAYTX: "benchmarks.systems.raytx",
    System.PLAIN_RAY: "benchmarks.systems.plain_ray",
    System.FLOOR: "benchmarks.systems.floor",
} | dict.fromkeys(ON_DBOS, "benchmarks.systems.dbos_saga")
_KILL = "benchmarks.systems.recovery"


def run(plan: Plan) -> Measured:
    """Run one plan here."""
    module = _KILL if plan.kill else _RUNNERS[plan.system]
    # each imports what it needs: the floor must not carry Ray, nor a deployment the other systems
    measured: Measured = importlib.import_module(module).run(plan)
    return measured


def main() -> None:
    """Read the plan, run it, write what it came to."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(run(plan)))


if __name__ == "__main__":
    main()
