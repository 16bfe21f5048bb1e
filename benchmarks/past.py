"""Makes a data directory with a history: committed orders written into the stores directly, at the speed of the floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import orders
from benchmarks.direct.stores import DirectStores
from benchmarks.direct.writer import OrderWriter
from benchmarks.observed import size_of
from benchmarks.plan import Plan

GROUP = 2_000
MARGIN_MS = 1_000  # the newest transaction is that old: a deployment allocates ids after it


def write_history(
    data: Path, transactions: int, *, plan: Plan, span_ms: int, progress: Callable[[str], None] = lambda _: None,
) -> float:
    """Write orders that began, evenly, within the last `span_ms`.

    Args:
        data: new data directory.
        transactions: how many.
        plan: lines and seed of the orders.
        span_ms: also the log's retention while it is written; a deployment with the same retention purges from the first
            second as fast as it would after running at that rate for ever.
        progress: told now and then.

    Returns:
        Bytes on disk per order.
    """
    workload = orders.workload_of(Plan(orders=transactions, lines=plan.lines, seed=plan.seed))
    clock = _Past(time.time_ns() // 1_000_000 - span_ms, span_ms - MARGIN_MS, transactions)
    with DirectStores(data, clock.now_ms, span_ms) as stores:
        for number, books in enumerate(workload.opening_books()):
            stores.open_books(f"{workload.run}-books-{number}", books)
        writer = OrderWriter(stores)
        for first in range(0, transactions, GROUP):
            count = min(GROUP, transactions - first)
            clock.written = first
            writer.write([workload.work(number).input for number in range(first, first + count)])
            if first and first % (100 * GROUP) == 0:
                progress(f"{first:,} of {transactions:,} transactions written")
        writer.finish()
    return size_of(data) / transactions


class _Past:
    """The wall clock of the history."""

    def __init__(self, begin_ms: int, span_ms: int, transactions: int) -> None:
        self._begin_ms, self._span_ms, self._transactions = begin_ms, span_ms, transactions
        self.written = 0

    def now_ms(self) -> int:
        """Unix ms."""
        return self._begin_ms + self._span_ms * self.written // self._transactions
