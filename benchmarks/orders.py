"""The orders of a run, the same for every system: the load generator's workload, in ranges, through its drivers."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.plan import Plan
from loadgen.arrivals import Arrivals
from loadgen.driver import Driver, Port
from loadgen.open_loop import OpenLoop
from loadgen.options import parse_lines
from loadgen.shapes import make_baskets
from loadgen.tally import Tally
from loadgen.workload import BooksFeed, Told, Work, Workload, new_run

PATIENCE_S = 120.0
BOOKS_CONCURRENCY = 8
WEEK_MS = 7 * 24 * 3_600_000
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
LATENESS = {"p99": 99.0, "max": 100.0}

Watch = Callable[[str, int, int], None]


def workload_of(plan: Plan) -> Workload:
    """All orders of a run: warm-up, measured ones, further ones."""
    count = plan.warm_up + arriving(plan) + plan.further
    return Workload(make_baskets(count, plan.seed, parse_lines(plan.lines or None)), orders=count, run=new_run())


def arriving(plan: Plan) -> int:
    """Measured orders to have ready; of an open loop some more than will come."""
    return _arrivals(plan).expected if plan.rate_per_s else plan.orders


class OrderRange:
    """Some of a workload's orders, in sequence; fits the drivers' feed.

    Args:
        workload: all of them.
        first: number of the first one.
        count: how many.
    """

    def __init__(self, workload: Workload, first: int, count: int) -> None:
        self._workload, self._next, self._end = workload, first, first + count

    def take(self) -> Work | None:
        """The next order."""
        if self._next == self._end:
            return None
        self._next += 1
        return self._workload.work(self._next - 1)

    def again(self, number: int) -> Work:
        """The same order once more."""
        return self._workload.work(number)

    def settle(self, number: int, told: Told, code: str) -> None:
        """The tally counts; nothing depends on it."""


def open_books(port: Port, workload: Workload) -> None:
    """Bring in the stock and the credit that the run needs.

    Raises:
        DefiniteError: they could not be brought in; no order was placed.
    """
    feed = BooksFeed(workload.run, workload.opening_books())
    Driver(port, feed, concurrency=BOOKS_CONCURRENCY, patience_s=PATIENCE_S).run()


def place(
    port: Port, workload: Workload, first: int, count: int, concurrency: int, *,
    progress: Callable[[Tally, int], None] | None = None, watch: Watch | None = None,
) -> Tally:
    """A closed loop over some of the orders."""
    feed = OrderRange(workload, first, count)
    return Driver(port, feed, concurrency=concurrency, patience_s=PATIENCE_S, progress=progress, watch=watch).run()


def measure(
    port: Port, workload: Workload, plan: Plan, *, progress: Callable[[Tally, int], None] | None = None,
    watch: Watch | None = None,
) -> Tally:
    """Place the measured orders, closed or open loop as the plan says."""
    if not plan.rate_per_s:
        return place(port, workload, plan.warm_up, plan.orders, plan.concurrency, progress=progress, watch=watch)
    feed = OrderRange(workload, plan.warm_up, arriving(plan))
    return OpenLoop(port, feed, [_arrivals(plan)], patience_s=PATIENCE_S, progress=progress, watch=watch).run()


def latency_ms(tally: Tally) -> dict[str, float]:
    """Percentiles in ms."""
    values = {name: tally.latencies.get_value_at_percentile(at) / 1_000 for name, at in PERCENTILES.items()}
    return values | {"mean": tally.latencies.get_mean_value() / 1_000}


def told(tally: Tally) -> tuple[int, int]:
    """Orders with an outcome, and committed ones."""
    counts = tally.orders.told
    return counts[Told.COMMITTED] + counts[Told.ABORTED], counts[Told.COMMITTED]


def asked(plan: Plan, tally: Tally) -> int:
    """How many measured orders were to have an outcome; in an open loop whatever arrived."""
    return tally.orders.told.total() if plan.rate_per_s else plan.orders


def lateness_ms(tally: Tally) -> dict[str, float]:
    """How late an open loop itself was, from intended arrival to submit: a part of its latencies. Nothing of a closed loop."""
    return {f"lateness_ms.{name}": tally.lateness_ms(at) for name, at in LATENESS.items()} if tally.lateness_us else {}


def _arrivals(plan: Plan) -> Arrivals:
    return Arrivals(plan.rate_per_s, plan.orders / plan.rate_per_s, plan.seed)
