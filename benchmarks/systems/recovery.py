"""A shard is killed with all orders open: how long until each is driven again and has its outcome, and what an open one takes.

Payment's process is stopped (SIGSTOP) while the orders come in, so that none can be decided; it goes on at the moment at which
the shard is killed. So the time after the restart is that of the recovery, and not of a service that was slow.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import orders, verdict
from benchmarks.observed import MB, look
from benchmarks.plan import Measured, Plan
from benchmarks.systems.directory import data_directory
from benchmarks.systems.raytx import REST_S_MAX, SHOP, STATUS_S, settings_of, summary
from loadgen.usage import Meter
from loadgen.workload import Workload
from orchestrator.client import Client, connect
from orchestrator.config import Settings
from orchestrator.database import open_reader
from orchestrator.deployment import DataDirectory
from orchestrator.log.rest import wait_for_rest

VICTIM, HELD_UP, HELD_UP_DATABASE = "shard-0", "service-payment", "payment"
OPEN_S_MAX = 25.0  # an order's deadline is 30 s
POLL_S = 0.02
ROOM = 4  # a shard lets half of what it may have open wait for one service


def run(plan: Plan) -> Measured:
    """One kill.

    Raises:
        TimeoutError: the orders were not all open in time; nothing was measured.
    """
    with data_directory(plan) as data:
        began_ms = time.time_ns() // 1_000_000
        with connect(data, app=SHOP, settings=_roomy(plan, data)) as client:
            workload = orders.workload_of(plan)
            orders.open_books(client, workload)
            warm = orders.told(orders.place(client, workload, 0, plan.warm_up, plan.concurrency))[1] if plan.warm_up else 0
            wait_for_rest(DataDirectory(data).log_path, REST_S_MAX)
            kill = _Kill(client, plan, workload, data)
            measured = kill.measure()
            app = client.deployment.app
        verdict.judge_stored(measured, data, app, began_ms=began_ms, told=warm + measured.committed)
        verdict.judge_done(measured, plan.orders)
        verdict.judge_rest(measured, REST_S_MAX, rested=kill.rested)
        return measured


class _Kill:
    """The kill and what follows."""

    def __init__(self, client: Client, plan: Plan, workload: Workload, data: Path) -> None:
        self._client, self._plan, self._workload, self._data = client, plan, workload, data
        self._statuses = partial(client.deployment.statuses, STATUS_S)
        self.rested = False

    def measure(self) -> Measured:
        pids = {status["name"]: status["pid"] for status in self._statuses()}
        before = look(self._statuses(), self._data, self._client.deployment.app)
        meter = Meter(self._statuses)
        placing = _Placing(self._client, self._workload, self._plan)
        os.kill(pids[HELD_UP], signal.SIGSTOP)
        try:
            placing.start()
            self._wait_until_open()
            open_ones = look([s for s in self._statuses() if s["pid"] is not None], self._data, self._client.deployment.app)
            killed_s = time.time()
            os.kill(pids[VICTIM], signal.SIGKILL)
        finally:
            os.kill(pids[HELD_UP], signal.SIGCONT)
        tally, told_s = placing.result()
        self.rested = wait_for_rest(DataDirectory(self._data).log_path, REST_S_MAX)
        rest_s = time.time()
        measured = summary(tally, meter.stop())
        served_s = served_again(self._data, killed_s)
        measured.figures |= {
            "open_at_kill": float(self._plan.orders), "kill_to_restart_s": served_s - killed_s,
            "restart_to_last_driven_s": last_prepared(self._data, HELD_UP_DATABASE) - served_s,
            "kill_to_last_outcome_s": told_s - killed_s, "restart_to_last_outcome_s": told_s - served_s,
            "restart_to_rest_s": rest_s - served_s} | self._per_open(before.rss, open_ones.rss)
        return measured

    def _per_open(self, before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, float]:
        """Memory that an open transaction takes, by actor."""
        return {
            f"rss_bytes_per_open.{name}": (now[name] - rss) / self._plan.orders for name, rss in before.items() if name in now
        } | {f"rss_mb_open.{name}": rss / MB for name, rss in now.items()}

    def _wait_until_open(self) -> None:
        until_s = time.monotonic() + OPEN_S_MAX
        pause = threading.Event()  # never set: the log's file tells nobody when it changes
        while _open_count(DataDirectory(self._data).log_path) < self._plan.orders:
            if time.monotonic() > until_s:
                raise TimeoutError(f"not all of {self._plan.orders} orders were open within {OPEN_S_MAX:.0f} s")
            pause.wait(POLL_S)


class _Placing(threading.Thread):
    """All orders at once, in a thread of its own: the driver waits for their outcomes."""

    def __init__(self, client: Client, workload: Workload, plan: Plan) -> None:
        super().__init__(name="bench-placing", daemon=True)
        self._work = partial(orders.place, client, workload, plan.warm_up, plan.orders, plan.orders)
        self._found: Any = None
        self._ended_s = 0.0

    def run(self) -> None:
        self._found = self._work()
        self._ended_s = time.time()

    def result(self) -> tuple[Any, float]:
        """The tally, and the time of the last outcome, Unix s."""
        self.join()
        return self._found, self._ended_s


def _roomy(plan: Plan, data: Path) -> Settings:
    settings = settings_of(plan, data)
    return settings.model_copy(update={"open_transactions_max": max(settings.open_transactions_max, ROOM * plan.orders)})


def _open_count(log: Path) -> int:
    with closing(open_reader(log)) as connection:
        (count,) = connection.execute(
            "SELECT COUNT(*) FROM transactions WHERE ended_sequence = 0 AND saga = 'place_order'").fetchone()
    return int(count)


def last_prepared(data: Path, service: str) -> float:
    """When a service took up the last of its prepares, Unix s: all that was open has been driven again by then."""
    with closing(open_reader(DataDirectory(data).service_path(service))) as connection:
        (newest_ms,) = connection.execute("SELECT MAX(prepared_ms) FROM ledger").fetchone()
    return float(newest_ms) / 1_000


def served_again(data: Path, after_s: float) -> float:
    """When the log gave the victim's successor its partitions, Unix s: from then on it serves."""
    for path in (data / "logs").glob("log-*.jsonl"):
        for line in path.read_text().splitlines():
            told = json.loads(line)
            at_s = datetime.fromisoformat(told["time"]).timestamp()
            if told["event"] == "partitions_taken" and at_s > after_s:
                return at_s
    raise TimeoutError(f"{VICTIM} did not serve again")
