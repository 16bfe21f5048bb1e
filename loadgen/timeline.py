"""A run second by second: what was told, how soon, what it cost each role, and what happened to whom."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from loadgen.tally import Tally
from loadgen.usage import Sample, Usage
from loadgen.workload import Told

NS: Final = 1_000_000_000
APART_NS_MAX: Final = NS  # clocks are read twice a second; two readings further apart do not say what happened in between
LAST_NS_MIN: Final = NS // 10  # of a second that the run did not see the end of: the kernel's clock ticks in hundredths
_KINDS: Final = (Told.COMMITTED, Told.ABORTED, Told.REJECTED, Told.UNKNOWN)


def seconds_of(tally: Tally, usage: Usage, begin_ns: int) -> list[dict[str, Any]]:
    """Every second from the begin to the last outcome, those in which nothing was told included.

    Processors and the busy share are those of the whole second, of the last one those until the clocks were last read; they are
    unknown (nothing by role, None) where the clocks were not read for more than a second.

    Args:
        tally: of the run.
        usage: its clocks.
        begin_ns: of `time.perf_counter_ns`.
    """
    spent = _Spent(usage.samples)
    found = []
    in_flight = 0
    for number in range(max(tally.seconds, default=-1) + 1):
        second = tally.seconds.get(number)
        told = {kind.name.lower(): second.told[kind] if second else 0 for kind in _KINDS}
        in_flight = second.in_flight if second else in_flight
        percentiles = {f"p{at}_ms": second.percentile_ms(at) if second else 0.0 for at in (50, 99)}
        cpu_share, busy = spent.within(begin_ns + number * NS, begin_ns + (number + 1) * NS)
        found.append({
            "at_s": number, "offered": second.offered if second else 0, **told, "in_flight": in_flight, **percentiles,
            "max_ms": second.percentile_ms(100) if second else 0.0,
            "cpu_share": {role: round(share, 3) for role, share in cpu_share.items()},
            "busy": None if busy is None else round(busy, 3)})
    return found


def marks_of(usage: Usage, begin_ns: int, strikes: Sequence[tuple[int, str]] = ()) -> list[dict[str, Any]]:
    """What happened to the deployment: strikes as they were made, else deaths as they were found.

    Args:
        usage: of the run.
        begin_ns: of `time.perf_counter_ns`.
        strikes: when (of the same clock) and what, where faults were planned.
    """
    marks = list(strikes) or [(at_ns, f"{name} gone") for at_ns, name in usage.deaths]
    return [{"at_s": round((at_ns - begin_ns) / NS, 3), "what": what} for at_ns, what in sorted(marks)]


class _Clocks(NamedTuple):
    at_ns: int
    cpu_s: Mapping[str, float]
    busy_s: float  # of the whole machine, as if it were one processor


class _Spent:
    """What was spent between any two moments, by clocks that were read near them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._clocks = list(_added_up(samples))

    def within(self, begin_ns: int, end_ns: int) -> tuple[dict[str, float], float | None]:
        """Processors that each role used, and the share of the machine that was busy."""
        before = self._at(begin_ns)
        after = self._at(min(end_ns, self._clocks[-1].at_ns)) if self._clocks else None
        if before is None or after is None or after.at_ns - begin_ns < LAST_NS_MIN:
            return {}, None
        took_s = (after.at_ns - begin_ns) / NS
        share = {role: (after.cpu_s[role] - before.cpu_s.get(role, 0.0)) / took_s for role in sorted(after.cpu_s)}
        return share, (after.busy_s - before.busy_s) / took_s

    def _at(self, at_ns: int) -> _Clocks | None:
        """The clocks at a moment: between two readings they went evenly."""
        index = bisect_left(self._clocks, at_ns, key=lambda clocks: clocks.at_ns)
        if index < len(self._clocks) and self._clocks[index].at_ns == at_ns:
            return self._clocks[index]
        if not 0 < index < len(self._clocks):
            return None
        before, after = self._clocks[index - 1:index + 1]
        if after.at_ns - before.at_ns > APART_NS_MAX:
            return None
        part = (at_ns - before.at_ns) / (after.at_ns - before.at_ns)
        cpu_s = {role: _between(before.cpu_s.get(role, 0.0), spent_s, part) for role, spent_s in after.cpu_s.items()}
        return _Clocks(at_ns, cpu_s, _between(before.busy_s, after.busy_s, part))


def _added_up(samples: Sequence[Sample]) -> Iterator[_Clocks]:
    busy_s = 0.0
    yield from (_Clocks(sample.at_ns, sample.cpu_s, busy_s) for sample in samples[:1])
    for before, sample in pairwise(samples):
        busy_s += sample.busy * (sample.at_ns - before.at_ns) / NS
        yield _Clocks(sample.at_ns, sample.cpu_s, busy_s)


def _between(before: float, after: float, part: float) -> float:
    return before + part * (after - before)
