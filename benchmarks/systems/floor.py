"""The floor: one plain process that makes the same records durable, with group commit; no protocol, no message, no handler.

The same log records, ledger rows and values, in the product's own tables with its checksums, its check of the owner and its
`fsync` at every commit. What raytx takes beyond it is the price of being distributed.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import orders
from benchmarks.direct.stores import DirectStores
from benchmarks.direct.writer import OrderWriter
from benchmarks.plan import Measured, Plan
from benchmarks.systems.directory import data_directory
from loadgen.usage import CLIENT
from orchestrator import garbage
from orchestrator.audit import audit


def run(plan: Plan) -> Measured:
    """One run; `concurrency` orders are committed together."""
    workload = orders.workload_of(plan)
    placed: list[dict[str, Any]] = [workload.work(number).input for number in range(plan.warm_up + plan.orders)]
    with data_directory(plan) as data:
        with DirectStores(data, _now_ms) as stores:
            for number, books in enumerate(workload.opening_books()):
                stores.open_books(f"{workload.run}-books-{number}", books)
            writer = OrderWriter(stores)
            garbage.expect_little()  # as the actors do: otherwise a fifth of its time goes into looking at the orders to come
            _write(writer, placed[:plan.warm_up], plan.concurrency)
            wall_s, cpu_s = _write(writer, placed[plan.warm_up:], plan.concurrency)
            app = stores.app
        audited = audit(data, app)
    return Measured(
        ok=audited.ok, orders=plan.orders, committed=plan.orders, wall_s=wall_s,
        cpu_us_per_order={CLIENT: cpu_s * 1e6 / plan.orders},
        notes=[] if audited.ok else [f"the audit found violations: {audited.to_json().get('first_violation')}"])


def _write(writer: OrderWriter, placed: list[dict[str, Any]], group: int) -> tuple[float, float]:
    """Seconds that passed, and seconds of CPU."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for first in range(0, len(placed), group):
        writer.write(placed[first:first + group])
    writer.finish()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
