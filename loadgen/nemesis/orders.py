"""What the load of a chaos run places: the same orders under the same keys in every life of its driver."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from loadgen.shapes import LineRange, make_baskets
from loadgen.workload import Told, Work, Workload
from orchestrator.protocol.identifiers import partition_of_key

BASKETS = 10_000
PROBES = 10_000  # orders kept back: each is placed once, right after a kill
SCARCE_ONE_IN = 8  # SKUs of which there is too little
SCARCE_PART = 200


def make_workload(run: str, seed: int, orders: int, lines: LineRange | None) -> Workload:
    """The orders of a run, the probes after them.

    Args:
        run: token in all ids and keys.
        seed: of the orders' contents.
        orders: how many there are at most.
        lines: of an order; None: as measured in a real shop.
    """
    return Workload(make_baskets(min(orders, BASKETS), seed, lines), orders=orders + PROBES, run=run)


def scarce_books(workload: Workload) -> list[dict[str, Any]]:
    """The opening books, with too little of some goods: orders for them abort."""
    inputs = workload.opening_books()
    for books in inputs:
        for line in books["stock"]:
            if zlib.crc32(line["sku"].encode()) % SCARCE_ONE_IN == 0:
                line["quantity"] = max(1, line["quantity"] // SCARCE_PART)
    return inputs


class EndlessFeed:
    """Orders in sequence until it is told to drain (or there is none left).

    Args:
        workload: its last `PROBES` orders are not placed.
        first: number of the first one.
    """

    def __init__(self, workload: Workload, first: int) -> None:
        self.next = first
        self.told: Counter[Told] = Counter()
        self.aborted_by_code: Counter[str] = Counter()
        self.draining = False
        self._workload, self._end = workload, workload.orders - PROBES

    def take(self) -> Work | None:
        """See `Feed.take`."""
        if self.draining or self.next >= self._end:
            return None
        self.next += 1
        return self._workload.work(self.next - 1)

    def again(self, number: int) -> Work:
        """See `Feed.again`."""
        return self._workload.work(number)

    def settle(self, number: int, told: Told, code: str) -> None:  # noqa: ARG002 - part of the port
        """See `Feed.settle`."""
        self.told[told] += 1
        if told is Told.ABORTED:
            self.aborted_by_code[code] += 1


class Probes:
    """The orders that are placed one by one, right after a kill, so that the first outcome waits for no other one.

    Args:
        workload: its last `PROBES` orders are taken.
        first: how many were taken in earlier lives of the driver.
        shards: how many there are.
    """

    def __init__(self, workload: Workload, first: int, shards: int) -> None:
        self.taken = first
        self._workload, self._shards = workload, shards

    def take(self, actor: str) -> Work | None:
        """The next order that the actor has a part in; None when all are taken."""
        for number in self._numbers():
            work = self._workload.work(number)
            if not actor.startswith("shard-") or f"shard-{partition_of_key(work.key) % self._shards}" == actor:
                return work
        return None

    def _numbers(self) -> Iterator[int]:
        while self.taken < PROBES:
            self.taken += 1
            yield self._workload.orders - self.taken
