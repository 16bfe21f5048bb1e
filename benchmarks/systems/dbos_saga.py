"""Orders placed with DBOS Transact, on SQLite or PostgreSQL: the same saga as a durable workflow with four steps.

Its steps act on services in the memory of the same process, so that DBOS pays for its workflow and step records only, and
for none of the services' own durability. Twice: as coroutines on one event loop, and as plain functions in threads; which one
is faster depends on the number in flight.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

from benchmarks import orders, verdict
from benchmarks.asynchronous import AsyncPort
from benchmarks.other_usage import ProcessMeter
from benchmarks.plan import ON_POSTGRES, Measured, Plan, System
from benchmarks.postgres import Server, postgres_server
from benchmarks.shop_in_memory import Money, Outbox, Parcels, Stock
from benchmarks.threaded import ThreadedPort
from loadgen.workload import OPEN_BOOKS, PLACE_ORDER

REFUSED, UNDELIVERABLE = "REFUSED", "UNDELIVERABLE"
POOL = 20  # connections to its database, and threads at most: more of them would wait for a connection


def run(plan: Plan) -> Measured:
    """One run on a database of its own."""
    with _database(plan) as (url, server):
        config: DBOSConfig = {
            "name": "raytx-bench", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR",
            "sys_db_pool_size": POOL}
        DBOS(config=config)
        shop = Shop()
        port = _port(plan, shop)
        DBOS.launch()
        logging.getLogger("dbos").setLevel(logging.ERROR)
        try:
            return _measure(plan, shop, port, server)
        finally:
            DBOS.destroy()


class Shop:
    """The services in memory, shared by threads."""

    def __init__(self) -> None:
        self.stock, self.money, self.parcels, self.outbox = Stock(), Money(), Parcels(), Outbox()
        self._lock = threading.Lock()  # adding to a number is several steps of the interpreter

    def open_books(self, data: dict[str, Any]) -> str:
        """Goods and money in; no part of what is measured."""
        self.stock.receive(data["stock"])
        self.money.deposit(data["accounts"])
        return ""

    def take(self, order: dict[str, Any]) -> bool:
        """First step."""
        with self._lock:
            return self.stock.take(order["order_id"], order["lines"])

    def charge(self, order: dict[str, Any]) -> bool:
        """Second step."""
        with self._lock:
            return self.money.charge(order["order_id"], order["customer"], order["amount_minor"])

    def ship(self, order: dict[str, Any]) -> str:
        """Third step."""
        return self.parcels.create(order["order_id"], order["address"]["country"])

    def tell(self, order: dict[str, Any], tracking: str) -> None:
        """Last step."""
        self.outbox.send(order["order_id"], order["email"], tracking)

    def undo(self, order: dict[str, Any]) -> None:
        """The compensation of the first two."""
        with self._lock:
            self.stock.put_back(order["order_id"])
            self.money.refund(order["order_id"])

    def adds_up(self, orders: int) -> bool:
        """Whether the books of all services do."""
        return all(books.adds_up(orders) for books in (self.stock, self.money, self.parcels, self.outbox))


def _in_threads(shop: Shop) -> Callable[[dict[str, Any]], str]:
    """The workflow as plain functions."""
    take, charge = _step(shop.take), _step(shop.charge)
    ship, tell, undo = _step(shop.ship), _step(shop.tell), _step(shop.undo)

    @DBOS.workflow(name=PLACE_ORDER)
    def place(order: dict[str, Any]) -> str:
        if not take(order):
            return REFUSED
        if not charge(order):
            undo(order)
            return REFUSED
        tracking = ship(order)
        if not tracking:
            undo(order)
            return UNDELIVERABLE
        tell(order, tracking)
        return ""

    return place


def _on_a_loop(shop: Shop) -> Callable[[dict[str, Any]], Awaitable[str]]:
    """The workflow as coroutines."""
    take, charge = _async_step(shop.take), _async_step(shop.charge)
    ship, tell, undo = _async_step(shop.ship), _async_step(shop.tell), _async_step(shop.undo)

    @DBOS.workflow(name=PLACE_ORDER)
    async def place(order: dict[str, Any]) -> str:
        if not await take(order):
            return REFUSED
        if not await charge(order):
            await undo(order)
            return REFUSED
        tracking = await ship(order)
        if not tracking:
            await undo(order)
            return UNDELIVERABLE
        await tell(order, tracking)
        return ""

    return place


def _step(work: Callable[..., Any]) -> Callable[..., Any]:
    """A step; a function of its own, since DBOS notes things on it."""

    def step(*arguments: Any) -> Any:
        return work(*arguments)

    return DBOS.step(name=work.__name__)(step)


def _async_step(work: Callable[..., Any]) -> Callable[..., Any]:
    """A step that is a coroutine."""

    async def step(*arguments: Any) -> Any:
        return work(*arguments)

    return DBOS.step(name=work.__name__)(step)


def _port(plan: Plan, shop: Shop) -> ThreadedPort | AsyncPort:
    """How orders come in: to threads, or to one event loop."""
    if plan.system in (System.DBOS_SQLITE_THREADS, System.DBOS_POSTGRES_THREADS):
        workflow = _in_threads(shop)

        def place(key: str, order: dict[str, Any]) -> str:
            with SetWorkflowID(key):
                return workflow(order)

        return ThreadedPort(
            {OPEN_BOOKS: lambda _, data: shop.open_books(data), PLACE_ORDER: place}, min(plan.concurrency, POOL))
    coroutine = _on_a_loop(shop)

    async def place_async(key: str, order: dict[str, Any]) -> str:
        with SetWorkflowID(key):
            return await coroutine(order)

    async def open_books(_: str, data: dict[str, Any]) -> str:
        return shop.open_books(data)

    return AsyncPort({OPEN_BOOKS: open_books, PLACE_ORDER: place_async})


def _measure(plan: Plan, shop: Shop, port: ThreadedPort | AsyncPort, server: Server | None) -> Measured:
    workload = orders.workload_of(plan)
    with port:
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
    measured = Measured(
        ok=True, orders=count, committed=told, wall_s=tally.wall_s, latency_ms=orders.latency_ms(tally),
        cpu_us_per_order=cost)
    verdict.judge_books(measured, adds_up=shop.adds_up(committed))
    verdict.judge_done(measured, orders.asked(plan, tally))
    return measured


@contextmanager
def _database(plan: Plan) -> Iterator[tuple[str, Server | None]]:
    if plan.system in ON_POSTGRES:
        with postgres_server(plan.scratch) as server:
            yield server.url, server
        return
    with tempfile.TemporaryDirectory(prefix="raytx-bench-", dir=plan.scratch or None) as made:
        yield f"sqlite:///{Path(made) / 'dbos.sqlite'}", None
