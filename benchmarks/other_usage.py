"""CPU time of a system that is not raytx: this process, and those that belong to it."""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil

from loadgen.usage import CLIENT


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


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
