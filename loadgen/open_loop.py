"""An open loop: transactions arrive when they arrive, however slowly they are answered.

A closed loop slows down with what it measures. Here latency counts from the intended arrival, so that a transaction that
had to wait for its place on the wire has waited (no coordinated omission), and what is refused stays refused.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from loadgen.arrivals import NS, Arrivals, Schedule
from loadgen.driver import AT_ONCE, Pending, Port, Times
from loadgen.tally import Tally
from loadgen.workload import PLACE_ORDER, Feed, Told, Work
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError

__all__ = ["Arrivals", "OpenLoop", "Second"]
PACE_S = 0.002  # what is due within so long leaves together: waking up for each would cost more than sending it
TICK_S = 0.5


@dataclass(slots=True)
class Second:
    """One second of a run.

    Attributes:
        offered: transactions that arrived in it.
        became: what became of those, whenever that was told.
        told: what was told in it, whenever it had arrived.
    """

    offered: int = 0
    became: Counter[Told] = field(default_factory=Counter)
    told: Counter[Told] = field(default_factory=Counter)


@dataclass(slots=True)
class _Flight:
    saga: str
    key: str
    intended_ns: int


class OpenLoop:
    """Runs one feed through one client at a rate of its own.

    Args:
        port: the client.
        feed: the work; the run ends early where it has no more.
        phases: how they arrive; one phase after the other, without a pause.
        patience_s: a transaction without an outcome for so long is counted as unknown.
        times: when it begins, and what is measured; how long it lasts is for the phases to say.
        orders_are: sagas that count as orders: their latencies are kept.
        watch: told (key, intended, ended), both ns of `time.perf_counter_ns`, of every outcome.
        progress: told the tally and the number in flight about twice a second.
    """

    def __init__(
        self, port: Port, feed: Feed, phases: Sequence[Schedule], *, patience_s: float,
        times: Times = AT_ONCE, orders_are: frozenset[str] = frozenset({PLACE_ORDER}),
        watch: Callable[[str, int, int], None] | None = None, progress: Callable[[Tally, int], None] | None = None,
    ) -> None:
        self._port, self._feed, self._phases, self._patience_s = port, feed, phases, patience_s
        self._watch, self._progress = watch, progress
        self._times, self._orders_are = times, orders_are
        self._tally = Tally(orders_are)
        self._latencies_us: dict[tuple[int, bool], array[int]] = {}  # not entered yet, by second and whether it is measured
        self._late_us = array("q")  # not entered yet either
        self.seconds: list[Second] = []
        self.refused_us = array("q")  # how long each refusal took, from the intended arrival
        self._flights: dict[int, _Flight] = {}
        self._answers: deque[tuple[int, int, Pending]] = deque()  # filled on the client's thread, emptied on the caller's
        self._answered = threading.Event()
        self._began_ns = self._warm_ns = self._stop_ns = self._ended_ns = 0
        self._ticked_ns = 0

    @property
    def begin_ns(self) -> int:
        """When it began, of `time.perf_counter_ns`."""
        return self._began_ns

    def run(self) -> Tally:
        """Place what arrives, then wait for what is in flight.

        Returns:
            What was told; every transaction is committed, aborted, rejected (E_OVERLOADED among the codes) or unknown.
        """
        self._begin()
        begin_ns = self._began_ns
        for arrivals in self._phases:
            end_ns = begin_ns + int(arrivals.duration_s * NS)
            if not self._phase(arrivals, begin_ns):
                break
            begin_ns = end_ns
        while self._flights:
            self._answered.wait(PACE_S * 10)
            self._answered.clear()
            self._see_to()
        self._report()
        self._tally.wall_s = (self._ended_ns - self._began_ns) / NS
        self._tally.window_s = max(0, self._stop_ns - self._warm_ns) / NS
        for number, second in enumerate(self.seconds):
            self._tally.second(number).offered = second.offered
        return self._tally

    def _begin(self) -> None:
        times, now_ns = self._times, time.perf_counter_ns()
        self._began_ns = self._ended_ns = self._ticked_ns = now_ns if times.begin_ns is None else times.begin_ns
        self._warm_ns = self._began_ns + int(times.warm_up_s * NS)
        self._stop_ns = self._began_ns + int(sum(arrivals.duration_s for arrivals in self._phases) * NS)
        time.sleep(max(0, self._began_ns - now_ns) / NS)

    def _phase(self, arrivals: Schedule, begin_ns: int) -> bool:
        """Place what arrives in one phase; whether there may be another one."""
        now_ns = time.perf_counter_ns()
        for offset_ns in arrivals.offsets():
            next_ns = begin_ns + offset_ns
            while next_ns > now_ns:
                self._see_to()
                time.sleep(min(TICK_S, max(PACE_S, (next_ns - time.perf_counter_ns()) / NS)))
                now_ns = time.perf_counter_ns()
            work = self._feed.take()
            if work is None:
                self._stop_ns = min(self._stop_ns, next_ns)
                return False
            self._place(work, next_ns)
        return True

    def _place(self, work: Work, intended_ns: int) -> None:
        self._second(intended_ns).offered += 1
        self._flights[work.number] = _Flight(work.saga, work.key, intended_ns)
        if intended_ns >= self._warm_ns:
            self._late_us.append((time.perf_counter_ns() - intended_ns) // 1_000)
        try:
            handle = self._port.submit(work.saga, work.input, key=work.key)
        except DefiniteError as error:
            self._settle(work.number, time.perf_counter_ns(), Told.REJECTED, error.code)
        except IndefiniteError as error:
            self._settle(work.number, time.perf_counter_ns(), Told.UNKNOWN, error.code)
        else:
            handle.add_done_callback(partial(self._done, work.number))

    def _done(self, number: int, handle: Pending) -> None:
        self._answers.append((number, time.perf_counter_ns(), handle))
        self._answered.set()

    def _see_to(self) -> None:
        while self._answers:
            number, ended_ns, handle = self._answers.popleft()
            try:
                outcome = handle.outcome(timeout_s=0)
            except DefiniteError as error:
                self._settle(number, ended_ns, Told.REJECTED, error.code)
            except IndefiniteError as error:
                self._settle(number, ended_ns, Told.UNKNOWN, error.code)
            else:
                told = Told.COMMITTED if outcome.committed else Told.ABORTED
                self._settle(number, ended_ns, told, outcome.code)
        if time.perf_counter_ns() - self._ticked_ns >= TICK_S * NS:
            self._report()

    def _settle(self, number: int, ended_ns: int, told: Told, code: str) -> None:
        flight = self._flights.pop(number, None)
        if flight is None:
            return  # patience had run out
        self._tally.of(flight.saga).add(told, code)
        self._second(ended_ns).told[told] += 1
        self._second(flight.intended_ns).became[told] += 1
        if told is not Told.UNKNOWN:
            self._ended_ns = max(self._ended_ns, ended_ns)
        if told is Told.REJECTED:
            self.refused_us.append((ended_ns - flight.intended_ns) // 1_000)
        elif flight.saga in self._orders_are:
            self._measure(flight.intended_ns, ended_ns, told)
        if self._watch is not None and told in (Told.COMMITTED, Told.ABORTED):
            self._watch(flight.key, flight.intended_ns, ended_ns)
        self._feed.settle(number, told, code)

    def _measure(self, intended_ns: int, ended_ns: int, told: Told) -> None:
        """Enter a latency; of an order without an outcome what was waited, for left out it would flatter every percentile."""
        warm = intended_ns >= self._warm_ns
        measured = self._latencies_us.setdefault((self._number(ended_ns), warm), array("q"))
        measured.append((ended_ns - intended_ns) // 1_000)
        if told is Told.UNKNOWN:
            self._tally.censored += warm
        else:
            self._tally.told_in_window += self._warm_ns <= ended_ns <= self._stop_ns

    def _report(self) -> None:
        """Give up what is too old, and enter what was measured, each under the second in which it was told."""
        now_ns = time.perf_counter_ns()
        self._ticked_ns = now_ns - (now_ns - self._began_ns) % int(TICK_S * NS)
        oldest_ns = now_ns - int(self._patience_s * NS)
        for number in [n for n, flight in self._flights.items() if flight.intended_ns < oldest_ns]:
            self._settle(number, now_ns, Told.UNKNOWN, ErrorCode.PENDING)
        measured, self._latencies_us = self._latencies_us, {}
        for (second, warm), latencies_us in measured.items():
            self._tally.record(latencies_us, second, warm=warm)
        late_us, self._late_us = self._late_us, array("q")
        self._tally.record_lateness(late_us)
        self._tally.second(self._number(now_ns - NS // 20)).in_flight = len(self._flights)  # of the second that is just ending
        if self._progress is not None:
            self._progress(self._tally, len(self._flights))

    def _second(self, at_ns: int) -> Second:
        number = self._number(at_ns)
        while len(self.seconds) <= number:
            self.seconds.append(Second(told=self._tally.second(len(self.seconds)).told))  # one count for both
        return self.seconds[number]

    def _number(self, at_ns: int) -> int:
        return max(0, at_ns - self._began_ns) // NS
