"""Orders placed with DBOS Transact, on SQLite or PostgreSQL: the same saga as a durable workflow with four steps.

Its steps act on services in the memory of the same process, so that DBOS pays for its workflow and step records only, and
for none of the services' own durability. Steps are asynchronous functions on one event loop.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

from benchmarks import orders
from benchmarks.asynchronous import AsyncPort
from benchmarks.other_usage import ProcessMeter
from benchmarks.plan import Measured, Plan, System
from benchmarks.postgres import Server, postgres_server
from benchmarks.shop_in_memory import Money, Outbox, Parcels, Stock
from loadgen.workload import OPEN_BOOKS, PLACE_ORDER

REFUSED, UNDELIVERABLE = "REFUSED", "UNDELIVERABLE"
POOL = 20


def run(plan: Plan) -> Measured:
    """One run on a database of its own."""
    with _database(plan) as (url, server):
        config: DBOSConfig = {
            "name": "raytx-bench", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR",
            "sys_db_pool_size": POOL}
        DBOS(config=config)
        saga = Saga()
        DBOS.launch()
        logging.getLogger("dbos").setLevel(logging.ERROR)
        try:
            return _measure(plan, saga, server)
        finally:
            DBOS.destroy()


class Saga:
    """The workflow, over services in memory."""

    def __init__(self) -> None:
        self.stock, self.money, self.parcels, self.outbox = Stock(), Money(), Parcels(), Outbox()
        self._workflow = _workflow(self)

    async def open_books(self, _: str, data: dict[str, Any]) -> str:
        """Goods and money in; no part of what is measured."""
        self.stock.receive(data["stock"])
        self.money.deposit(data["accounts"])
        return ""

    async def place_order(self, key: str, order: dict[str, Any]) -> str:
        """Run the workflow under the order's key; the code of the refusal, or nothing."""
        with SetWorkflowID(key):
            return await self._workflow(order)


def _workflow(shop: Saga) -> Callable[[dict[str, Any]], Awaitable[str]]:
    """The workflow and its steps: plain functions, since DBOS notes things on them."""

    @DBOS.step(name="take")
    async def take(order_id: str, lines: list[dict[str, Any]]) -> bool:
        return shop.stock.take(order_id, lines)

    @DBOS.step(name="charge")
    async def charge(order_id: str, account: str, amount_minor: int) -> bool:
        return shop.money.charge(order_id, account, amount_minor)

    @DBOS.step(name="ship")
    async def ship(order_id: str, country: str) -> str:
        return shop.parcels.create(order_id, country)

    @DBOS.step(name="tell")
    async def tell(order_id: str, email: str, tracking: str) -> None:
        shop.outbox.send(order_id, email, tracking)

    @DBOS.step(name="undo")
    async def undo(order_id: str) -> None:
        shop.stock.put_back(order_id)
        shop.money.refund(order_id)

    @DBOS.workflow(name=PLACE_ORDER)
    async def place(order: dict[str, Any]) -> str:
        order_id = order["order_id"]
        if not await take(order_id, order["lines"]):
            return REFUSED
        if not await charge(order_id, order["customer"], order["amount_minor"]):
            await undo(order_id)
            return REFUSED
        tracking = await ship(order_id, order["address"]["country"])
        if not tracking:
            await undo(order_id)
            return UNDELIVERABLE
        await tell(order_id, order["email"], tracking)
        return ""

    return place


def _measure(plan: Plan, saga: Saga, server: Server | None) -> Measured:
    workload = orders.workload_of(plan)
    with AsyncPort({OPEN_BOOKS: saga.open_books, PLACE_ORDER: saga.place_order}) as port:
        orders.open_books(port, workload)
        committed = 0
        if plan.warm_up:
            committed += orders.told(orders.place(port, workload, 0, plan.warm_up, plan.concurrency))[1]
        before = server.cpu_s() if server else 0.0
        meter = ProcessMeter({})
        tally = orders.measure(port, workload, plan)
        count, told = orders.told(tally)
        cost = meter.cost(count)
        if server:
            cost["postgres"] = (server.cpu_s() - before) * 1e6 / max(count, 1)
    committed += told
    adds_up = all(books.adds_up(committed) for books in (saga.stock, saga.money, saga.parcels, saga.outbox))
    notes = [] if adds_up else ["the services' books do not add up"]
    return Measured(
        ok=adds_up and count > 0, orders=count, committed=told, wall_s=tally.wall_s, latency_ms=orders.latency_ms(tally),
        cpu_us_per_order=cost, notes=notes)


@contextmanager
def _database(plan: Plan) -> Iterator[tuple[str, Server | None]]:
    if plan.system is System.DBOS_POSTGRES:
        with postgres_server(plan.scratch) as server:
            yield server.url, server
        return
    with tempfile.TemporaryDirectory(prefix="raytx-bench-", dir=plan.scratch or None) as made:
        yield f"sqlite:///{Path(made) / 'dbos.sqlite'}", None
