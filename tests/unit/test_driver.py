"""The driver against a client that implements its port: at once, on a thread of its own, or not at all."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter

import pytest

from loadgen.baskets import Baskets, Line
from loadgen.driver import Driver, Milestone, Times
from loadgen.returns import Return
from loadgen.workload import RETURN_ITEMS, BooksFeed, OrderFeed, Told, Workload
from orchestrator.errors import DefiniteError, IndefiniteError, OverloadedError
from orchestrator.outcome import Handle, Outcome, OutcomeKind

COMMITTED = Outcome("t", "k", OutcomeKind.COMMITTED)
SHORT = Outcome("t", "k", OutcomeKind.ABORTED, code="OUT_OF_STOCK")


class ImmediateClient:
    """Answers within `submit`, by a script: per key a list of answers; COMMITTED when there is none (left)."""

    def __init__(self, script=None):
        self.script = {key: list(answers) for key, answers in (script or {}).items()}
        self.submitted = []

    def answer(self, key):
        answers = self.script.get(key)
        return answers.pop(0) if answers else COMMITTED

    def submit(self, saga, data, *, key):
        self.submitted.append(key)
        handle = Handle(key, 0, lambda handle: handle)
        self.settle(handle)
        return handle

    def settle(self, handle):
        answer = self.answer(handle.key)
        if answer is not None:
            handle.settle(*((answer, None) if isinstance(answer, Outcome) else (None, answer)))


class ThreadClient(ImmediateClient):
    """Answers from a thread of its own, in order, as the real client does."""

    def __init__(self, script=None):
        super().__init__(script)
        self.waiting = queue.SimpleQueue()
        self.in_flight = self.most_in_flight = 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while (handle := self.waiting.get()) is not None:
            self.in_flight -= 1
            super().settle(handle)

    def settle(self, handle):
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.waiting.put(handle)

    def close(self):
        self.waiting.put(None)
        self.thread.join()


def workload(orders, returns=()):
    made = Baskets()
    made.add("1", "17850", "France", [Line("22423", 4, 1_275)])
    return Workload(made, orders=orders, run="run", returns=returns)


def run(client, load, concurrency=4, patience_s=60.0, **options):
    feed = OrderFeed(load)
    return Driver(client, feed, concurrency=concurrency, patience_s=patience_s, **options).run(), feed


def test_a_client_that_answers_at_once_does_not_recurse():
    tally, feed = run(ImmediateClient(), workload(5_000))
    assert tally.orders.told == {Told.COMMITTED: 5_000}
    assert set(feed.told) == {Told.COMMITTED}
    assert tally.latencies.get_total_count() == 5_000


def test_as_many_are_in_flight_as_asked_for_and_no_more():
    client = ThreadClient()
    tally, _ = run(client, workload(500), concurrency=7)
    client.close()
    assert tally.orders.told[Told.COMMITTED] == 500
    assert client.most_in_flight <= 7
    assert Counter(client.submitted).most_common(1)[0][1] == 1


def test_aborts_are_counted_by_code():
    tally, feed = run(ImmediateClient({"run-1-1": [SHORT], "run-1-3": [SHORT]}), workload(5))
    assert tally.orders.aborted_by_code == {"OUT_OF_STOCK": 2}
    assert list(feed.told) == [1, 2, 1, 2, 1]


def test_an_unknown_outcome_is_asked_again_by_the_same_key():
    lost = IndefiniteError("E_UNREACHABLE", "gone")
    client = ImmediateClient({"run-1-0": [lost, lost, SHORT]})
    tally, feed = run(client, workload(2))
    assert client.submitted.count("run-1-0") == 3
    assert list(feed.told) == [Told.ABORTED, Told.COMMITTED]
    assert tally.repeats == 2


def test_refusals_do_not_make_it_report_more_than_twice_a_second():
    """Each refusal wakes the thread that repeats; what it shows and samples keeps to the clock."""

    class Refusing(ThreadClient):
        def answer(self, key):
            return OverloadedError("full", 1) if time.monotonic() < until_s else COMMITTED

    seen = []
    client, until_s = Refusing(), time.monotonic() + 0.7
    tally, _ = run(client, workload(40), concurrency=40, progress=lambda tally, in_flight: seen.append(tally.repeats))
    client.close()
    assert tally.orders.told == {Told.COMMITTED: 40}
    assert tally.repeats >= 80
    assert len(seen) <= 4  # at 0.5 s, 1.0 s, perhaps 1.5 s, and at the end


def test_a_refusal_that_may_be_repeated_sooner_than_others_is():
    client = ImmediateClient({"run-1-0": [OverloadedError("full", 400)], "run-1-1": [OverloadedError("full", 1)]})
    run(client, workload(2))
    assert client.submitted == ["run-1-0", "run-1-1", "run-1-1", "run-1-0"]


def test_an_overloaded_deployment_is_given_the_time_it_asks_for():
    client = ImmediateClient({"run-1-0": [OverloadedError("full", 1)]})
    tally, _ = run(client, workload(1))
    assert client.submitted == ["run-1-0", "run-1-0"]
    assert tally.orders.told == {Told.COMMITTED: 1}


def test_what_is_refused_at_the_border_is_rejected_not_aborted():
    class Refusing(ImmediateClient):
        def submit(self, saga, data, *, key):
            raise DefiniteError("E_INVALID_INPUT", "no")

    tally, feed = run(Refusing(), workload(3))
    assert tally.orders.rejected_by_code == {"E_INVALID_INPUT": 3}
    assert set(feed.told) == {Told.REJECTED}


def test_patience_ends_and_the_outcome_stays_unknown():
    tally, feed = run(ImmediateClient({"run-1-1": [None]}), workload(4), concurrency=1, patience_s=0.2)
    assert tally.orders.told == {Told.COMMITTED: 3, Told.UNKNOWN: 1}
    assert list(feed.told) == [1, 4, 1, 1]
    assert (tally.latencies.get_total_count(), tally.censored, tally.told_in_window) == (4, 1, 3)
    assert tally.latencies.get_max_value() >= 199_000


def test_throughput_is_over_the_time_up_to_the_last_outcome_and_not_up_to_the_end_of_patience():
    client = ImmediateClient({"run-1-1": [None]})
    tally, _ = run(client, workload(40), patience_s=0.3, times=Times(duration_s=60))
    assert tally.orders.told == {Told.COMMITTED: 39, Told.UNKNOWN: 1}
    assert 0 < tally.wall_s == tally.window_s < 0.4
    assert tally.orders_per_s > 39 / 0.4


def test_time_in_which_a_deployment_that_hangs_is_waited_for_counts_up_to_the_end_of_the_duration():
    script = {f"run-1-{number}": [None] for number in range(4, 8)}
    tally, _ = run(ImmediateClient(script), workload(40), patience_s=0.3, times=Times(duration_s=0.4))
    assert tally.orders.told == {Told.COMMITTED: 4, Told.UNKNOWN: 4}
    assert tally.window_s == pytest.approx(0.4)
    assert tally.wall_s < 0.4


def test_what_began_in_the_warm_up_and_is_never_answered_is_not_measured():
    tally, _ = run(ImmediateClient({"run-1-0": [None]}), workload(1), patience_s=0.2, times=Times(warm_up_s=60))
    assert tally.orders.told == {Told.UNKNOWN: 1}
    assert (tally.latencies.get_total_count(), tally.censored) == (0, 0)


def test_returns_are_counted_apart_from_orders():
    tally, _ = run(ImmediateClient(), workload(3, [Return("C1", 1, 0, (Line("22423", 1, 1_275),))]))
    assert tally.orders.told == {Told.COMMITTED: 3}
    assert tally.of(RETURN_ITEMS).told == {Told.COMMITTED: 3}
    assert tally.latencies.get_total_count() == 3


def test_milestones_are_reached_on_the_calling_thread():
    client, reached = ThreadClient(), []
    milestones = [Milestone(at, lambda at=at: reached.append((at, threading.current_thread()))) for at in (900, 50)]
    run(client, workload(1_000), milestones=milestones)
    client.close()
    assert reached == [(50, threading.current_thread()), (900, threading.current_thread())]


def test_watchers_see_every_outcome_with_its_times():
    seen = []
    run(ImmediateClient(), workload(3), watch=lambda key, began, ended: seen.append((key, began <= ended)))
    assert seen == [("run-1-0", True), ("run-1-1", True), ("run-1-2", True)]


def test_a_bug_in_the_client_ends_the_run_with_its_error():
    class Broken(ImmediateClient):
        def submit(self, saga, data, *, key):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Broken(), workload(3))


def test_a_feed_that_gives_up_ends_the_run_with_its_error():
    client = ImmediateClient({"run-books-0-0": [DefiniteError("E_UNKNOWN_SAGA", "no")]})
    with pytest.raises(DefiniteError, match="E_UNKNOWN_SAGA"):
        Driver(client, BooksFeed("run", [{}, {}]), concurrency=1, patience_s=60).run()
    assert client.submitted == ["run-books-0-0"]


def test_a_feed_that_fails_while_answers_come_ends_the_run_with_its_error():
    class Failing(OrderFeed):
        def take(self):
            if len(self.told) == 5:
                raise ZeroDivisionError
            return super().take()

    client = ThreadClient()
    driver, ended = Driver(client, Failing(workload(9)), concurrency=2, patience_s=60), threading.Event()

    def end():
        with pytest.raises(ZeroDivisionError):
            driver.run()
        ended.set()

    threading.Thread(target=end, daemon=True).start()
    assert ended.wait(10)
    client.close()
    assert len(client.submitted) == 5
