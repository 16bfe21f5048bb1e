"""Hunts every seeded bug until it is caught, and the product as it is over as many seeds.

    python -m tests.seeded.hunt [--seeds-max 50000] [--only NAME] [--save]
    python -m tests.seeded.hunt --survivors [--seeds-max 50000]

Prints for each bug what caught it, the seeds and the seconds that it took; exit 1 if one escapes, or if the unchanged
product breaks a guarantee. `--save` writes the seeds that the short form in pytest begins with. `--survivors` hunts the
mistakes that are said to break nothing, and exits 1 if one of them is caught after all.
"""

# ruff: noqa: T201 - a command prints

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that this runs from anywhere

from seeded.bugs import BUGS, SEEDS
from seeded.catch import SCHEDULES, Caught, hunt, simulator
from seeded.survivors import SURVIVORS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds-max", type=int, default=50_000)
    parser.add_argument("--only", default="", help="bugs whose name contains this")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--survivors", action="store_true")
    arguments = parser.parse_args()
    if arguments.survivors:
        return _survivors(range(arguments.seeds_max))
    caught = []
    for bug in BUGS:
        if arguments.only in bug.name:
            caught.append(hunt(bug, range(arguments.seeds_max)))
            _print(caught[-1])
            if arguments.save:
                _save(caught[-1])
    found = [one.tried for one in caught if one.by]
    escaped = [one.bug.name for one in caught if not one.by]
    median, most = statistics.median(found or [0]), max(found, default=0)
    print(f"{len(found)} of {len(caught)} caught; seeds: median {median:g}, most {most}")
    print("escaped:", ", ".join(escaped) or "none")
    seeds = max((one.tried for one in caught if one.bug.workload in SCHEDULES), default=0)
    clean = [_is_clean(workload, seeds) for workload in SCHEDULES]
    return 0 if not escaped and all(clean) else 1


def _survivors(seeds: range) -> int:
    caught = 0
    for bug, why in SURVIVORS:
        one = hunt(bug, seeds)
        caught += bool(one.by)
        _print(one, f"harmless: {why}")
    return 1 if caught else 0


def _print(one: Caught, otherwise: str = "ESCAPED") -> None:
    print(f"{one.bug.name:46} {one.bug.workload:5} {one.tried:6} {one.seconds:7.1f} s  {one.by[:120] or otherwise}", flush=True)


def _save(one: Caught) -> None:
    seeds = json.loads(SEEDS.read_text())
    if one.by and one.bug.workload in SCHEDULES:
        SEEDS.write_text(json.dumps({**seeds, one.bug.name: one.seed}, indent=1) + "\n")


def _is_clean(workload: str, seeds: int) -> bool:
    for seed in range(seeds):
        violation = simulator(workload).run(seed).violation
        if violation is not None:
            print(f"{workload}: the unchanged product, seed {seed}: {violation[0]}: {violation[1]}")
            return False
    print(f"{workload}: the unchanged product breaks nothing in {seeds} seeds")
    return True


if __name__ == "__main__":
    sys.exit(main())
