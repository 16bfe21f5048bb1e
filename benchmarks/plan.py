"""What one run is asked to do and what it measured; plain data, since every run has a process of its own."""

from __future__ import annotations

from enum import StrEnum

import msgspec

ORDERS = 20_000
CONCURRENCY = 1_024


class System(StrEnum):
    """What the orders are placed with."""

    RAYTX = "raytx"
    PLAIN_RAY = "plain-ray"
    FLOOR = "floor"
    DBOS_SQLITE = "dbos-sqlite"
    DBOS_SQLITE_THREADS = "dbos-sqlite-threads"
    DBOS_POSTGRES = "dbos-postgres"
    DBOS_POSTGRES_THREADS = "dbos-postgres-threads"


ON_DBOS = frozenset({System.DBOS_SQLITE, System.DBOS_SQLITE_THREADS, System.DBOS_POSTGRES, System.DBOS_POSTGRES_THREADS})
ON_POSTGRES = frozenset({System.DBOS_POSTGRES, System.DBOS_POSTGRES_THREADS})


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        system: what places the orders.
        orders: how many are measured.
        warm_up: placed before them; they count for the audit only.
        concurrency: in flight; of the floor: orders in one group commit.
        lines: of an order, `1-3`; "" = as measured at a real shop.
        seed: of the orders and of simulated failures.
        settings: of the deployment, `NAME=VALUE` as `raytx up --set` takes them; of raytx only.
        rate_per_s: open loop: Poisson arrivals at this rate; 0: closed loop.
        history: a data directory with transactions to go on from; "": a new one.
        slow_share: of payments take `slow_ms` longer.
        slow_ms: see there; 0: no payment waits for anything.
        strace: count system calls of the actors as well (it slows them down).
        kill: a shard is killed with all orders open; closed loop, raytx only.
        further: orders placed after the measured ones on the same deployment, to see memory grow.
        scratch: directory for temporary data directories; "": the system's.
    """

    system: System = System.RAYTX
    orders: int = ORDERS
    warm_up: int = 0
    concurrency: int = CONCURRENCY
    lines: str = "1-3"
    seed: int = 1
    settings: list[str] = []
    rate_per_s: float = 0.0
    history: str = ""
    slow_share: float = 0.0
    slow_ms: int = 0
    strace: bool = False
    kill: bool = False
    further: int = 0
    scratch: str = ""


class Measured(msgspec.Struct, kw_only=True):
    """What one run came to.

    Attributes:
        ok: whether its audit (or, of the others, its own books) found nothing wrong.
        orders: measured orders with an outcome.
        committed: those of them that committed.
        wall_s: from the first submit to the last outcome.
        latency_ms: p50, p90, p99, p999 from submit (open loop: intended arrival) to outcome.
        cpu_us_per_order: by role, user and system.
        figures: what else was measured, the unit in the name.
        notes: for a person.
    """

    ok: bool
    orders: int
    committed: int
    wall_s: float
    latency_ms: dict[str, float] = {}
    cpu_us_per_order: dict[str, float] = {}
    figures: dict[str, float] = {}
    notes: list[str] = []

    @property
    def orders_per_s(self) -> float:
        """Orders with an outcome by wall time."""
        return self.orders / self.wall_s if self.wall_s else 0.0

    def value(self, name: str) -> float:
        """A figure by name: `orders_per_s`, `latency_ms.p99`, `cpu_us_per_order.total`, or one of `figures`.

        Raises:
            KeyError: this run did not measure it.
        """
        if name == "orders_per_s":
            return self.orders_per_s
        group, dot, member = name.partition(".")
        if dot and group == "latency_ms":
            return self.latency_ms[member]
        if dot and group == "cpu_us_per_order":
            return sum(self.cpu_us_per_order.values()) if member == "total" else self.cpu_us_per_order[member]
        return self.figures[name]
