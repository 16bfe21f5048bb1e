"""The open loop against a client that answers at once, late, or not at all."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from loadgen.baskets import Baskets, Line
from loadgen.driver import Times
from loadgen.open_loop import Arrivals, OpenLoop
from loadgen.workload import OrderFeed, Told, Workload
from orchestrator.errors import DefiniteError, IndefiniteError, OverloadedError
from orchestrator.outcome import Handle, Outcome, OutcomeKind

COMMITTED = Outcome("t", "k", OutcomeKind.COMMITTED)


class Client:
    """Answers each submit by `answer(number of the submit)`: an outcome, an error, or None for never; keeps the times."""

    def __init__(self, answer=lambda number: COMMITTED):
        self.answer, self.times, self.handles = answer, [], []

    def submit(self, saga, data, *, key):
        number = len(self.times)
        self.times.append(time.perf_counter())
        answer = self.answer(number)
        handle = Handle(key, number, lambda handle: handle)
        self.handles.append(handle)
        if answer is not None:
            handle.settle(*((answer, None) if isinstance(answer, Outcome) else (None, answer)))
        return handle


def feed(orders=10_000):
    made = Baskets()
    made.add("1", "17850", "France", [Line("22423", 4, 1_275)])
    return OrderFeed(Workload(made, orders=orders, run="run"))


def run(client, *, rate=500.0, duration=0.4, seed=7, patience_s=60.0, orders=10_000, **options):
    work = feed(orders)
    loop = OpenLoop(client, work, [Arrivals(rate, duration, seed)], patience_s=patience_s, **options)
    return loop, loop.run(), work


def intended(seed):
    times: list[int] = []
    run(Client(), seed=seed, watch=lambda key, began, ended: times.append(began))
    return [b - a for a, b in pairwise(times)]


def test_arrivals_follow_from_the_seed_alone():
    assert intended(3) == intended(3)
    assert intended(3) != intended(4)


def test_what_is_not_answered_does_not_slow_arrivals_down():
    client = Client(lambda number: None)
    _, tally, work = run(client, patience_s=0.5)
    assert 120 < len(client.times) < 290  # 200 are expected, their standard deviation is 14
    assert tally.orders.told == {Told.UNKNOWN: len(client.times)}
    assert work.told.count(Told.UNKNOWN) == len(client.times)


def test_what_nobody_answered_is_measured_by_the_time_that_was_waited():
    """A fifth hangs: without it p99 would be that of the others, who are answered at once."""
    client = Client(lambda number: None if number % 5 == 0 else COMMITTED)
    _, tally, _ = run(client, patience_s=0.5)
    unknown = tally.orders.told[Told.UNKNOWN]
    assert unknown >= len(client.times) // 5
    assert tally.censored == unknown
    assert tally.latencies.get_total_count() == len(client.times)
    assert tally.latencies.get_value_at_percentile(99) >= 499_000
    assert tally.latencies.get_value_at_percentile(75) < 400_000
    assert tally.told_in_window == tally.orders.told[Told.COMMITTED]
    assert sum(second.latencies_us.total() for second in tally.seconds.values()) == len(client.times)


def test_the_last_outcome_ends_the_time_and_not_the_end_of_patience():
    _, tally, _ = run(Client(lambda number: None if number == 1 else COMMITTED), rate=200.0, duration=0.1, patience_s=0.5)
    assert tally.orders.told[Told.UNKNOWN] == 1
    assert 0 < tally.wall_s < 0.4


def test_latency_counts_from_the_intended_arrival():
    """One submit that blocks for 0.2 s makes all that should have left meanwhile late, and that is measured."""

    def answer(number):
        if number == 10:
            time.sleep(0.2)
        return COMMITTED

    _, tally, _ = run(Client(answer))
    late = tally.latencies
    assert late.get_max_value() >= 200_000
    assert late.get_value_at_percentile(80) >= 20_000  # 100 of 200 arrived meanwhile


def test_how_late_submits_are_themselves_is_measured():
    """The generator is late where the thread that places was held up; that the deployment takes its time makes nothing late."""

    def answer(number):
        if number == 50:
            time.sleep(0.2)
        raise OverloadedError("full", 50)

    client = Client(answer)
    _, tally, _ = run(client, times=Times(warm_up_s=0.05))
    measured = sum(tally.lateness_us.values())
    assert len(client.times) * 0.6 < measured < len(client.times)
    assert tally.lateness_ms(100) >= 180
    assert tally.lateness_ms(80) >= 20  # 100 of 200 arrived meanwhile
    slow = Client(lambda number: None)
    threading.Timer(0.5, lambda: [handle.settle(COMMITTED, None) for handle in slow.handles]).start()
    _, tally, _ = run(slow, duration=0.2)
    assert tally.latencies.get_max_value() >= 300_000
    assert tally.lateness_ms(50) < 100


def test_refusals_are_counted_by_code_and_not_repeated():
    def answer(number):
        return OverloadedError("full", 50) if number % 2 else COMMITTED

    client = Client(answer)
    loop, tally, work = run(client)
    refused = tally.orders.rejected_by_code["E_OVERLOADED"]
    assert refused == len(client.times) // 2
    assert tally.orders.told.total() == len(client.times)
    assert work.told.count(Told.REJECTED) == refused
    assert sum(second.told[Told.REJECTED] for second in loop.seconds) == refused
    assert sum(second.offered for second in loop.seconds) == len(client.times)


def test_a_refusal_raised_by_submit_is_counted_as_well():
    class Refusing(Client):
        def submit(self, saga, data, *, key):
            raise OverloadedError("full", 50)

    _, tally, _ = run(Refusing(), duration=0.1)
    assert set(tally.orders.told) == {Told.REJECTED}


def test_what_is_told_counts_for_its_own_second_however_late_it_is_noticed():
    """The thread that places is held up from 0.5 s to 1.2 s; what was answered at 0.5 s counts for the first second."""
    client = Client(lambda number: None)
    submit, timers = client.submit, []

    def answered_later(saga, data, *, key):
        handle = submit(saga, data, key=key)
        timers.append(threading.Timer(0.05, handle.settle, (COMMITTED, None)))
        timers[-1].start()
        return handle

    client.submit = answered_later
    held_up = []

    def progress(tally, in_flight):
        if not held_up:
            held_up.append(in_flight)
            time.sleep(0.7)

    loop, tally, _ = run(client, rate=200.0, duration=0.7, progress=progress)
    for timer in timers:
        timer.join()
    assert held_up[0] > 0
    assert {n: second.told for n, second in tally.seconds.items()} == {n: second.told for n, second in enumerate(loop.seconds)}
    assert tally.seconds[0].latencies_us.total() == tally.seconds[0].told[Told.COMMITTED]
    assert tally.orders.told[Told.COMMITTED] == sum(second.told.total() for second in tally.seconds.values())


def test_an_unknown_outcome_is_unknown():
    _, tally, _ = run(Client(lambda number: IndefiniteError("E_UNREACHABLE", "gone")), duration=0.1)
    assert set(tally.orders.told) == {Told.UNKNOWN}
    assert tally.censored == tally.latencies.get_total_count() == tally.orders.told.total()


def test_answers_of_another_thread_end_the_run():
    client = Client(lambda number: None)
    timer = threading.Timer(0.4, lambda: [handle.settle(COMMITTED, None) for handle in client.handles])
    timer.start()
    _, tally, _ = run(client, duration=0.2)
    timer.join()
    assert set(tally.orders.told) == {Told.COMMITTED}


def test_a_feed_that_is_empty_ends_the_run():
    _, tally, _ = run(Client(), orders=20, duration=5.0)
    assert tally.orders.told == {Told.COMMITTED: 20}


@pytest.mark.parametrize(("rate", "duration"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (1, float("inf")), (1e7, 1)])
def test_arrivals_out_of_range_are_refused(rate, duration):
    with pytest.raises(DefiniteError, match="E_INVALID_INPUT"):
        Arrivals(rate, duration)


def test_enough_work_is_expected():
    assert Arrivals(100, 10).expected > 1_000 + 5 * 31


def test_phases_follow_each_other_without_a_pause():
    work = feed()
    loop = OpenLoop(Client(), work, [Arrivals(400, 1.0), Arrivals(100, 1.0)], patience_s=60.0)
    loop.run()
    first, second = (loop.seconds[number].became[Told.COMMITTED] for number in (0, 1))
    assert 300 < first < 500
    assert 50 < second < 150
    assert sum(second.offered for second in loop.seconds) == sum(s.told.total() for s in loop.seconds)
