"""Runs tests against mutants: pytest collects once, then each mutant gets a process of its own, forked off that.

A test is run against a mutant only if it calls the mutated function (or uses a table); the quick ones go first. A mutant
is killed when a test fails, or when it takes far more CPU or time than the tests take without it.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from types import CodeType, FrameType
from typing import TYPE_CHECKING

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from mutation.mutant import Mutant

CPU_FACTOR = 8
CPU_S_MIN = 3
WALL_FACTOR = 60  # the machine may be busy with other things
MEMORY_BYTES_MAX = 3 << 30
NO_PROGRAM = 3  # exit code


class Fate(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    HUNG = "killed: it does not end"
    SURVIVED = "survived"
    NOT_RUN = "survived: no test calls it"
    INVALID = "no program: it cannot be compiled"


@dataclass
class Fates:
    """What became of all of them."""

    tried: list[tuple[tuple[str, str, str], Fate]] = field(default_factory=list)
    all_count: int = 0
    seconds: float = 0.0
    baseline_failed: list[str] = field(default_factory=list)

    def count(self, *fates: Fate) -> int:
        """How many came to one of these."""
        return sum(fate in fates for _, fate in self.tried)

    @property
    def survivors(self) -> list[tuple[str, str, str]]:
        """Those that no test has noticed."""
        return [name for name, fate in self.tried if fate in (Fate.SURVIVED, Fate.NOT_RUN)]


class Killing:
    """A pytest plugin: instead of running the tests once, it runs them against mutants.

    Args:
        mutants: makers, in the order in which they are tried.
        seconds: no mutant is begun later than this.
        report: told of every mutant.
    """

    def __init__(
        self, mutants: Iterable[Callable[[], Mutant]], seconds: float, report: Callable[[Mutant, Fate], None],
    ) -> None:
        self.fates = Fates()
        self._mutants, self._seconds, self._report = list(mutants), seconds, report
        self._took: dict[pytest.Item, tuple[float, float]] = {}  # CPU and wall seconds
        self._calls: dict[pytest.Item, set[str]] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Once as things are, then against each mutant."""
        began = time.monotonic()
        for item in session.items:
            self._undisturbed(item)
        self.fates.all_count = len(self._mutants)
        gc.collect()
        gc.freeze()  # what is here now need not be copied into every process
        for make in self._mutants if not self.fates.baseline_failed else ():
            if time.monotonic() - began > self._seconds:
                break
            mutant = make()
            fate = self._fate(mutant, session.items)
            self.fates.tried.append((mutant.name, fate))
            self._report(mutant, fate)
        self.fates.seconds = time.monotonic() - began
        return True

    def _undisturbed(self, item: pytest.Item) -> None:
        calls: set[CodeType] = set()

        def trace(frame: FrameType, _event: str, _value: object) -> None:
            calls.add(frame.f_code)

        cpu_s, wall_s = time.process_time(), time.monotonic()
        threading.settrace(trace)
        sys.settrace(trace)
        try:
            failed = _fails(item)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        if failed:
            self.fates.baseline_failed.append(item.nodeid)
        self._took[item] = time.process_time() - cpu_s, time.monotonic() - wall_s
        self._calls[item] = {f"{_module(code)}:{code.co_qualname}" for code in calls}

    def _fate(self, mutant: Mutant, items: list[pytest.Item]) -> Fate:
        whole = mutant.where.rpartition(":")[2].isupper()
        chosen = sorted((i for i in items if whole or mutant.where in self._calls[i]), key=lambda i: self._took[i])
        if not chosen:
            return Fate.NOT_RUN
        cpu_s, wall_s = (sum(took) for took in zip(*(self._took[item] for item in chosen), strict=True))
        pid = os.fork()
        if not pid:
            _try(mutant, chosen, int(CPU_S_MIN + CPU_FACTOR * cpu_s))
        status = _wait(pid, 60 + WALL_FACTOR * wall_s)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return Fate.SURVIVED
        if os.WIFEXITED(status):
            return Fate.INVALID if os.WEXITSTATUS(status) == NO_PROGRAM else Fate.KILLED
        return Fate.HUNG


def _try(mutant: Mutant, items: list[pytest.Item], cpu_s: int) -> None:
    """In the forked process: ends it, with 0 where no test fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    spent_s = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (spent_s + cpu_s, spent_s + cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        mutant.apply()
    except SyntaxError:
        os._exit(NO_PROGRAM)
    try:
        failed = any(_fails(item) for item in items)
    except BaseException:  # noqa: BLE001 - whatever it is, it was noticed
        failed = True
    os._exit(failed)


def _fails(item: pytest.Item) -> bool:
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def _wait(pid: int, seconds: float) -> int:
    descriptor = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], seconds)
    finally:
        os.close(descriptor)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _module(code: CodeType) -> str:
    """Of product code: "orchestrator.protocol.drive"; of others something that no mutant is called."""
    for package in ("orchestrator", "actors"):
        _, found, rest = code.co_filename.rpartition(f"/{package}/")
        if found:
            return f"{package}/{rest}".removesuffix(".py").replace("/", ".")
    return ""
