"""Which rows of the catalogue of failures occurred, and in what; exit 1 if one without a written reason never did.

    pytest --marks marks.jsonl
    raytx chaos --zombies 2 --json > zombies.json
    python tests/chaos/catalogue.py --marks marks.jsonl --chaos zombies.json [--seeds 1500] [--pairs 20] [--workers 1]

Runs random schedules and the short form of the crash sweep on the sagas that ship and on the tests' own, and adds what
the tests marked and what the reports of chaos runs counted. `--short` does without the rows that only a chaos run makes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.testing.catalogue import REASONS_MAX, ROWS
from orchestrator.testing.examine import Plan, examine
from orchestrator.testing.marks import Marks, Occurrences

TESTS = Path(__file__).resolve().parents[1]
SAGAS = ("actors.orders:place_order", "actors.orders:return_items", "simulation.trips:book_trip")
SHOWN_MAX = 2  # of what fired a row
COUNTED = {"nodes_lost": "81", "zombie_shards": "12"}  # in the report of a chaos run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, read, print; returns the exit code."""
    asked = _arguments(arguments)
    occurrences = Occurrences()
    for path in asked.marks:
        occurrences.read(path)
    for path in asked.chaos:
        occurrences.add(f"chaos run {path.name}", chaos_marks(path).counts)
    held = True
    for saga in SAGAS if asked.seeds else ():
        plan = Plan(saga, seeds=asked.seeds, pairs=asked.pairs, workers=asked.workers, parts=("sweep", "simulator"))
        done = examine(plan)
        held = held and done.ok
        for name, swept in done.sweeps.items():
            occurrences.add(f"sweep of {name}", swept.marks.counts)
        for name, explored in done.explored.items():
            occurrences.add(f"{explored.schedules:,} schedules of {name}", explored.marks.counts)
    Console(file=sys.stdout, width=150).print(_table(occurrences))
    return _verdict(occurrences, held=held, short=asked.short)


def chaos_marks(path: Path) -> Marks:
    """What the report of a chaos run counted; nothing where the run was not good."""
    report = json.loads(path.read_text())
    counted = report["counted"] if report["ok"] else {}
    return Marks({row: counted[name] for name, row in COUNTED.items() if counted.get(name)})


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--marks", type=Path, action="append", default=[], help="a file of marks; may be given again")
    parser.add_argument("--chaos", type=Path, action="append", default=[], help="what raytx chaos --json said; again")
    parser.add_argument("--short", action="store_true", help="do without the rows that only chaos runs make")
    parser.add_argument("--seeds", type=int, default=1_500, help="random schedules of each saga; 0 = only read files")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of crashes for each way to end")
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args(arguments)


def _table(occurrences: Occurrences) -> Table:
    table = Table("row", "what happens", "times", "by")
    for number, row in ROWS.items():
        found = occurrences.by_row[number]
        table.add_row(number, row.happens, f"{sum(found.values()):,}", "; ".join(_by(found)) or row.reason or "NEVER")
    return table


def _by(found: dict[str, int]) -> Iterator[str]:
    names = sorted(found, key=lambda name: (-found[name], name))
    yield from (name.removeprefix("tests/") for name in names[:SHOWN_MAX])
    if len(names) > SHOWN_MAX:
        yield f"{len(names) - SHOWN_MAX} more"


def _verdict(occurrences: Occurrences, *, held: bool, short: bool) -> int:
    occurred = [number for number in ROWS if occurrences.by_row[number]]
    excused = [number for number, row in ROWS.items() if row.reason and number not in occurred]
    missing = occurrences.missing()
    left = [number for number in missing if ROWS[number].command] if short else []
    missing = [number for number in missing if number not in left]
    sys.stdout.write(f"{len(occurred)} of {len(ROWS)} rows occurred; {len(excused)} with a reason why they cannot: {excused}\n")
    if left:
        sys.stdout.write(f"left to chaos runs: {', '.join(f'{number} ({ROWS[number].command})' for number in left)}\n")
    if missing:
        sys.stdout.write(f"never occurred: {', '.join(missing)}\n")
    if not held:
        sys.stdout.write("a guarantee was broken: see raytx test\n")
    return 0 if held and not missing and len(excused) <= REASONS_MAX else 1


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    sys.exit(main())
