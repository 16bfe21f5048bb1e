"""An open loop: transactions arrive when they arrive, however slowly they are answered; Poisson, seeded.

A closed loop slows down with what it measures. Here latency counts from the intended arrival, so that a transaction that
had to wait for its place on the wire has waited (no coordinated omission), and what is refused stays refused.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from loadgen.driver import LATENCY_US_MAX, Pending, Port, Tally
from loadgen.workload import PLACE_ORDER, Feed, Told, Work
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError

PACE_S = 0.002  # what is due within so long leaves together: waking up for each would cost more than sending it
TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How transactions arrive.

    Attributes:
        rate_per_s: mean number in a second.
        duration_s: for how long; what is under way then is waited for.
        seed: of the gaps between them.
    """

    rate_per_s: float
    duration_s: float
    seed: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.rate_per_s <= 1_000_000 and 0 < self.duration_s <= 86_400):  # noqa: PLR2004 - limits, said below
            raise DefiniteError(
                ErrorCode.INVALID_INPUT, f"--rate must be above 0, at most 1,000,000 a second, and --duration above 0, at "
                f"most 86,400 s; got {self.rate_per_s} and {self.duration_s}")

    @property
    def expected(self) -> int:
        """Transactions to have ready: the mean and six standard deviations more."""
        mean = self.rate_per_s * self.duration_s
        return int(mean + 6 * mean ** 0.5) + 1


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
        watch: told (key, intended, ended), both ns of `time.perf_counter_ns`, of every outcome.
        progress: told the tally and the number in flight about twice a second.
    """

    def __init__(
        self, port: Port, feed: Feed, phases: Sequence[Arrivals], *, patience_s: float,
        watch: Callable[[str, int, int], None] | None = None, progress: Callable[[Tally, int], None] | None = None,
    ) -> None:
        self._port, self._feed, self._phases, self._patience_s = port, feed, phases, patience_s
        self._watch, self._progress = watch, progress
        self._tally = Tally()
        self.seconds: list[Second] = []
        self.refused_us = array("q")  # how long each refusal took, from the intended arrival
        self._flights: dict[int, _Flight] = {}
        self._answers: deque[tuple[int, int, Pending]] = deque()  # filled on the client's thread, emptied on the caller's
        self._answered = threading.Event()
        self._began_ns = self._ended_ns = 0
        self._ticked_s = 0.0

    def run(self) -> Tally:
        """Place what arrives, then wait for what is in flight.

        Returns:
            What was told; every transaction is committed, aborted, rejected (E_OVERLOADED among the codes) or unknown.
        """
        self._began_ns = self._ended_ns = time.perf_counter_ns()
        begin_ns = self._began_ns
        for arrivals in self._phases:
            end_ns = begin_ns + int(arrivals.duration_s * 1e9)
            if not self._phase(arrivals, begin_ns, end_ns):
                break
            begin_ns = end_ns
        while self._flights:
            self._answered.wait(PACE_S * 10)
            self._answered.clear()
            self._see_to()
        self._tally.wall_s = (self._ended_ns - self._began_ns) / 1e9
        self._report()
        return self._tally

    def _phase(self, arrivals: Arrivals, begin_ns: int, end_ns: int) -> bool:
        """Place what arrives in one phase; whether there may be another one."""
        draw = random.Random(arrivals.seed)
        next_ns = begin_ns + _gap_ns(draw, arrivals)
        while next_ns <= end_ns:
            now_ns = time.perf_counter_ns()
            while next_ns <= min(now_ns, end_ns):
                work = self._feed.take()
                if work is None:
                    return False
                self._place(work, next_ns)
                next_ns += _gap_ns(draw, arrivals)
            self._see_to()
            time.sleep(max(PACE_S, (next_ns - time.perf_counter_ns()) / 1e9))
        return True

    def _place(self, work: Work, intended_ns: int) -> None:
        self._second(intended_ns).offered += 1
        self._flights[work.number] = _Flight(work.saga, work.key, intended_ns)
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
        if time.monotonic() - self._ticked_s >= TICK_S:
            self._report()

    def _settle(self, number: int, ended_ns: int, told: Told, code: str) -> None:
        flight = self._flights.pop(number, None)
        if flight is None:
            return  # patience had run out
        self._tally.of(flight.saga).add(told, code)
        self._second(ended_ns).told[told] += 1
        self._second(flight.intended_ns).became[told] += 1
        self._ended_ns = max(self._ended_ns, ended_ns)
        if told is Told.REJECTED:
            self.refused_us.append((ended_ns - flight.intended_ns) // 1_000)
        elif told is not Told.UNKNOWN:
            if flight.saga == PLACE_ORDER:
                latency_us = (ended_ns - flight.intended_ns) // 1_000
                self._tally.latencies.record_value(max(1, min(latency_us, LATENCY_US_MAX)))
            if self._watch is not None:
                self._watch(flight.key, flight.intended_ns, ended_ns)
        self._feed.settle(number, told, code)

    def _report(self) -> None:
        self._ticked_s = time.monotonic()
        now_ns = time.perf_counter_ns()
        oldest_ns = now_ns - int(self._patience_s * 1e9)
        for number in [n for n, flight in self._flights.items() if flight.intended_ns < oldest_ns]:
            self._settle(number, now_ns, Told.UNKNOWN, ErrorCode.PENDING)
        if self._progress is not None:
            self._progress(self._tally, len(self._flights))

    def _second(self, at_ns: int) -> Second:
        number = max(0, at_ns - self._began_ns) // 1_000_000_000
        while len(self.seconds) <= number:
            self.seconds.append(Second())
        return self.seconds[number]


def _gap_ns(draw: random.Random, arrivals: Arrivals) -> int:
    return int(draw.expovariate(arrivals.rate_per_s) * 1e9)
