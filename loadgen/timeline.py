"""A run second by second: what was told, how soon, what it cost each role, and what happened to whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from loadgen.tally import Tally
from loadgen.usage import Sample, Usage
from loadgen.workload import Told

NS: Final = 1_000_000_000
_KINDS: Final = (Told.COMMITTED, Told.ABORTED, Told.REJECTED, Told.UNKNOWN)


def seconds_of(tally: Tally, usage: Usage, begin_ns: int) -> list[dict[str, Any]]:
    """Every second from the begin to the last outcome, those in which nothing was told included.

    Args:
        tally: of the run.
        usage: its clocks.
        begin_ns: of `time.perf_counter_ns`.
    """
    spent = dict(_spent(usage.samples, begin_ns))
    found = []
    in_flight = 0
    for number in range(max(tally.seconds, default=-1) + 1):
        second = tally.seconds.get(number)
        told = {kind.name.lower(): second.told[kind] if second else 0 for kind in _KINDS}
        in_flight = second.in_flight if second else in_flight
        percentiles = {f"p{at}_ms": second.percentile_ms(at) if second else 0.0 for at in (50, 99)}
        cpu_share, busy = spent.get(number, ({}, None))
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


def _spent(samples: Sequence[Sample], begin_ns: int) -> Iterator[tuple[int, tuple[Mapping[str, float], float]]]:
    """Processors that each role used, and the share of the machine that was busy, by second."""
    last: dict[int, Sample] = {}
    for sample in samples:
        last[max(-1, (sample.at_ns - begin_ns - NS // 20) // NS)] = sample
    for (_, before), (number, after) in pairwise(last.items()):
        took_s = (after.at_ns - before.at_ns) / NS
        roles = before.cpu_s.keys() | after.cpu_s.keys()
        share = {role: (after.cpu_s.get(role, 0.0) - before.cpu_s.get(role, 0.0)) / took_s for role in sorted(roles)}
        yield number, (share, after.busy)
