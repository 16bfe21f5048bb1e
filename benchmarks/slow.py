"""Which orders had a slow payment, known exactly: the draws of the simulated failures follow from seed and transaction."""

from __future__ import annotations

import time
from pathlib import Path

from actors.faults import Draws
from benchmarks.observed import ids_by_key
from benchmarks.plan import Plan
from orchestrator.config import FaultSettings
from orchestrator.deployment import DataDirectory
from orchestrator.protocol.messages import Command, Kind

AUTHORIZE = "authorize"
FIRST_ATTEMPT = 1


class SlowOnes:
    """Keeps the latencies of a run, and tells those of the orders without a slow payment apart.

    Args:
        data: data directory of the run.
        plan: says how many are slow.
    """

    def __init__(self, data: Path, plan: Plan) -> None:
        self._data = data
        self._draws = Draws(
            FaultSettings(seed=plan.seed, tail_ms=plan.slow_ms, tail_probability=plan.slow_share), opening=0)
        self._began_ms = time.time_ns() // 1_000_000
        self._latency_us: list[tuple[str, int]] = []

    def watch(self, key: str, began_ns: int, ended_ns: int) -> None:
        """See every outcome; fits the drivers' watch."""
        self._latency_us.append((key, (ended_ns - began_ns) // 1_000))

    def figures(self) -> dict[str, float]:
        """p50 and p99 of the others, in ms, and the share of slow ones."""
        ids = ids_by_key(DataDirectory(self._data).log_path, self._began_ms)
        others = sorted(latency for key, latency in self._latency_us if not self.is_slow(ids[key]))
        count = len(self._latency_us)
        return {
            "slow_share": 1 - len(others) / count, "others_p50_ms": quantile(others, 0.5) / 1_000,
            "others_p99_ms": quantile(others, 0.99) / 1_000}

    def is_slow(self, transaction: str) -> bool:
        """Whether the payment of that transaction was made to wait."""
        return self._draws.hits(
            "tail_probability", Command(transaction, AUTHORIZE, Kind.PREPARE, FIRST_ATTEMPT, 0, AUTHORIZE))


def quantile(rising: list[int], share: float) -> float:
    """The value that this share of a sorted list does not exceed; 0 of an empty one."""
    return rising[min(len(rising) - 1, int(len(rising) * share))] if rising else 0.0
