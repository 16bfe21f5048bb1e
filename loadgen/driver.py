"""A closed loop: a fixed number of transactions in flight, every end of one starts the next; no task per transaction.

Outcomes arrive on the client's own thread, which also submits what follows; the thread that called `run` only sees to
repeats, milestones, progress and patience.
"""

from __future__ import annotations

import heapq
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from hdrh.histogram import HdrHistogram

from loadgen.workload import PLACE_ORDER, Feed, Told, Work
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError, OverloadedError
from orchestrator.outcome import Outcome

TICK_S = 0.5
REPEAT_S_MIN = 0.05
REPEAT_S_MAX = 2.0
LATENCY_US_MAX = 3_600_000_000
LATENCY_DIGITS = 3


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


@dataclass(slots=True)
class Counts:
    """What was told of one sort of transactions, and why where it did not commit."""

    told: Counter[Told] = field(default_factory=Counter)
    aborted_by_code: Counter[str] = field(default_factory=Counter)
    rejected_by_code: Counter[str] = field(default_factory=Counter)

    def add(self, told: Told, code: str, times: int = 1) -> None:
        """Count one; -1 takes it back."""
        self.told[told] += times
        if told is Told.ABORTED:
            self.aborted_by_code[code] += times
        elif told is Told.REJECTED:
            self.rejected_by_code[code] += times


@dataclass(slots=True)
class Tally:
    """What came of a run; latencies are in microseconds, of orders that have an outcome, repeats included."""

    by_saga: dict[str, Counts] = field(default_factory=dict)
    latencies: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, LATENCY_US_MAX, LATENCY_DIGITS))
    wall_s: float = 0.0
    repeats: int = 0

    def of(self, saga: str) -> Counts:
        """The counts of one saga."""
        return self.by_saga.setdefault(saga, Counts())

    @property
    def orders(self) -> Counts:
        """The counts of the orders."""
        return self.of(PLACE_ORDER)


@dataclass(frozen=True, slots=True)
class Milestone:
    """Something to do, on the calling thread, once so many transactions have come to an end."""

    at: int
    act: Callable[[], None]


@dataclass(slots=True)
class _Flight:
    saga: str
    began_ns: int
    repeats: int = 0


class Driver:
    """Runs one feed through one client.

    Args:
        port: the client.
        feed: the work.
        concurrency: transactions in flight.
        patience_s: a transaction without an outcome for so long is counted as unknown.
        milestones: by progress.
        watch: told (key, submitted, ended), both ns of `time.perf_counter_ns`, of every outcome, on the client's thread.
        progress: told the tally and the number in flight about twice a second.
    """

    def __init__(
        self,
        port: Port,
        feed: Feed,
        *,
        concurrency: int,
        patience_s: float,
        milestones: Sequence[Milestone] = (),
        watch: Callable[[str, int, int], None] | None = None,
        progress: Callable[[Tally, int], None] | None = None,
    ) -> None:
        self._port, self._feed, self._concurrency, self._patience_s = port, feed, concurrency, patience_s
        self._milestones = sorted(milestones, key=lambda milestone: milestone.at, reverse=True)
        self._watch, self._progress = watch, progress
        self._tally = Tally()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._flights: dict[int, _Flight] = {}
        self._due: list[tuple[float, int]] = []
        self._latencies_us = array("q")
        self._done = 0
        self._ended_s = 0.0
        self._pumping = self._over = False
        self._failure: BaseException | None = None

    def run(self) -> Tally:
        """Run to the end of the feed.

        Returns:
            What was told; every transaction is committed, aborted, rejected or unknown.

        Raises:
            DefiniteError: what the feed raised; nothing more was placed.
        """
        self._ended_s = began_s = time.perf_counter()
        try:
            self._pump()
            while not self._over:
                self._wake.wait(self._pause_s())
                self._wake.clear()
                self._see_to()
        finally:
            self._over = True  # also after an interrupt: what is in flight starts nothing new
        self._tally.wall_s = self._ended_s - began_s
        self._drain()
        if self._failure is not None:
            raise self._failure
        return self._tally

    def _see_to(self) -> None:
        self._reach_milestones()
        self._repeat_due()
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
            work = None
            if len(self._flights) < self._concurrency and not self._over:
                work = self._feed.take()
            if work is None:
                self._pumping = False
                if not self._flights:
                    self._end()
            else:
                self._flights[work.number] = _Flight(work.saga, time.perf_counter_ns())
            return work

    def _submit(self, work: Work) -> None:
        try:
            handle = self._port.submit(work.saga, work.input, key=work.key)
            handle.add_done_callback(partial(self._answered, work.number, work.key))
        except OverloadedError as error:
            self._repeat_later(work.number, error.retry_after_ms / 1000)
        except IndefiniteError:
            self._repeat_later(work.number, 0.0)
        except DefiniteError as error:
            self._settle(work.number, Told.REJECTED, error.code)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits in `run`
            self._fail(error)

    def _answered(self, number: int, key: str, handle: Pending) -> None:
        ended_ns = time.perf_counter_ns()
        try:
            outcome = handle.outcome(timeout_s=0)
        except OverloadedError as error:
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

    def _settle(self, number: int, told: Told, code: str, ended_ns: int = 0) -> int:
        """Book what was told; returns when the transaction was submitted, 0 if it is not in flight."""
        with self._lock:
            flight = self._flights.pop(number, None)
            if flight is None:
                return 0  # a repeat was answered as well, or patience had run out
            self._tally.of(flight.saga).add(told, code)
            if ended_ns and flight.saga == PLACE_ORDER:
                self._latencies_us.append((ended_ns - flight.began_ns) // 1000)
            self._done += 1
            try:
                self._feed.settle(number, told, code)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits in `run`
                self._failure = error
                self._end()
            if self._milestones and self._done >= self._milestones[-1].at:
                self._wake.set()
            return flight.began_ns

    def _repeat_later(self, number: int, at_least_s: float) -> None:
        with self._lock:
            flight = self._flights.get(number)
            if flight is None:
                return
            backoff_s = min(REPEAT_S_MIN * 2 ** min(flight.repeats, 10), REPEAT_S_MAX)
            flight.repeats += 1
            self._tally.repeats += 1
            heapq.heappush(self._due, (time.monotonic() + max(at_least_s, backoff_s), number))
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
        oldest_ns = time.perf_counter_ns() - int(self._patience_s * 1e9)
        with self._lock:
            old = [number for number, flight in self._flights.items() if flight.began_ns < oldest_ns]
        for number in old:
            self._settle(number, Told.UNKNOWN, ErrorCode.PENDING)
        if old:
            self._pump()

    def _reach_milestones(self) -> None:
        while self._milestones and self._done >= self._milestones[-1].at:
            self._milestones.pop().act()

    def _drain(self) -> None:
        with self._lock:
            latencies, self._latencies_us = self._latencies_us, array("q")
        for latency in latencies:
            self._tally.latencies.record_value(max(1, min(latency, LATENCY_US_MAX)))
        if self._progress is not None:
            self._progress(self._tally, len(self._flights))

    def _pause_s(self) -> float:
        with self._lock:
            return min(TICK_S, max(0.0, self._due[0][0] - time.monotonic())) if self._due else TICK_S

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._ended_s = time.perf_counter()
        self._over = True
        self._wake.set()
