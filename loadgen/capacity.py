"""The highest rate at which a deployment keeps its latency: open loops at rates that close in on it from both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from math import inf, sqrt
from typing import Any, Final

from rich.console import Console

from loadgen.arrivals import RATE_MAX, Arrivals
from loadgen.place import Placed
from loadgen.plan import LoadPlan
from loadgen.workload import Told
from orchestrator.errors import DefiniteError, ErrorCode

STEP_S: Final = 5.0  # that are measured, where --duration says nothing
CLOSE: Final = 1.05  # the search ends where the lowest rate that fails is within 5 % of the highest that holds
LOWER: Final = 0.95  # of the rate, where it does not hold a second time
RATE_MIN: Final = 2.0
ORDERS_MIN: Final = 100  # of a step, which lasts longer if need be: fewer have no p99
DEVIATIONS: Final = 3  # by which as many as expected may be missing by chance

Run = Callable[[LoadPlan], Placed]


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that was tried.

    Attributes:
        rate_per_s: that was asked for; 0: a closed loop, to know where to begin.
        told_per_s: orders that were told an outcome.
        p99_ms: from the intended arrival; of the closed loop, from the submit.
        refused: orders that were rejected or never answered.
        holds: whether some came, nothing was refused, as many were told as came, and p99 was within the bound.
    """

    rate_per_s: float
    told_per_s: float
    p99_ms: float
    refused: int
    holds: bool


@dataclass(slots=True)
class Capacity:
    """What the search found.

    Attributes:
        p99_ms_max: the bound.
        rate_per_s: the highest rate that held, in a second run of its own as well; 0 before one has.
        steps: what was tried, in order.
    """

    p99_ms_max: float
    rate_per_s: float = 0.0
    steps: list[Step] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def find_capacity(plan: LoadPlan, p99_ms_max: float, run: Run, console: Console) -> Capacity:
    """Search, then try what was found once more; the last run is that of the rate that was found.

    Args:
        plan: of the loads; `duration_s` and `warm_up_s` are those of a step.
        p99_ms_max: the bound.
        run: places one load, from books of its own to rest.
        console: told of every step.

    Raises:
        DefiniteError: E_INVALID_INPUT where no rate is within the bound, twice, or every one.
    """
    search = _Search(plan, Capacity(p99_ms_max), run, console)
    low, high, rate = 0.0, inf, search.closed_loop() / 2
    while low == 0 or high / low > CLOSE:
        if search.holds(rate):
            low = rate
        else:
            high = rate
        rate = _checked(high / 2 if low == 0 else low * 2 if high == inf else sqrt(low * high), p99_ms_max)
    while not search.holds(low):
        low = _checked(low * LOWER, p99_ms_max)
    search.found.rate_per_s = round(low, 1)
    return search.found


def _checked(rate: float, p99_ms_max: float) -> float:
    """A rate that may be tried."""
    if rate < RATE_MIN:
        raise DefiniteError(
            ErrorCode.INVALID_INPUT, f"--p99-ms: not even {RATE_MIN:g} orders a second stay within {p99_ms_max:g} ms")
    if rate > RATE_MAX:
        raise DefiniteError(
            ErrorCode.INVALID_INPUT, f"--p99-ms: more than {RATE_MAX:,} orders a second keep {p99_ms_max:g} ms: lower it")
    return rate


class _Search:
    def __init__(self, plan: LoadPlan, found: Capacity, run: Run, console: Console) -> None:
        self.found, self._run, self._console = found, run, console
        self._step_s = STEP_S if plan.duration_s is None else plan.duration_s
        self._plan = replace(plan, capacity_p99_ms=None, duration_s=None)

    def closed_loop(self) -> float:
        """How many a second it does when driven by its answers, which is about the most there is."""
        placed = self._run(replace(self._plan, duration_s=self._step_s))
        step, tally = self._note(0.0, placed), placed.tally
        overall = tally.orders.told.total() / tally.wall_s if tally.wall_s else 0.0  # a step may end before it has warmed up
        return max(RATE_MIN, step.told_per_s, overall)

    def holds(self, rate_per_s: float) -> bool:
        """Whether it keeps up with a rate."""
        seed = self._plan.seed + len(self.found.steps)
        arrivals = Arrivals(rate_per_s, self._plan.warm_up_s + max(self._step_s, ORDERS_MIN / rate_per_s), seed)
        return self._note(rate_per_s, self._run(replace(self._plan, arrivals=arrivals))).holds

    def _note(self, rate_per_s: float, placed: Placed) -> Step:
        tally = placed.tally
        counts = tally.orders
        refused = counts.told[Told.REJECTED] + counts.told[Told.UNKNOWN]
        p99_ms = tally.latencies.get_value_at_percentile(99) / 1_000
        expected = rate_per_s * tally.window_s
        kept_up = 0 < tally.told_in_window >= expected - DEVIATIONS * sqrt(expected) - 1
        step = Step(
            round(rate_per_s, 1), round(tally.orders_per_s, 1), p99_ms, refused,
            bool(rate_per_s) and not refused and kept_up and p99_ms <= self.found.p99_ms_max)
        self.found.steps.append(step)
        what = f"{rate_per_s:,.0f}/s" if rate_per_s else "closed loop"
        said = "" if not rate_per_s else ", holds" if step.holds else ", too much"
        self._console.print(
            f"capacity: {what}: {step.told_per_s:,.0f}/s told, p99 {p99_ms:,.1f} ms, {refused:,} refused{said}",
            highlight=False, soft_wrap=True)
        return step
