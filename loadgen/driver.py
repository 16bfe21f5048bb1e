"""A closed loop: a fixed number of transactions in flight, every end of one starts the next; no task per transaction.

Outcomes arrive on the client's own thread, which also submits what follows; the thread that called `run` only sees to
repeats, milestones, progress and patience.
"""

from __future__ import annotations

import heapq
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from loadgen.tally import Tally
from loadgen.workload import PLACE_ORDER, Feed, Told, Work
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError, RefusedForNowError
from orchestrator.outcome import Outcome

__all__ = ["AT_ONCE", "Driver", "Milestone", "Pending", "Port", "Tally", "Times"]
TICK_S = 0.5
REPEAT_S_MIN = 0.05
REPEAT_S_MAX = 2.0
NS = 1_000_000_000
NEVER_NS = 1 << 62


class Pending(Protocol):
    """A submitted transaction."""

    def outcome(self, timeout_s: float | None = None) -> Outcome:
        """Its outcome; raises what the client raises."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have `callback(self)` called once there is an outcome, at once where there is one."""


class Port(Protocol):
    """What a driver needs of a client."""

    def submit(self, saga: str, data: Any, *, key: str) -> Pending:
        """Submit; returns at once."""


@dataclass(frozen=True, slots=True)
class Milestone:
    """Something to do, on the calling thread, once so many transactions have come to an end."""

    at: int
    act: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Times:
    """When a run begins and what of it is measured; several drivers may share them.

    Attributes:
        warm_up_s: what begins in the first seconds is placed, audited and not measured.
        duration_s: nothing is placed after so long, the warm-up included; None: the feed says when.
        begin_ns: of `time.perf_counter_ns`; None: when `run` is called.
    """

    warm_up_s: float = 0.0
    duration_s: float | None = None
    begin_ns: int | None = None


AT_ONCE = Times()


class _Flight(NamedTuple):
    saga: str
    began_ns: int


class Driver:
    """Runs one feed through one client.

    Args:
        port: the client.
        feed: the work.
        concurrency: transactions in flight.
        patience_s: a transaction without an outcome for so long is counted as unknown.
        times: when it begins, and what is measured.
        orders_are: sagas that count as orders: their latencies are kept.
        milestones: by progress.
        watch: told (key, submitted, ended), both ns of `time.perf_counter_ns`, of every outcome, on the client's thread.
        progress: told what has been counted so far (see `Tally.glance`) and the number in flight about twice a second.
    """

    def __init__(
        self,
        port: Port,
        feed: Feed,
        *,
        concurrency: int,
        patience_s: float,
        times: Times = AT_ONCE,
        orders_are: frozenset[str] = frozenset({PLACE_ORDER}),
        milestones: Sequence[Milestone] = (),
        watch: Callable[[str, int, int], None] | None = None,
        progress: Callable[[Tally, int], None] | None = None,
    ) -> None:
        self._port, self._feed, self._concurrency, self._patience_s = port, feed, concurrency, patience_s
        self._milestones = sorted(milestones, key=lambda milestone: milestone.at, reverse=True)
        self._watch, self._progress = watch, progress
        self._times, self._orders_are = times, orders_are
        self._tally = Tally(orders_are)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._flights: dict[int, _Flight] = {}
        self._repeats: dict[int, int] = {}  # by transaction, of those in flight that were repeated
        self._due: list[tuple[float, int]] = []
        self._measured_us, self._warming_us = array("q"), array("q")
        self._begin_ns = self._warm_ns = self._stop_ns = self._ended_ns = 0
        self._done = self._in_window = self._tick = 0
        self._pumping = self._over = self._dry = False
        self._failure: BaseException | None = None

    @property
    def begin_ns(self) -> int:
        """When it began, of `time.perf_counter_ns`."""
        return self._begin_ns

    def run(self) -> Tally:
        """Run to the end of the feed, or of the time.

        Returns:
            What was told; every transaction is committed, aborted, rejected or unknown.

        Raises:
            DefiniteError: what the feed raised; nothing more was placed.
        """
        self._begin()
        try:
            self._pump()
            while not self._over:
                self._wake.wait(self._pause_s())
                self._wake.clear()
                self._see_to()
        finally:
            self._over = True  # also after an interrupt: what is in flight starts nothing new
        self._drain()
        tally = self._tally
        tally.wall_s = (self._ended_ns - self._begin_ns) / NS
        end_ns = min(self._ended_ns, self._stop_ns) if self._dry else self._stop_ns  # waiting for what hangs is a part of it
        tally.window_s = max(0, end_ns - self._warm_ns) / NS
        tally.told_in_window = self._in_window
        if self._failure is not None:
            raise self._failure
        return tally

    def _begin(self) -> None:
        times, now_ns = self._times, time.perf_counter_ns()
        begin_ns = now_ns if times.begin_ns is None else times.begin_ns
        time.sleep(max(0, begin_ns - now_ns) / NS)
        self._begin_ns = self._ended_ns = begin_ns
        self._warm_ns = begin_ns + int(times.warm_up_s * NS)
        self._stop_ns = NEVER_NS if times.duration_s is None else begin_ns + int(times.duration_s * NS)

    def _see_to(self) -> None:
        self._reach_milestones()
        self._repeat_due()
        tick = (time.perf_counter_ns() - self._begin_ns) // int(TICK_S * NS)
        if tick > self._tick:  # what wakes it in between is no reason to report
            self._tick = tick
            self._give_up_old()
            self._drain()

    def _pump(self) -> None:
        """Fill the free places; one thread at a time, so that a client that answers at once does not recurse."""
        with self._lock:
            if self._pumping:
                return
            self._pumping = True
        while (work := self._next()) is not None:
            self._submit(work)

    def _next(self) -> Work | None:
        with self._lock:
            work, now_ns = None, time.perf_counter_ns()
            if len(self._flights) < self._concurrency and not self._over and now_ns < self._stop_ns:
                try:
                    work = self._feed.take()
                    self._dry = work is None
                except BaseException as error:  # noqa: BLE001 - handed to the thread that waits in `run`
                    self._fail(error)
            if work is None:
                self._pumping = False
                if not self._flights:
                    self._end()
            else:
                self._flights[work.number] = _Flight(work.saga, now_ns)
            return work

    def _submit(self, work: Work) -> None:
        try:
            handle = self._port.submit(work.saga, work.input, key=work.key)
            handle.add_done_callback(partial(self._answered, work.number, work.key))
        except RefusedForNowError as error:
            self._repeat_later(work.number, error.retry_after_ms / 1000)
        except IndefiniteError:
            self._repeat_later(work.number, 0.0)
        except DefiniteError as error:
            self._settle(work.number, Told.REJECTED, error.code, time.perf_counter_ns())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits in `run`
            self._fail(error)

    def _answered(self, number: int, key: str, handle: Pending) -> None:
        ended_ns = time.perf_counter_ns()
        try:
            outcome = handle.outcome(timeout_s=0)
        except RefusedForNowError as error:
            self._repeat_later(number, error.retry_after_ms / 1000)
            return
        except IndefiniteError:
            self._repeat_later(number, 0.0)
            return
        except DefiniteError as error:
            told, code = Told.REJECTED, error.code
        else:
            told, code = (Told.COMMITTED, "") if outcome.committed else (Told.ABORTED, outcome.code)
        began_ns = self._settle(number, told, code, ended_ns)
        if self._watch is not None and began_ns:
            self._watch(key, began_ns, ended_ns)
        self._pump()

    def _settle(self, number: int, told: Told, code: str, ended_ns: int) -> int:
        """Book what was told; returns when the transaction was submitted, 0 if it is not in flight."""
        with self._lock:
            flight = self._flights.pop(number, None)
            if flight is None:
                return 0  # a repeat was answered as well, or patience had run out
            self._tally.of(flight.saga).add(told, code)
            if flight.saga in self._orders_are and told is not Told.REJECTED:
                self._measure(flight.began_ns, ended_ns, told)
            if self._repeats:
                self._repeats.pop(number, None)
            if told is not Told.UNKNOWN:
                self._ended_ns = ended_ns
            self._done += 1
            try:
                self._feed.settle(number, told, code)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits in `run`
                self._failure = error
                self._end()
            if self._milestones and self._done >= self._milestones[-1].at:
                self._wake.set()
            return flight.began_ns

    def _measure(self, began_ns: int, ended_ns: int, told: Told) -> None:
        warm = began_ns >= self._warm_ns
        measured = self._measured_us if warm else self._warming_us
        measured.append((ended_ns - began_ns) // 1_000)
        if told is Told.UNKNOWN:
            self._tally.censored += warm  # it was waited for so long at least
        else:
            self._in_window += self._warm_ns <= ended_ns <= self._stop_ns

    def _repeat_later(self, number: int, at_least_s: float) -> None:
        with self._lock:
            if number not in self._flights:
                return
            repeats = self._repeats.get(number, 0)
            self._repeats[number] = repeats + 1
            backoff_s = min(REPEAT_S_MIN * 2 ** min(repeats, 10), REPEAT_S_MAX)
            self._tally.repeats += 1
            heapq.heappush(self._due, (time.monotonic() + max(at_least_s, backoff_s), number))
            if self._due[0][1] == number:  # the others wake nobody: the next one is awaited already
                self._wake.set()

    def _repeat_due(self) -> None:
        while True:
            with self._lock:
                if not self._due or self._due[0][0] > time.monotonic() or self._over:
                    return
                _, number = heapq.heappop(self._due)
                work = self._feed.again(number) if number in self._flights else None
            if work is not None:
                self._submit(work)
                self._pump()

    def _give_up_old(self) -> None:
        now_ns = time.perf_counter_ns()
        oldest_ns = now_ns - int(self._patience_s * NS)
        with self._lock:
            old = [number for number, flight in self._flights.items() if flight.began_ns < oldest_ns]
        for number in old:
            self._settle(number, Told.UNKNOWN, ErrorCode.PENDING, now_ns)
        if old:
            self._pump()

    def _reach_milestones(self) -> None:
        while self._milestones and self._done >= self._milestones[-1].at:
            self._milestones.pop().act()

    def _drain(self) -> None:
        """Enter what was measured since the last time, under the second that is just ending."""
        second = max(0, time.perf_counter_ns() - self._begin_ns - NS // 20) // NS
        with self._lock:
            measured_us, self._measured_us = self._measured_us, array("q")
            warming_us, self._warming_us = self._warming_us, array("q")
            self._tally.note_told(second, len(self._flights))
            shown, in_flight = self._tally.glance(), len(self._flights)  # the client's thread goes on counting
        self._tally.record(measured_us, second, warm=True)
        self._tally.record(warming_us, second, warm=False)
        if self._progress is not None:
            self._progress(shown, in_flight)

    def _pause_s(self) -> float:
        """Until the next half second of the run, or a repeat that is due sooner."""
        tick_s = TICK_S - (time.perf_counter_ns() - self._begin_ns) / NS % TICK_S
        with self._lock:
            return min(tick_s, max(0.0, self._due[0][0] - time.monotonic())) if self._due else tick_s

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._end()

    def _end(self) -> None:
        self._over = True
        self._wake.set()
