"""CPU time by role: this process as the client, and every actor of the deployment, across restarts as well as can be."""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psutil

CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Sample:
    """The clocks at one moment.

    Attributes:
        at_ns: of `time.perf_counter_ns`.
        cpu_s: seconds of CPU since the begin, by role.
        busy: share of all processors of this machine that was busy since the sample before, whoever used them.
    """

    at_ns: int
    cpu_s: Mapping[str, float]
    busy: float


@dataclass(slots=True)
class Usage:
    """What a run cost.

    Attributes:
        cpu_s: seconds of CPU, user and system, by role.
        restarts: of all actors.
        notes: what could not be measured, for a person.
        samples: how that came about.
        deaths: which actors' processes were found gone, and when (ns of `time.perf_counter_ns`).
    """

    cpu_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    restarts: int = 0
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    deaths: list[tuple[int, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Watched:
    role: str
    name: str
    process: psutil.Process
    start_s: float  # CPU it had used when it was first seen
    last_s: float
    gone: bool = False
    ended: bool = False  # what it spends from now on does not count


class Meter:
    """Measures from its making to `stop`; `sample` in between bounds what a killed process takes with it.

    Args:
        statuses: asks every actor of the deployment for its status; also on a thread of the meter's own, which `stop` joins.
    """

    def __init__(self, statuses: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self._statuses = statuses
        self._asker = ThreadPoolExecutor(1, "raytx-meter")  # its thread begins with the first actor that is gone
        self._asked: Future[Sequence[Mapping[str, Any]]] | None = None
        self._watched: dict[int, _Watched] = {}
        self._missing: set[str] = set()
        self._notes: list[str] = []
        self._samples: list[Sample] = []
        self._deaths: list[tuple[int, str]] = []
        self.recovered = 0  # successors of processes that were found gone
        psutil.cpu_percent()
        first = statuses()
        self._restarts = _restarts(first)
        self._look(first, from_birth=False)
        self._look([{"role": CLIENT, "name": CLIENT, "pid": os.getpid()}], from_birth=False)
        self._samples.append(Sample(time.perf_counter_ns(), self._spent(), 0.0))

    def sample(self) -> None:
        """Read the clocks of the processes; while one is gone, look for its successor.

        Never waits for the deployment: whoever calls this has orders to place. What is asked now is looked at when it has been
        answered, and what the successor had spent by then is counted from its birth.
        """
        for watched in self._counted():
            if not _read(watched):
                self._missing.add(watched.name)
                self._deaths.append((time.perf_counter_ns(), watched.name))
        self._look_at_answer()
        if self._missing and self._asked is None:
            self._asked = self._asker.submit(self._statuses)
        self._samples.append(Sample(time.perf_counter_ns(), self._spent(), psutil.cpu_percent() / 100))

    def end_clients(self) -> None:
        """Count the clients no further: after the last outcome only the deployment still works, and they wait for it."""
        for watched in self._counted():
            if watched.role == CLIENT:
                _read(watched)
                watched.ended = True

    def stop(self) -> Usage:
        """The usage so far; the end of the measuring."""
        self._asker.shutdown()
        self._look_at_answer()
        for watched in self._counted():
            _read(watched)
        last = self._statuses()
        self._look(last, from_birth=True)
        return Usage(
            self._spent(), max(0, _restarts(last) - self._restarts), self._notes, self._samples, self._deaths)

    def _counted(self) -> list[_Watched]:
        return [watched for watched in self._watched.values() if not watched.gone and not watched.ended]

    def _look_at_answer(self) -> None:
        if self._asked is not None and self._asked.done():
            answered, self._asked = self._asked, None
            self._look(answered.result(), from_birth=True)

    def _spent(self) -> defaultdict[str, float]:
        cpu_s: defaultdict[str, float] = defaultdict(float)
        for watched in self._watched.values():
            cpu_s[watched.role] += watched.last_s - watched.start_s
        return cpu_s

    def _look(self, statuses: Sequence[Mapping[str, Any]], *, from_birth: bool) -> None:
        here = socket.gethostname()
        for status in statuses:
            pid, role, name = status["pid"], status["role"], status["name"]
            if pid is None or pid in self._watched:
                continue
            if status.get("node", here) != here:
                self._note(f"{name} runs on another node: its CPU is not counted")
                self._missing.discard(name)
                continue
            try:
                watched = _Watched(role, name, psutil.Process(pid), 0.0, 0.0)
            except psutil.NoSuchProcess:
                continue
            if _read(watched):
                watched.start_s = 0.0 if from_birth else watched.last_s
                self._watched[pid] = watched
                self._missing.discard(name)
                if from_birth:
                    self.recovered += 1
                    self._note(f"{name} was restarted: its start-up is counted, the last moments of the one before are not")

    def _note(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)


def _read(watched: _Watched) -> bool:
    try:
        times = watched.process.cpu_times()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        watched.gone = True
        return False
    watched.last_s = times.user + times.system
    return True


def _restarts(statuses: Sequence[Mapping[str, Any]]) -> int:
    return sum(status["restarts"] or 0 for status in statuses)
