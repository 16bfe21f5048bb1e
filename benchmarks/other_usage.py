"""CPU time by /proc: of the systems that are not raytx, and of Ray's own daemons under any of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import psutil

from loadgen.usage import CLIENT

RAY = "ray"
_WORKER = "ray::"  # so Ray calls the processes that actors run in


class ProcessMeter:
    """Measures from its making to `cost`.

    Args:
        pids: processes by role, beside this one; those that end meanwhile are not counted, their children are left out.
    """

    def __init__(self, pids: Mapping[str, list[int]]) -> None:
        self._processes = {role: [psutil.Process(pid) for pid in found] for role, found in pids.items()}
        self._processes[CLIENT] = [psutil.Process(os.getpid())]
        self._before = self._seconds()

    def cost(self, orders: int) -> dict[str, float]:
        """CPU in µs per order, by role."""
        now = self._seconds()
        return {role: (now[role] - before) * 1e6 / max(orders, 1) for role, before in self._before.items()}

    def _seconds(self) -> dict[str, float]:
        return {role: sum(_cpu_s(process) for process in found) for role, found in self._processes.items()}


def daemons(servers: Iterable[int]) -> list[int]:
    """Pids of Ray's servers and of what they have started, the workers left out."""
    found = []
    for pid in servers:
        server = psutil.Process(pid)
        found += [pid, *(child.pid for child in server.children(recursive=True) if not _is_worker(child))]
    return found


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any(_WORKER in word or "default_worker" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return True


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
