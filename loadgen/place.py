"""Placing what was prepared, from this process: the opening first, then the orders, closed loop or open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from loadgen.driver import Driver, Milestone, Port
from loadgen.open_loop import OpenLoop
from loadgen.prepare import Prepared
from loadgen.tally import Tally

BOOKS_CONCURRENCY = 8

Watch = Callable[[str, int, int], None]
Progress = Callable[[Tally, int], None]


@dataclass(slots=True)
class Placed:
    """What came of it.

    Attributes:
        skipped: transactions that were not placed, since another one that they follow did not commit.
        contents: of all that was placed, by name.
        orders: how many.
        begin_ns: of `time.perf_counter_ns`: when the first second of the tally began.
    """

    tally: Tally
    skipped: int = 0
    contents: dict[str, int] = field(default_factory=dict)
    orders: int = 0
    begin_ns: int = 0


def open_books(client: Port, prepared: Prepared) -> None:
    """Bring in what the run needs, such as stock and credit.

    Raises:
        DefiniteError: it could not be brought in; no order was placed.
    """
    feed = prepared.workload.opening()
    Driver(client, feed, concurrency=BOOKS_CONCURRENCY, patience_s=prepared.plan.patience_s).run()


def place(
    client: Port,
    prepared: Prepared,
    *,
    begin_ns: int | None = None,
    milestones: Sequence[Milestone] = (),
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> Placed:
    """Place every order.

    Args:
        client: with a history, if there is to be one.
        prepared: what is placed; its books are open.
        begin_ns: of `time.perf_counter_ns`; None: now.
        milestones: see `Driver`; of a closed loop only.
        watch: see `Driver`.
        progress: see `Driver`.
    """
    plan, source = prepared.plan, prepared.workload
    feed = source.feed()
    times = replace(plan.times, begin_ns=begin_ns)
    if plan.arrivals is None:
        driver: Driver | OpenLoop = Driver(
            client, feed, concurrency=plan.concurrency, patience_s=plan.patience_s, times=times,
            orders_are=source.orders_are, milestones=milestones, watch=watch, progress=progress)
    else:
        driver = OpenLoop(
            client, feed, [plan.arrivals], patience_s=plan.patience_s, times=times, orders_are=source.orders_are,
            watch=watch, progress=progress)
    tally = driver.run()
    orders = tally.orders.told.total()
    return Placed(tally, feed.skipped, source.contents(orders), orders, driver.begin_ns)
