# ruff: noqa: T201 - a command prints
"""The real stores in a real process that is killed, or told EIO or ENOSPC, at the N-th write and sync of the kernel's.

    python tests/chaos/strace_points.py [--points 200] [--seed 1]

A forked process works through a story; strace attaches to it and injects the harm (`-e inject=pwrite64:signal=KILL:when=N`).
After each point the store is opened by a successor: it must be
as it was after the last step that was acknowledged or after the one under way, whole; the successor finishes the story.
Prints one JSON object; exit 0 if nothing was lost and every kind of point struck. Needs strace and the right to trace.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actors.store import Store, create_store
from chaos.disk_story import HOUR_MS, LostError, State, log_story, often_folded, state_of, store_story
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore, create_log
from unit.log_bench import DAY

STORIES = {"log": log_story, "service": store_story}
STEPS = 10
FAILED = 7  # how a worker ends that met an error of unknown outcome
CALLS = ("pwrite64", "fdatasync", "fsync", "ftruncate", "unlink")
HARMS = {  # what is done at which call, and how many points of a hundred it gets
    ("signal=KILL", "pwrite64"): 40, ("signal=KILL", "fdatasync"): 16, ("signal=KILL", "fsync"): 4,
    ("signal=KILL", "ftruncate"): 2, ("signal=KILL", "unlink"): 2,
    ("error=EIO", "fdatasync"): 12, ("error=EIO", "fsync"): 3, ("error=EIO", "pwrite64"): 9, ("error=ENOSPC", "pwrite64"): 12}


class Point(NamedTuple):
    """One point: in which store, at which call, what."""

    kind: str
    harm: str
    call: str
    number: int


class Ended(NamedTuple):
    """How a worker ended: what it had acknowledged, and its exit code (a signal: minus its number)."""

    acknowledged: int
    code: int


class Sweep:
    """Points over one story of each store.

    Args:
        directory: where to work.
        seed: of the stories.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._steps = {kind: story(seed, STEPS).steps for kind, story in STORIES.items()}
        self._states: dict[str, list[State]] = {}
        self.calls: dict[str, Counter[str]] = {}
        self.struck: Counter[str] = Counter()
        for kind in STORIES:
            template = directory / f"template-{kind}"
            template.mkdir()
            create_log(database(template, kind)) if kind == "log" else create_store(database(template, kind), "vault")
            self._states[kind] = self._calm(kind)
            self.calls[kind] = self._count(kind)

    def points(self, count: int) -> list[Point]:
        """Spread over stores, calls and their numbers."""
        found = []
        for kind, calls in self.calls.items():
            for (harm, call), share in HARMS.items():
                wanted = min(max(round(count * share / 200), 1), calls[call])
                found += [Point(kind, harm, call, 1 + index * calls[call] // wanted) for index in range(wanted)]
        return found

    def run(self, point: Point) -> None:
        """One point.

        Raises:
            LostError: something acknowledged was not found.
        """
        work = self._fresh(point.kind)
        ended = self._worker(point.kind, work, "-e", f"inject={point.call}:{point.harm}:when={point.number}")
        self._judge(point, work, ended.acknowledged)
        expected = -9 if "KILL" in point.harm else FAILED
        if ended.code == expected:
            self.struck[f"{point.harm} {point.call}"] += 1
        elif ended.code != 0:
            raise LostError(f"{point}: the worker ended with {ended.code}")
        shutil.rmtree(work)

    def _judge(self, point: Point, work: Path, acknowledged: int) -> None:
        states = self._states[point.kind]
        store = open_store(work, point.kind)
        state = state_of(store)
        found = [steps for steps in (acknowledged + 1, acknowledged) if state == dict(enumerate(states)).get(steps)]
        if not found:
            earlier = [steps for steps, known in enumerate(states) if known == state]
            raise LostError(f"{point}: {acknowledged} steps were acknowledged, found as after {earlier or 'none of them'}")
        for step in self._steps[point.kind][found[0] :]:
            step(store)
        if state_of(store) != states[-1]:
            raise LostError(f"{point}: the successor came to another end")
        store.close()
        if point.kind == "log":
            reader = LogReader(database(work, "log"))
            problems = reader.verify()
            reader.close()
            if problems:
                raise LostError(f"{point}: {problems[0]}")

    def _calm(self, kind: str) -> list[State]:
        work = self._fresh(kind)
        store = open_store(work, kind)
        states = [state_of(store)]
        for step in self._steps[kind]:
            step(store)
            states.append(state_of(store))
        store.close()
        shutil.rmtree(work)
        return states

    def _count(self, kind: str) -> Counter[str]:
        work = self._fresh(kind)
        trace = self._directory / "trace"
        ended = self._worker(kind, work, "-e", "trace=" + ",".join(CALLS), output=trace)
        assert ended == (STEPS, 0), ended
        names = [line.split(maxsplit=1)[-1].partition("(")[0] for line in trace.read_text().splitlines()]
        shutil.rmtree(work)
        return Counter(name for name in names if name in CALLS)

    def _fresh(self, kind: str) -> Path:
        work = self._directory / f"work-{kind}"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self._directory / f"template-{kind}", work)
        return work

    def _worker(self, kind: str, work: Path, *options: str, output: Path = Path(os.devnull)) -> Ended:
        go, going = os.pipe()
        told, telling = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(go, 1)
            work_through(kind, work, self._steps[kind], telling)
        for end in (go, telling):
            os.close(end)
        strace = attach(pid, "-o", str(output), *options)
        os.write(going, b"x")
        os.close(going)
        with os.fdopen(told) as lines:
            acknowledged = [int(line) for line in lines]
        _, status = os.waitpid(pid, 0)
        strace.wait(timeout=60)
        assert strace.stderr is not None
        strace.stderr.close()
        return Ended(acknowledged[-1] if acknowledged else 0, os.waitstatus_to_exitcode(status))


def database(directory: Path, kind: str) -> Path:
    """Where the store of a story lies."""
    return directory / f"{kind}.sqlite"


def open_store(directory: Path, kind: str) -> Any:
    """The production store; without a ballast, so that a full disk is an error of the step that meets it."""
    path = database(directory, kind)
    if kind == "log":
        return often_folded(LogStore(path, "run", 2 * HOUR_MS, clock=itertools.count(0, DAY).__next__, ballast_bytes=0))
    return often_folded(Store(path, "vault", "run", ballast_bytes=0))


def work_through(kind: str, directory: Path, steps: list[Any], told: int) -> NoReturn:
    """What the forked process does; an error of unknown outcome ends it, as it ends an actor's."""
    code = 1
    try:
        store = open_store(directory, kind)
        for number, step in enumerate(steps, 1):
            step(store)
            os.write(told, b"%d\n" % number)
        store.close()
        code = 0
    except (sqlite3.Error, OSError):
        code = FAILED
    finally:
        os._exit(code)


def attach(pid: int, *options: str) -> subprocess.Popen[str]:
    """strace on a process, once it has it.

    Raises:
        PermissionError: it may not.
    """
    strace = subprocess.Popen(["strace", "-f", *options, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    line = strace.stderr.readline()
    if "attached" not in line:
        strace.wait()
        strace.stderr.close()
        raise PermissionError(line.strip())
    return strace


def missing() -> str:
    """Why it cannot be done here; "" = it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        strace = attach(sleeper.pid, "-o", os.devnull)
    except PermissionError as error:
        return f"strace may not attach here: {error}"
    finally:
        sleeper.kill()
        sleeper.wait()
    assert strace.stderr is not None
    strace.stderr.close()
    strace.wait(timeout=10)
    return ""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="kill, EIO and ENOSPC at the N-th write and sync of the real stores")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    reason = missing()
    if reason:
        print(f"cannot be done here: {reason}")
        return 2
    failures = []
    with tempfile.TemporaryDirectory(prefix="raytx-strace-") as directory:
        sweep = Sweep(Path(directory), given.seed)
        points = sweep.points(given.points)
        for point in points:
            try:
                sweep.run(point)
            except LostError as error:
                failures.append(str(error))
    quiet = {f"{harm} {call}" for harm, call in HARMS} - sweep.struck.keys()
    print(json.dumps({"points": len(points), "struck": sum(sweep.struck.values()), "by_kind": sweep.struck,
                      "never_struck": sorted(quiet), "lost": len(failures), "first": failures[:1]}))
    return 1 if failures or quiet else 0


if __name__ == "__main__":
    sys.exit(main())
