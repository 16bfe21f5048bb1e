"""Overload: an open loop at a multiple of what the deployment can do, then half of it; what is still done meanwhile, and after.

    python tests/chaos/overload.py [--seconds 30] [--factor 3] [--after 10] [--shards 1]

Measures the capacity (a closed loop), offers `--factor` times as much for `--seconds`, then half the capacity for `--after`
seconds without a pause. Prints one JSON object; exit 0 if, by the project's thresholds, goodput stayed at 80 % of the peak
or more, at least 95 % of what arrived was committed again within 5 s, every refusal was E_OVERLOADED, no role's memory grew
beyond the bound, and the audit is ok.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loadgen.baskets import Baskets
from loadgen.driver import Driver, Tally
from loadgen.load import LoadPlan, Prepared, deployed, open_books
from loadgen.open_loop import Arrivals, OpenLoop, Second
from loadgen.shapes import make_baskets
from loadgen.usage import Meter
from loadgen.workload import OrderFeed, Told, Work, Workload, new_run
from orchestrator.audit import audit
from orchestrator.client import Client
from orchestrator.config import Settings
from orchestrator.deployment import DataDirectory
from orchestrator.log.rest import wait_for_rest

GOODPUT_SHARE_MIN = 0.80
RECOVERED_SHARE = 0.95
RECOVERED_S_MAX = 5
GROWTH_MB_MAX = 300.0
WARM_S = 3.0
BASKETS = 5_000
SAMPLE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(LoadPlan):
    """A load on a deployment with an admission limit of its own."""

    open_max: int | None = None

    def settings(self) -> Settings:
        """See `LoadPlan.settings`."""
        found = LoadPlan.settings(self)
        return found if self.open_max is None else found.model_copy(update={"open_transactions_max": self.open_max})


class TimedFeed:
    """A feed that has no more after a while, for a closed loop by the clock."""

    def __init__(self, feed: OrderFeed, seconds: float) -> None:
        self._feed, self._until_s = feed, time.monotonic() + seconds
        self.again, self.settle = feed.again, feed.settle

    def take(self) -> Work | None:
        """See `Feed.take`."""
        return self._feed.take() if time.monotonic() < self._until_s else None


@dataclass
class Memory:
    """Resident memory by role, MB: at the start, the most, and at the end."""

    before: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)

    def sample(self, processes: dict[str, psutil.Process]) -> None:
        """Read all."""
        self.after = {role: process.memory_info().rss / 2**20 for role, process in processes.items()}
        self.before = self.before or self.after
        self.peak = {role: max(rss, self.peak.get(role, 0.0)) for role, rss in self.after.items()}

    def grown(self) -> dict[str, float]:
        """By how much each role had grown at most."""
        return {role: rss - self.before[role] for role, rss in self.peak.items()}


@contextmanager
def measured(client: Client) -> Iterator[Memory]:
    """Memory of every actor and of this process while the block runs."""
    statuses = client.deployment.statuses(5.0)
    processes = {status["name"]: psutil.Process(status["pid"]) for status in statuses}
    processes["client"] = psutil.Process(os.getpid())
    memory, done = Memory(), threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            memory.sample(processes)

    memory.sample(processes)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()
        memory.sample(processes)


def capacity(client: Client, feed: OrderFeed, seconds: float, concurrency: int) -> tuple[float, dict[str, float]]:
    """Committed orders a second of a closed loop after it has warmed up, and CPU by role for each."""
    Driver(client, TimedFeed(feed, WARM_S), concurrency=concurrency, patience_s=60.0).run()
    meter = Meter(lambda: client.deployment.statuses(5.0))
    tally = Driver(client, TimedFeed(feed, seconds), concurrency=concurrency, patience_s=60.0).run()
    return tally.orders.told[Told.COMMITTED] / tally.wall_s, cpu_us(meter, tally)


def cpu_us(meter: Meter, tally: Tally) -> dict[str, float]:
    """CPU a committed order, by role: unlike the rate it does not depend on who else uses the machine."""
    used, committed = meter.stop().cpu_s, max(tally.orders.told[Told.COMMITTED], 1)
    costs = {role: round(seconds * 1e6 / committed, 1) for role, seconds in sorted(used.items())}
    return {**costs, "total": round(sum(used.values()) * 1e6 / committed, 1)}


def recovered_after_s(seconds: list[Second]) -> int | None:
    """Whole seconds until, for good, enough of what arrives is committed; None: never."""
    good = [second.became[Told.COMMITTED] >= RECOVERED_SHARE * second.offered for second in seconds]
    if not good or not good[-1]:
        return None
    return len(good) - next((n for n, ok in enumerate(reversed(good)) if not ok), len(good))


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p99 and the most, ms."""
    ordered = sorted(values) or [0.0]
    return {name: round(ordered[min(int(len(ordered) * at), len(ordered) - 1)], 1)
            for name, at in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


def judge(report: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    wrong = []
    if report["goodput_share"] < GOODPUT_SHARE_MIN:
        wrong.append(f"goodput {report['goodput_share']:.2f} of the peak, at least {GOODPUT_SHARE_MIN} is asked for")
    if report["recovered_after_s"] is None or report["recovered_after_s"] > RECOVERED_S_MAX:
        wrong.append(f"recovered after {report['recovered_after_s']} s, at most {RECOVERED_S_MAX} is asked for")
    wrong += [f"refusal {code}" for code in report["refused_by_code"] if code != "E_OVERLOADED"]
    wrong += [f"{role} grew by {mb} MB, at most {GROWTH_MB_MAX} is allowed"
              for role, mb in report["memory_mb"]["grown"].items() if mb > GROWTH_MB_MAX]
    if not report["refused_by_code"]:
        wrong.append("nothing was refused: this was no overload")
    if not report["audit_ok"]:
        wrong.append("the audit failed")
    return wrong


def experiment(client: Client, feed: OrderFeed, options: argparse.Namespace) -> dict[str, Any]:
    """Capacity, overload, half of the capacity."""
    peak, peak_cost_us = capacity(client, feed, options.capacity_seconds, options.concurrency)
    sys.stderr.write(f"capacity {peak:,.0f} orders/s\n")
    latencies: list[tuple[int, int]] = []
    loop = OpenLoop(
        client, feed, [Arrivals(peak * options.factor, options.seconds), Arrivals(peak / 2, options.after, seed=2)],
        patience_s=60.0, watch=lambda _, began_ns, ended_ns: latencies.append((began_ns, ended_ns)), progress=told_so_far)
    with measured(client) as memory:
        meter = Meter(lambda: client.deployment.statuses(5.0))
        tally = loop.run()
        cost_us = cpu_us(meter, tally)
    during, after = loop.seconds[:options.seconds], loop.seconds[options.seconds:options.seconds + options.after]
    goodput = [second.told[Told.COMMITTED] for second in during]
    change_ns = min((began for began, _ in latencies), default=0) + options.seconds * 1_000_000_000
    return {
        "capacity_per_s": round(peak, 1), "offered_per_s": round(sum(s.offered for s in during) / options.seconds, 1),
        "goodput_per_s": round(sum(goodput) / options.seconds, 1), "goodput_share": sum(goodput) / options.seconds / peak,
        "recovered_after_s": recovered_after_s(after),
        "cpu_us_per_committed_at_capacity": peak_cost_us, "cpu_us_per_committed_under_overload": cost_us,
        "refusal_ms": percentiles([us / 1_000 for us in loop.refused_us]),
        "latency_ms_during": percentiles([(end - began) / 1e6 for began, end in latencies if began < change_ns]),
        "latency_ms_after": percentiles([(end - began) / 1e6 for began, end in latencies if began >= change_ns]),
        "latency_ms_p50_after_by_second": [
            percentiles([(end - began) / 1e6 for began, end in latencies if n <= (began - change_ns) / 1e9 < n + 1])["p50"]
            for n in range(options.after)],
        "committed_by_second": goodput, "committed_by_second_after": [s.told[Told.COMMITTED] for s in after],
        "offered_by_second_after": [s.offered for s in after],
        "became_committed_by_second_after": [s.became[Told.COMMITTED] for s in after],
        "told": {told.name: number for told, number in tally.orders.told.items()},
        "refused_by_code": dict(tally.orders.rejected_by_code), "aborted_by_code": dict(tally.orders.aborted_by_code),
        "memory_mb": {name: {role: round(mb, 1) for role, mb in values.items()} for name, values in (
            ("before", memory.before), ("peak", memory.peak), ("after", memory.after), ("grown", memory.grown()))},
    }


def told_so_far(tally: Tally, in_flight: int) -> None:
    """A line on stderr."""
    told = tally.orders.told
    sys.stderr.write(f"{told[Told.COMMITTED]:,} committed, {told[Told.REJECTED]:,} refused, {in_flight:,} in flight\n")


def stocked(plan: LoadPlan, orders: int) -> Prepared:
    """Made orders, few enough kept, repeated under ids of their own."""
    baskets: Baskets = make_baskets(BASKETS, plan.seed, None)
    return Prepared(plan, Workload(baskets, orders=orders, run=new_run()), None, None)


def run(data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Deploy, measure, audit."""
    plan = Plan(data=data, app="actors.orders:app", shards=options.shards, open_max=options.open_max)
    prepared = stocked(plan, options.orders_max)
    began_s = time.monotonic()
    with deployed(plan) as client:
        open_books(client, prepared)
        report = experiment(client, OrderFeed(prepared.workload), options)
        wait_for_rest(DataDirectory(data).log_path, 60.0)
        app = client.deployment.app
    report["audit_ok"] = audit(data, app).ok
    report["took_s"] = round(time.monotonic() - began_s, 1)
    report["wrong"] = judge(report)
    return report


def main(arguments: list[str] | None = None, act: Callable[[Path, argparse.Namespace], dict[str, Any]] = run) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--after", type=int, default=10)
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--capacity-seconds", type=float, default=8.0)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--open-max", type=int, help="open transactions a shard admits; its default unless given")
    parser.add_argument("--orders-max", type=int, default=300_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="raytx-overload-") as data:
        report = act(Path(data), options)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
