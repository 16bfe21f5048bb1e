"""Orders placed with raytx: a deployment of its own on a data directory of its own, audited at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import orders, system_calls, verdict
from benchmarks.counting import COUNTED_APP, calls_of
from benchmarks.observed import Snapshot, figures, look, memory
from benchmarks.orders import WEEK_MS
from benchmarks.other_usage import RAY, ProcessMeter, daemons
from benchmarks.plan import Measured, Plan
from benchmarks.slow import SlowOnes
from benchmarks.systems.directory import data_directory
from loadgen.tally import Tally
from loadgen.usage import CLIENT, Meter, Usage
from loadgen.workload import Workload
from orchestrator.cli import parse_settings
from orchestrator.client import Client, connect
from orchestrator.config import LogLevel, Settings
from orchestrator.deployment import DataDirectory
from orchestrator.head import wait_for_spare_workers
from orchestrator.log.rest import wait_for_rest
from orchestrator.log.store import LogStore
from orchestrator.logs import configure_logging

SHOP = "actors.orders:app"
STATUS_S = 5.0
SPARES_S_MAX = 30.0
REST_S_MAX = 60.0
PAYMENT = "payment"


def run(plan: Plan) -> Measured:
    """One run, start of Ray to audit.

    Raises:
        DefiniteError: E_CONFIG, E_DATA_DIR...: nothing was measured.
        IndefiniteError: E_UNREACHABLE.
        TimeoutError: the deployment did not finish starting; nothing was measured.
    """
    with data_directory(plan) as data:
        began_ms = time.time_ns() // 1_000_000
        began_s = time.perf_counter()
        with connect(data, app=COUNTED_APP if plan.strace else SHOP, settings=settings_of(plan, data)) as client:
            start_s = time.perf_counter() - began_s
            configure_logging(CLIENT, data, LogLevel.WARNING, stderr=False)  # it has connections of its own
            run_of = _Run(client, plan, orders.workload_of(plan), data)
            measured = run_of.measure()
            app = client.deployment.app
        measured.figures |= {"start_s": start_s, "log_open_s": _log_open_s(data)}
        verdict.judge_stored(measured, data, app, began_ms=began_ms, told=run_of.committed)
        verdict.judge_done(measured, run_of.asked)
        verdict.judge_rest(measured, REST_S_MAX, rested=run_of.rested)
        verdict.judge_plane(measured, data, began_ms)
        return measured


class _Run:
    """What happens between the start of a deployment and its end."""

    def __init__(self, client: Client, plan: Plan, workload: Workload, data: Path) -> None:
        self._client, self._plan, self._workload, self._data = client, plan, workload, data
        self._statuses = partial(client.deployment.statuses, STATUS_S)
        self.asked, self.committed, self.rested = 0, 0, True

    def measure(self) -> Measured:
        plan, client = self._plan, self._client
        orders.open_books(client, self._workload)
        if plan.warm_up:
            self._count(orders.place(client, self._workload, 0, plan.warm_up, plan.concurrency))
        if not wait_for_spare_workers(SPARES_S_MAX):  # their start is no part of what an order takes
            raise TimeoutError(f"the spare processes were not there within {SPARES_S_MAX:.0f} s")
        self._rest()
        before = self._look()
        slow = SlowOnes(self._data, plan)
        with self._strace() as counted:
            meter = Meter(self._statuses)
            beside = ProcessMeter({RAY: daemons(client.deployment.server_pids().values())})
            tally = orders.measure(client, self._workload, plan, progress=lambda *_: meter.sample(),
                                   watch=slow.watch if plan.slow_ms else None)
            cost = beside.cost(orders.told(tally)[0])
            self._rest()  # what comes after the last outcome is a part of the cost, but for the client, who waits
            usage = meter.stop()
        self._count(tally)
        self.asked = orders.asked(plan, tally)
        after = self._look()
        measured = summary(tally, usage)
        measured.cpu_us_per_order[CLIENT], measured.figures["ray_cpu_us_per_order"] = cost[CLIENT], cost[RAY]
        measured.figures |= figures(before, after, measured.orders) | memory(after, "rss_mb")
        measured.figures |= slow.figures() if plan.slow_ms else {}
        measured.figures |= self._calls(counted, measured.orders)
        if plan.further:
            measured.figures |= self._further(after)
        return measured

    def _further(self, before: Snapshot) -> dict[str, float]:
        """Place more orders on the same deployment, and see what that does to its memory."""
        plan = self._plan
        first = plan.warm_up + orders.arriving(plan)
        self._count(orders.place(self._client, self._workload, first, plan.further, plan.concurrency))
        self._rest()
        after = self._look()
        grown = {f"rss_growth.{name}": after.rss[name] / rss for name, rss in before.rss.items()}
        return memory(after, "rss_mb_further") | grown | {"rss_growth_most": max(grown.values())}

    def _strace(self) -> Any:
        if not self._plan.strace:
            return nullcontext({})
        return system_calls.counted({status["name"]: status["pid"] for status in self._statuses()})

    def _calls(self, counted: Mapping[str, Mapping[str, int]], count: int) -> dict[str, float]:
        if not self._plan.strace:
            return {}
        found = {
            f"{call}_per_order.{name}": number / count for name, calls in counted.items() for call, number in calls.items()}
        syncs = sum(calls.get(call, 0) for calls in counted.values() for call in system_calls.SYNCS)
        return found | {"fsyncs_per_order": syncs / count} | calls_of(self._statuses(), self._workload.orders)

    def _count(self, tally: Tally) -> None:
        self.committed += orders.told(tally)[1]

    def _look(self) -> Snapshot:
        return look(self._statuses(), self._data, self._client.deployment.app)

    def _rest(self) -> None:
        self.rested &= wait_for_rest(DataDirectory(self._data).log_path, REST_S_MAX)


def summary(tally: Tally, usage: Usage) -> Measured:
    """What was told, how long it took and what it cost."""
    count, committed = orders.told(tally)
    cost = {role: seconds * 1e6 / max(count, 1) for role, seconds in sorted(usage.cpu_s.items())}
    cost[CLIENT] = cost.pop(CLIENT)  # last
    return Measured(
        ok=True, orders=count, committed=committed, wall_s=tally.wall_s, latency_ms=orders.latency_ms(tally),
        cpu_us_per_order=cost, notes=list(usage.notes),
        figures={"repeats_per_order": tally.repeats / max(count, 1)} | orders.lateness_ms(tally))


def _log_open_s(data: Path) -> float:
    """How long the transaction log takes to open, with everything down."""
    began_s = time.perf_counter()
    LogStore(DataDirectory(data).log_path, "opening", WEEK_MS).close()
    return time.perf_counter() - began_s


def settings_of(plan: Plan, data: Path) -> Settings:
    """As asked for; slow payments are simulated failures.

    Raises:
        DefiniteError: E_CONFIG, naming the setting.
    """
    slow = {PAYMENT: {"seed": plan.seed, "tail_ms": plan.slow_ms, "tail_probability": plan.slow_share}}
    chosen = {"faults": slow} if plan.slow_ms else {}
    return parse_settings(plan.settings, DataDirectory(data).settings(), **chosen)
