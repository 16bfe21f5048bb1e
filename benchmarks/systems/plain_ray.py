"""Orders placed with plain Ray actors: one actor call per operation, state in memory, nothing durable, no recovery.

What one would write without raytx: four actors, and a coroutine per order that calls them and compensates where one refuses.
Stock and payment are asked at once, as raytx does; an order costs four calls.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import psutil
import ray

from benchmarks import orders, verdict
from benchmarks.asynchronous import AsyncPort
from benchmarks.other_usage import RAY, ProcessMeter, daemons
from benchmarks.plan import Measured, Plan
from benchmarks.shop_in_memory import Money, Outbox, Parcels, Stock
from loadgen.workload import OPEN_BOOKS, PLACE_ORDER

SERVICES: Mapping[str, type] = {"inventory": Stock, "payment": Money, "shipping": Parcels, "notification": Outbox}
REFUSED, UNDELIVERABLE = "REFUSED", "UNDELIVERABLE"
_ENVIRONMENT = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}  # as raytx has it for its own head


def run(plan: Plan) -> Measured:
    """One run on a Ray of its own."""
    os.environ.update(_ENVIRONMENT)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=os.cpu_count())
    try:
        return _measure(plan)
    finally:
        ray.shutdown()


class Saga:
    """The order and the opening books over the four actors.

    Args:
        actors: handles by service.
    """

    def __init__(self, actors: Mapping[str, Any]) -> None:
        self._stock, self._money = actors["inventory"], actors["payment"]
        self._parcels, self._outbox = actors["shipping"], actors["notification"]

    async def open_books(self, _: str, data: dict[str, Any]) -> str:
        """Goods and money in."""
        await self._stock.receive.remote(data["stock"])
        await self._money.deposit.remote(data["accounts"])
        return ""

    async def place_order(self, key: str, order: dict[str, Any]) -> str:
        """Take, charge, ship, tell; compensate where one refuses. Returns the code of the refusal."""
        taken, charged = await asyncio.gather(
            self._stock.take.remote(key, order["lines"]),
            self._money.charge.remote(key, order["customer"], order["amount_minor"]))
        if not (taken and charged):
            await self._undo(key, taken=taken, charged=charged)
            return REFUSED
        tracking = await self._parcels.create.remote(key, order["address"]["country"])
        if not tracking:
            await self._undo(key, taken=True, charged=True)
            return UNDELIVERABLE
        await self._outbox.send.remote(key, order["email"], tracking)
        return ""

    async def _undo(self, key: str, *, taken: bool, charged: bool) -> None:
        if taken:
            await self._stock.put_back.remote(key)
        if charged:
            await self._money.refund.remote(key)


def _measure(plan: Plan) -> Measured:
    remote = {name: ray.remote(service) for name, service in SERVICES.items()}
    actors = {name: actor.options(num_cpus=0, enable_task_events=False).remote() for name, actor in remote.items()}
    saga = Saga(actors)
    workload = orders.workload_of(plan)
    with AsyncPort({OPEN_BOOKS: saga.open_books, PLACE_ORDER: saga.place_order}) as port:
        orders.open_books(port, workload)
        committed = 0
        if plan.warm_up:
            committed += orders.told(orders.place(port, workload, 0, plan.warm_up, plan.concurrency))[1]
        meter = ProcessMeter(_pids(actors) | {RAY: daemons(_servers())})
        tally = orders.measure(port, workload, plan)
        count, told = orders.told(tally)
        cost = meter.cost(count)
        ray_cost = cost.pop(RAY)
    adds_up = ray.get([actor.adds_up.remote(committed + told) for actor in actors.values()])
    measured = Measured(
        ok=True, orders=count, committed=told, wall_s=tally.wall_s, latency_ms=orders.latency_ms(tally),
        cpu_us_per_order=cost, figures={"ray_cpu_us_per_order": ray_cost})
    verdict.judge_books(measured, adds_up=all(adds_up))
    verdict.judge_done(measured, orders.asked(plan, tally))
    return measured


def _servers() -> list[int]:
    """Ray's servers, which this process has started."""
    return [child.pid for child in psutil.Process().children() if child.name() in ("gcs_server", "raylet")]


def _pids(actors: Mapping[str, Any]) -> dict[str, list[int]]:
    """Where the actors run."""
    asked = {name: actor.__ray_call__.remote(_pid) for name, actor in actors.items()}
    return {name: [ray.get(pid)] for name, pid in asked.items()}


def _pid(_: Any) -> int:
    return os.getpid()
