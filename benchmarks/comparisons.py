"""The benchmarks: which sides each compares, and which figures it shows; pure, so that they can be checked without running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from benchmarks.plan import Plan, System

THROUGHPUT = (
    "orders_per_s", "latency_ms.p50", "latency_ms.p99", "cpu_us_per_order.total", "ray_cpu_us_per_order", "repeats_per_order")
OTHERS = (
    System.PLAIN_RAY, System.DBOS_SQLITE, System.DBOS_SQLITE_THREADS, System.DBOS_POSTGRES, System.DBOS_POSTGRES_THREADS)
SLOW_SHARE, SLOW_MS, HARDLY_MS = 0.01, 500, 1
ALONE, SOME = 1, 16


class Comparison(NamedTuple):
    """What is run alternately.

    Attributes:
        sides: plans by name.
        base: the side that the others are divided by; "": no ratios.
        shown: figures of the table, see `Measured.value`; the JSON has all.
    """

    sides: Mapping[str, Plan]
    base: str
    shown: tuple[str, ...]


def systems(plan: Plan, others: Iterable[System], other_orders: int) -> Comparison:
    """Against what a user would pick instead; they are slower, so they get fewer orders, with the same number in flight.

    DBOS with threads works at 20 of them at a time, and the others wait in its queue.
    """
    sides = {System.RAYTX.value: plan}
    for system in others:
        fewer = min(plan.orders, other_orders)
        sides[system.value] = _changed(plan, system=system, orders=fewer, warm_up=min(plan.warm_up, fewer // 10), settings=[])
    return Comparison(sides, System.RAYTX.value, THROUGHPUT)


def floor(plan: Plan) -> Comparison:
    """Against one plain process that makes the same records durable."""
    sides = {System.RAYTX.value: plan, System.FLOOR.value: _changed(plan, system=System.FLOOR, settings=[])}
    return Comparison(sides, System.FLOOR.value, ("orders_per_s", "cpu_us_per_order.total"))


def history(plan: Plan, directories: Mapping[int, str]) -> Comparison:
    """With so many transactions on disk already, by data directory."""
    before = {f"{count:,} before": _changed(plan, history=directory) for count, directory in directories.items()}
    return Comparison(
        {"empty": plan} | before, "empty",
        (*THROUGHPUT, "log_open_s", "start_s", "bytes_on_disk_per_order", "bytes_written_per_order"))


def head_of_line(plan: Plan) -> Comparison:
    """One payment in a hundred takes half a second; the same with a millisecond is what the others are compared with."""
    sides = {
        "nothing waits": plan,
        "none is slow": _changed(plan, slow_share=SLOW_SHARE, slow_ms=HARDLY_MS),
        "1 % slow": _changed(plan, slow_share=SLOW_SHARE, slow_ms=SLOW_MS)}
    return Comparison(
        sides, "none is slow",
        ("orders_per_s", "latency_ms.p50", "latency_ms.p99", "others_p50_ms", "others_p99_ms", "slow_share"))


def shards(plan: Plan, counts: Iterable[int]) -> Comparison:
    """With so many orchestrators."""
    sides = {
        f"{count} shard{'s' if count > 1 else ''}": _changed(plan, settings=[*plan.settings, f"shards={count}"])
        for count in counts}
    return Comparison(sides, next(iter(sides)), (*THROUGHPUT, "cpu_us_per_order.orchestrator"))


def transport(plan: Plan) -> Comparison:
    """Connections of the deployment's own against Ray calls."""
    sides = {name: _changed(plan, settings=[*plan.settings, f"transport={name}"]) for name in ("direct", "ray")}
    return Comparison(sides, "ray", THROUGHPUT)


def metrics(plan: Plan) -> Comparison:
    """Metrics and JSON log lines as they are by default, against neither."""
    silent = _changed(plan, settings=[*plan.settings, "metrics_ms=0", "log_level=OFF"])
    return Comparison({"metrics and logs": plan, "neither": silent}, "neither", THROUGHPUT)


def latency(plan: Plan, capacity_per_s: float) -> Comparison:
    """Alone, with some in flight, and at half of what it can do, with arrivals of their own."""
    few = min(plan.orders, 2_000)
    sides = {
        "alone": _changed(plan, concurrency=ALONE, orders=few, warm_up=min(plan.warm_up, 200)),
        f"{SOME} in flight": _changed(plan, concurrency=SOME),
        f"open loop, {capacity_per_s / 2:,.0f}/s": _changed(plan, rate_per_s=capacity_per_s / 2)}
    return Comparison(
        sides, "", ("orders_per_s", "latency_ms.mean", "latency_ms.p50", "latency_ms.p90", "latency_ms.p99",
                    "latency_ms.p999", "lateness_ms.p99"))


def cost(plan: Plan, *, traced: bool) -> Comparison:
    """Where the time, the bytes and the calls of an order go; what strace counts comes from runs of its own."""
    sides = {"raytx": plan} | ({"under strace": _changed(plan, strace=True)} if traced else {})
    return Comparison(sides, "", (
        "orders_per_s", "cpu_us_per_order.total", "ray_cpu_us_per_order", "bytes_on_disk_per_order", "bytes_written_per_order",
        "commits_per_order", "log_appends_per_order", "fsyncs_per_order", "exchanges_per_order"))


def memory(plan: Plan) -> Comparison:
    """Resident memory of every actor after N orders, and after ten times as many on the same deployment."""
    return Comparison(
        {"raytx": _changed(plan, further=9 * (plan.orders + plan.warm_up))}, "", ("orders_per_s", "rss_growth_most"))


def recovery(plan: Plan) -> Comparison:
    """A shard is killed with all orders open."""
    return Comparison(
        {"raytx": _changed(plan, kill=True)}, "",
        ("open_at_kill", "kill_to_restart_s", "restart_to_last_driven_s", "restart_to_last_outcome_s", "kill_to_last_outcome_s",
         "restart_to_rest_s", "rss_bytes_per_open.shard-0"))


def _changed(plan: Plan, **changes: object) -> Plan:
    return msgspec.structs.replace(plan, **changes)
