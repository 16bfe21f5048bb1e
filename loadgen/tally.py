"""What a driver counts: outcomes by saga and code, latencies with three digits, and both by second; tallies add up."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from hdrh.histogram import HdrHistogram

from loadgen.workload import PLACE_ORDER, Told

LATENCY_US_MAX: Final = 3_600_000_000
LATENCY_DIGITS: Final = 3
_FINE_BITS: Final = 11  # as many as a histogram of three digits keeps: equal to it in one bucket, so nothing is lost
_COARSE_BITS: Final = 8  # of the curve over time: within 1 %, for what is cut off is less than 1 of 128


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

    def take(self, other: Counts) -> None:
        """Add another one's counts."""
        self.told.update(other.told)
        self.aborted_by_code.update(other.aborted_by_code)
        self.rejected_by_code.update(other.rejected_by_code)


@dataclass(slots=True)
class Second:
    """One second of a run, by when it was told.

    Attributes:
        told: of all sagas.
        latencies_us: how often each latency, rounded down to within 1 %.
        in_flight: at its end.
        offered: transactions that were to arrive in it, of an open loop.
    """

    told: Counter[Told] = field(default_factory=Counter)
    latencies_us: Counter[int] = field(default_factory=Counter)
    in_flight: int = 0
    offered: int = 0

    def percentile_ms(self, percent: float) -> float:
        """The latency that so many percent of the second's orders did not exceed; 0 where there was none."""
        return _percentile_ms(self.latencies_us, percent)


@dataclass(slots=True)
class Tally:
    """What came of a run.

    Attributes:
        orders_are: sagas that count as orders.
        by_saga: all that was told, the warm-up included.
        latencies: microseconds from submit (or intended arrival) to outcome of the orders that began after the warm-up;
            where no outcome came, the time that was waited for it.
        censored: how many of them are such waits: lower bounds.
        lateness_us: how often an open loop submitted so late after the intended arrival, the warm-up left out.
        seconds: by second of the run, the warm-up included.
        wall_s: from the first submit to the last outcome.
        window_s: the time that throughput is counted over: after the warm-up, until the time was up or the last outcome.
        told_in_window: orders that were told an outcome in that part.
        repeats: submits that were made again because their outcome was unknown or the deployment full.
    """

    orders_are: frozenset[str] = frozenset({PLACE_ORDER})
    by_saga: dict[str, Counts] = field(default_factory=dict)
    latencies: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, LATENCY_US_MAX, LATENCY_DIGITS))
    seconds: dict[int, Second] = field(default_factory=dict)
    wall_s: float = 0.0
    window_s: float = 0.0
    told_in_window: int = 0
    repeats: int = 0
    censored: int = 0
    lateness_us: Counter[int] = field(default_factory=Counter)
    _noted: Counter[Told] = field(default_factory=Counter)

    def of(self, saga: str) -> Counts:
        """The counts of one saga."""
        found = self.by_saga.get(saga)
        if found is None:
            found = self.by_saga[saga] = Counts()
        return found

    @property
    def orders(self) -> Counts:
        """The counts of the orders."""
        found = Counts()
        for saga in self.orders_are & self.by_saga.keys():
            found.take(self.by_saga[saga])
        return found

    @property
    def orders_per_s(self) -> float:
        """Orders with an outcome by time, the warm-up left out."""
        return self.told_in_window / self.window_s if self.window_s > 0 else 0.0

    def record(self, latencies_us: array[int], second: int, *, warm: bool) -> None:
        """Enter latencies of orders.

        Args:
            latencies_us: in microseconds.
            second: when they were told.
            warm: whether they began after the warm-up; else they show in that second only.
        """
        shown = self.second(second).latencies_us
        for latency_us, times in Counter([_rounded(value, _FINE_BITS) for value in latencies_us]).items():
            shown[_rounded(latency_us, _COARSE_BITS)] += times
            if warm:
                self.latencies.record_value(latency_us, times)

    def record_lateness(self, late_us: array[int]) -> None:
        """Enter how late the generator itself was, by transaction, in microseconds."""
        self.lateness_us.update([_rounded(value, _FINE_BITS) for value in late_us])

    def lateness_ms(self, percent: float) -> float:
        """What so many percent of the transactions were not submitted later than; 0 in a closed loop, where nothing is due."""
        return _percentile_ms(self.lateness_us, percent)

    def note_told(self, second: int, in_flight: int) -> None:
        """Enter what was told since the last time as told in that second."""
        told: Counter[Told] = Counter()
        for counts in self.by_saga.values():
            told.update(counts.told)
        found = self.second(second)
        found.told.update(told - self._noted)
        found.in_flight = in_flight
        self._noted = told

    def second(self, number: int) -> Second:
        """One second of the run, from 0."""
        found = self.seconds.get(number)
        if found is None:
            found = self.seconds[number] = Second()
        return found

    def glance(self) -> Tally:
        """What a person is shown meanwhile: a copy of the counts, and the last two seconds."""
        last, counts = max(self.seconds, default=0), {saga: Counts() for saga in self.by_saga}
        for saga, mine in counts.items():
            mine.take(self.by_saga[saga])
        return Tally(
            self.orders_are, counts, seconds={n: self.seconds[n] for n in (last - 1, last) if n in self.seconds},
            repeats=self.repeats)

    def take(self, other: Tally) -> None:
        """Add what another driver counted in the same time."""
        self.orders_are |= other.orders_are
        for saga, counts in other.by_saga.items():
            self.of(saga).take(counts)
        self.latencies.add(other.latencies)
        for number, second in other.seconds.items():
            mine = self.second(number)
            mine.told.update(second.told)
            mine.latencies_us.update(second.latencies_us)
            mine.in_flight += second.in_flight
            mine.offered += second.offered
        self.wall_s = max(self.wall_s, other.wall_s)
        self.window_s = max(self.window_s, other.window_s)
        self.told_in_window += other.told_in_window
        self.repeats += other.repeats
        self.censored += other.censored
        self.lateness_us.update(other.lateness_us)

    def to_plain(self) -> dict[str, Any]:
        """For another process; see `from_plain`."""
        return {
            "orders_are": sorted(self.orders_are), "latencies": self.latencies.encode().decode(),
            "by_saga": {saga: [_plain(counts.told), counts.aborted_by_code, counts.rejected_by_code]
                        for saga, counts in self.by_saga.items()},
            "seconds": [[number, _plain(second.told), list(second.latencies_us.items()), second.in_flight, second.offered]
                        for number, second in self.seconds.items()],
            "wall_s": self.wall_s, "window_s": self.window_s, "told_in_window": self.told_in_window,
            "repeats": self.repeats, "censored": self.censored,
            "lateness_us": list(self.lateness_us.items())}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Tally:
        """What `to_plain` made, perhaps by way of JSON."""
        tally = cls(
            frozenset(plain["orders_are"]), latencies=HdrHistogram.decode(plain["latencies"]), wall_s=plain["wall_s"],
            window_s=plain["window_s"], told_in_window=plain["told_in_window"], repeats=plain["repeats"],
            censored=plain["censored"], lateness_us=Counter(dict(plain["lateness_us"])))
        for saga, (told, aborted, rejected) in plain["by_saga"].items():
            tally.by_saga[saga] = Counts(_told(told), Counter(aborted), Counter(rejected))
        for number, told, latencies_us, in_flight, offered in plain["seconds"]:
            tally.seconds[number] = Second(_told(told), Counter(dict(latencies_us)), in_flight, offered)
        return tally


def added_up(tallies: Iterable[Tally]) -> Tally:
    """What several drivers counted in the same time."""
    whole = Tally(frozenset())
    for tally in tallies:
        whole.take(tally)
    return whole


def _percentile_ms(values_us: Counter[int], percent: float) -> float:
    wanted = values_us.total() * percent / 100
    seen = 0
    for value_us in sorted(values_us):
        seen += values_us[value_us]
        if seen >= wanted:
            return value_us / 1_000
    return 0.0


def _rounded(value: int, bits: int) -> int:
    """The value with its first so many bits, at least 1 and at most `LATENCY_US_MAX`."""
    shift = value.bit_length() - bits
    if shift <= 0:
        return max(value, 1)
    return min(value, LATENCY_US_MAX) >> shift << shift


def _plain(told: Counter[Told]) -> dict[str, int]:
    return {kind.name: number for kind, number in told.items()}


def _told(plain: dict[str, int]) -> Counter[Told]:
    return Counter({Told[name]: number for name, number in plain.items()})
