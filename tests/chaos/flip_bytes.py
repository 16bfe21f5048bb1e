# ruff: noqa: T201 - a command prints
"""Every byte of a small log and of a service's store flipped, and every length cut: what is noticed, and when.

    python tests/chaos/flip_bytes.py [--every 1] [--seed 1] [--of "log killed"]

Database, write-ahead log and mark, as a killed process leaves them and as a closed one does. What was acknowledged is known,
so that each damage falls into one class:

    refused    the owner does not open it
    verified   it opens, and verification or audit names the damage
    beside     records, rows and values are whole; something beside them differs unnoticed (counters, epochs, columns for lists)
    harmless   everything is as it was
    silent     a record, an outcome, a row or a value is missing or altered, and nothing says so
    raw        it ends in an error that says nothing of damage

Prints one JSON object; exit 0 if nothing was silent or raw.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos.disk_story import State, Story, log_story, state_of, store_story
from orchestrator.errors import RaytxError
from unit.disk_bench import TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.testing.disk.storage import SimulatedDisk

STEPS = 6
STORIES = {"log": log_story, "service": store_story}
_OUTCOME = (0, 1, 8, 9, 10, 17)  # columns of a log's transactions: id, key, begun by, state, decided by, ended by
CLASSES = ("refused", "verified", "beside", "harmless", "silent", "raw")
BAD = frozenset({"silent", "raw"})


class Subject(NamedTuple):
    """A store that nobody has open.

    Attributes:
        files: contents by path.
        state: what it must hold.
    """

    name: str
    story: Story
    files: dict[str, bytes]
    state: State


def subjects(seed: int) -> Iterator[Subject]:
    """Log and service, killed and closed."""
    for kind, tell in STORIES.items():
        for end in ("killed", "closed"):
            story = tell(seed, STEPS, 0)
            disk = TEMPLATE.fork(seed)
            store = story.open(disk)
            for step in story.steps:
                step(store)
            state = state_of(store)
            store.close() if end == "closed" else disk.process_kill(story.path)
            files = {path: content for path, content in disk.contents().items() if path.startswith(str(story.path))}
            yield Subject(f"{kind} {end}", story, files, state)


def damages(subject: Subject, every: int, draw: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """What is done to which file: its name, the kind of damage, the damaged content."""
    for path, content in subject.files.items():
        part = path.removeprefix(str(subject.story.path)).lstrip(".-") or "database"
        for at in range(draw.randrange(every), len(content), every):
            flipped = content[at] ^ (1 << draw.randrange(8))
            yield path, f"{part} flipped", content[:at] + bytes([flipped]) + content[at + 1 :]
            yield path, f"{part} cut", content[:at]


def judge(subject: Subject, path: str, damaged: bytes) -> str:
    """Into which class a damage falls."""
    disk = TEMPLATE.fork(0)
    for name, content in {**subject.files, path: damaged}.items():
        disk.store(name, content)
    try:
        store = subject.story.open(disk)
        state = state_of(store)
        store.close()
    except (RaytxError, sqlite3.Error):
        return "refused"
    except Exception as error:  # noqa: BLE001 - whatever it is: nobody could tell from it what has happened
        print(f"raw: {subject.name}, {path}: {type(error).__name__}: {error}", file=sys.stderr)
        return "raw"
    if state == subject.state:
        return "harmless"
    if whole(state, subject.state):
        return "beside" if not found(subject, disk) else "verified"
    return "verified" if found(subject, disk) else "silent"


def found(subject: Subject, disk: SimulatedDisk) -> bool:
    """Whether verification (of a log) or the checksums that the audit looks at (of a service) tell."""
    try:
        return bool(subject.story.check(disk))
    except (RaytxError, sqlite3.Error, ValueError):
        return True


def whole(state: State, expected: State) -> bool:
    """Whether everything is there that was acknowledged: records and outcomes, or rows and values."""
    if "records" in expected:
        return _rows(state, "records") == _rows(expected, "records") and _outcomes(state) == _outcomes(expected)
    return _rows(state, "ledger") == _rows(expected, "ledger") and _rows(state, "state") == _rows(expected, "state")


def _rows(state: State, table: str) -> list[tuple[Any, ...]]:
    return state.get(table, [])


def _outcomes(state: State) -> list[tuple[Any, ...]]:
    return sorted((tuple(row[column] for column in _OUTCOME) for row in _rows(state, "transactions")), key=repr)


def told(content: bytes, damaged: bytes) -> str:
    """What is damaged, for a person."""
    if len(damaged) < len(content):
        return f"cut to {len(damaged)} bytes"
    at = next(number for number, (one, other) in enumerate(zip(content, damaged, strict=True)) if one != other)
    return f"byte {at}: {content[at]:#04x} became {damaged[at]:#04x}, amid {content[max(at - 20, 0):at + 20]!r}"


def sweep(every: int, seed: int, of: str = "") -> tuple[dict[str, dict[str, Counter[str]]], list[str]]:
    """Classes by subject and kind of damage, and the bad ones; of one subject, or of all."""
    counted: dict[str, dict[str, Counter[str]]] = {}
    bad = []
    for subject in subjects(seed):
        if of not in ("", subject.name):
            continue
        draw = random.Random(f"flip {seed} {subject.name}")
        kinds = counted.setdefault(subject.name, {})
        for number, (path, kind, damaged) in enumerate(damages(subject, every, draw)):
            judged = judge(subject, path, damaged)
            kinds.setdefault(kind, Counter())[judged] += 1
            if judged in BAD:
                bad.append(f"{judged}: {subject.name}, {kind}, damage {number}: {told(subject.files[path], damaged)}")
        print(f"{subject.name}: {sum(sum(classes.values()) for classes in kinds.values()):,} damages", file=sys.stderr)
    return counted, bad


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="every byte of a log and a store flipped and cut")
    parser.add_argument("--every", type=int, default=1, help="every so manieth byte only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--of", default="", choices=[f"{kind} {end}" for kind in STORIES for end in ("killed", "closed")])
    given = parser.parse_args()
    counted, bad = sweep(given.every, given.seed, given.of)
    print(json.dumps({"damages": sum(sum(c.values()) for kinds in counted.values() for c in kinds.values()),
                      "by_store": counted, "bad": len(bad), "first": bad[:20]}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
