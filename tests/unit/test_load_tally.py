"""Tallies: what is measured, and that those of several drivers add up; warm-up and duration of both loops."""

from __future__ import annotations

import json
import threading
import time
from array import array
from itertools import pairwise

import pytest

from loadgen.arrivals import Arrivals
from loadgen.baskets import Baskets, Line
from loadgen.driver import Driver, Times
from loadgen.open_loop import OpenLoop
from loadgen.progress import describe
from loadgen.tally import LATENCY_US_MAX, Second, Tally, added_up
from loadgen.workload import OrderFeed, Told, Workload
from orchestrator.outcome import Handle, Outcome, OutcomeKind

COMMITTED = Outcome("t", "k", OutcomeKind.COMMITTED)
LATENCIES = (900, 1_000, 1_500, 5_000, 44_000, 1_000_000)


class Slow:
    """Answers each submit after a while, from a timer's thread."""

    def __init__(self, after_s=0.02):
        self.after_s, self.times = after_s, []

    def submit(self, saga, data, *, key):
        self.times.append(time.perf_counter())
        handle = Handle(key, 0, lambda handle: handle)
        threading.Timer(self.after_s, handle.settle, (COMMITTED, None)).start()
        return handle


def feed(orders=100_000):
    made = Baskets()
    made.add("1", "17850", "France", [Line("22423", 4, 1_275)])
    return OrderFeed(Workload(made, orders=orders, run="run"))


def tally(told=Told.COMMITTED, second=0, warm=True):
    made = Tally(wall_s=second + 1.0, window_s=1.0, told_in_window=len(LATENCIES), repeats=1, censored=2)
    made.of("place_order").add(told, "CODE", len(LATENCIES))
    made.record(array("q", LATENCIES), second, warm=warm)
    made.note_told(second, 3)
    made.second(second).offered = 8
    made.record_lateness(array("q", [500, 2_000]))
    return made


def test_latencies_keep_three_digits():
    made = tally()
    assert made.latencies.get_total_count() == len(LATENCIES)
    for percent, latency_us in zip((16, 33, 50, 66, 83, 100), LATENCIES, strict=True):
        assert made.latencies.get_value_at_percentile(percent) == pytest.approx(latency_us, rel=0.001)
    assert made.seconds[0].percentile_ms(50) == pytest.approx(1.5, rel=0.01)
    made.record(array("q", [0, -5, LATENCY_US_MAX * 2]), 0, warm=True)
    assert made.latencies.get_max_value() == pytest.approx(LATENCY_US_MAX, rel=0.001)
    assert Second().percentile_ms(99) == Tally().lateness_ms(99) == 0.0


@pytest.mark.parametrize("power", [7, 10, 16, 20])
def test_a_seconds_percentiles_are_within_one_percent(power):
    """The worst of a power of two is just below the second step that is kept."""
    for bits in (6, 7):
        worst_us = 2**power + 2**(power - bits) - 1
        made = Tally()
        made.record(array("q", [worst_us]), 0, warm=False)
        shown_us = made.seconds[0].percentile_ms(99) * 1_000
        assert worst_us * 0.99 <= shown_us <= worst_us


def test_what_began_in_the_warm_up_shows_in_its_second_only():
    made = tally(warm=False)
    assert made.latencies.get_total_count() == 0
    assert made.seconds[0].percentile_ms(100) == pytest.approx(1_000, rel=0.01)


def test_tallies_add_up_also_by_way_of_another_process():
    parts = [tally(), tally(Told.ABORTED, second=1), tally(Told.REJECTED, second=1)]
    carried = [Tally.from_plain(json.loads(json.dumps(part.to_plain()))) for part in parts]
    for whole in (added_up(parts), added_up(carried)):
        assert whole.orders.told == {Told.COMMITTED: 6, Told.ABORTED: 6, Told.REJECTED: 6}
        assert (whole.orders.aborted_by_code, whole.orders.rejected_by_code) == ({"CODE": 6}, {"CODE": 6})
        assert whole.latencies.get_total_count() == 18
        assert whole.latencies.get_value_at_percentile(100) == pytest.approx(1_000_000, rel=0.001)
        assert (whole.wall_s, whole.told_in_window, whole.repeats, whole.orders_per_s) == (2.0, 18, 3, 18.0)
        assert whole.censored == 6
        assert whole.lateness_us.total() == 6
        assert whole.lateness_ms(50) == pytest.approx(0.5, rel=0.001)
        assert whole.lateness_ms(100) == pytest.approx(2.0, rel=0.001)
        assert whole.seconds[1].told == {Told.ABORTED: 6, Told.REJECTED: 6}
        assert (whole.seconds[1].in_flight, whole.seconds[1].offered) == (6, 16)
        assert whole.seconds[0].latencies_us.total() == 6


def test_what_is_shown_is_a_copy_since_the_clients_thread_goes_on_counting():
    made = tally()
    shown = made.glance()
    made.of("place_order").add(Told.ABORTED, "NEW", 1)
    made.of("return_items").add(Told.COMMITTED, "")
    assert shown.orders.told == {Told.COMMITTED: 6}
    assert shown.by_saga.keys() == {"place_order"}
    seen = []
    Driver(Slow(), feed(8), concurrency=1, patience_s=60, progress=lambda tally, in_flight: seen.append(tally)).run()
    assert len({id(counts) for one in seen for counts in one.by_saga.values()}) == len(seen)


def test_only_orders_count_as_orders():
    made = Tally(frozenset({"transfer", "transfer_back"}))
    for saga in ("transfer", "transfer_back", "open_accounts"):
        made.of(saga).add(Told.COMMITTED, "", 2)
    assert made.orders.told == {Told.COMMITTED: 4}


def test_a_closed_loop_ends_in_time_and_measures_after_its_warm_up():
    client = Slow()
    made = Driver(client, feed(), concurrency=4, patience_s=60, times=Times(warm_up_s=0.3, duration_s=0.9)).run()
    assert client.times[-1] - client.times[0] < 0.95
    assert made.orders.told == {Told.COMMITTED: len(client.times)}
    late = sum(at - client.times[0] > 0.3 for at in client.times)
    assert abs(made.latencies.get_total_count() - late) <= 4
    assert made.window_s == pytest.approx(0.6, abs=0.02)
    assert made.orders_per_s == pytest.approx(4 / 0.022, rel=0.25)
    assert sum(second.told.total() for second in made.seconds.values()) == len(client.times)


def test_an_open_loop_measures_what_arrives_after_its_warm_up():
    made = OpenLoop(Slow(), feed(), [Arrivals(200, 1.0)], patience_s=60, times=Times(warm_up_s=0.5)).run()
    assert made.window_s == pytest.approx(0.5)
    assert 60 < made.latencies.get_total_count() < 150
    assert 60 < made.told_in_window < 150
    assert 140 < made.orders.told[Told.COMMITTED] < 270
    assert sum(second.offered for second in made.seconds.values()) == made.orders.told[Told.COMMITTED]


def test_drivers_can_begin_together():
    begin_ns = time.perf_counter_ns() + 200_000_000
    client = Slow()
    driver = Driver(client, feed(2), concurrency=1, patience_s=60, times=Times(begin_ns=begin_ns))
    driver.run()
    assert client.times[0] * 1e9 >= begin_ns == driver.begin_ns


def test_ticks_fall_on_half_seconds():
    seen = []
    Driver(Slow(), feed(), concurrency=1, patience_s=60, times=Times(duration_s=1.4),
           progress=lambda tally, in_flight: seen.append(time.perf_counter())).run()
    assert [round(b - a, 1) for a, b in pairwise(seen)][:2] == [0.5, 0.4] or round(seen[1] - seen[0], 1) == 0.5


def test_the_line_says_rate_latency_reasons_and_recoveries():
    made = tally(Told.ABORTED)
    done, line = describe(made, 7, 100, 2)
    assert done == 6
    assert line == "6 of 100: 6/s, p50 1.5 p99 999.4 ms, 0 committed, 6 aborted (CODE 6), 7 in flight, 2 recovered"
    assert describe(Tally(), 0, None, 0)[1] == "0, 0 committed, 0 aborted, 0 in flight"
