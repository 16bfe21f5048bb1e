"""The crash sweep: every point at which a process can die, every pair of them, and every message mishandled, one by one.

Nothing is left to chance: the undisturbed run is deterministic, so its points and messages can be counted, and each
trial disturbs it at one or two of them. Whatever the outcome of the transaction is then, the guarantees must hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import isqrt

from orchestrator.config import FaultSettings
from orchestrator.testing.marks import Marks
from orchestrator.testing.simulation.chance import Chance
from orchestrator.testing.simulation.journal import Point
from orchestrator.testing.simulation.options import Options
from orchestrator.testing.simulation.schedule import BOOT_MS, settle
from orchestrator.testing.simulation.workload import Books, Workload
from orchestrator.testing.simulation.world import LATE_MS, ViolationError, World

KEY = "swept"
MESSAGE_FAULTS = ("lose", "double", "swap", "late")


@dataclass(frozen=True, slots=True)
class Trial:
    """One disturbed run.

    Attributes:
        refusing: a service that refuses to prepare, "" = none does.
        crashes: points at which whoever runs dies, counted from 1.
        power: whether a crash takes what was not synced.
        messages: what happens to which message, counted from 1.
    """

    refusing: str = ""
    crashes: tuple[int, ...] = ()
    power: bool = False
    messages: tuple[tuple[int, str], ...] = ()

    def __str__(self) -> str:
        said = [f"crash at point {point}{' with loss of power' if self.power else ''}" for point in self.crashes]
        said += [f"message {number}: {fault}" for number, fault in self.messages]
        if self.refusing:
            said.append(f"{self.refusing} refuses")
        return ", ".join(said) or "undisturbed"


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a trial.

    Attributes:
        trial: what was tried.
        points: names of all points that were passed, in order.
        messages: how many were sent.
        outcome: status and code that the caller was told.
        trace: (simulated ms, what, who), in order.
        violation: guarantee and text, None where all held.
        marks: rows of the catalogue of failures that occurred.
    """

    trial: Trial
    points: list[str]
    messages: int
    outcome: str
    trace: list[tuple[int, str, str]]
    violation: tuple[str, str] | None
    marks: Marks = field(default_factory=Marks)


@dataclass(slots=True)
class SweepReport:
    """What was swept.

    Attributes:
        trials: how many, by kind.
        outcomes: how often each outcome was told.
        violation: the first trial that broke a guarantee, None where all held.
        marks: how often each row of the catalogue of failures occurred.
    """

    trials: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    violation: Tried | None = None
    marks: Marks = field(default_factory=Marks)


class Sweep:
    """Sweeps one saga.

    Args:
        workload: the saga with its first sample input.
        books: the state to begin with.
        refusing: a service that refuses to prepare, so that the transaction aborts; "" = none does.
    """

    def __init__(self, workload: Workload, books: Books, refusing: str = "") -> None:
        self._workload, self._books, self._refusing = workload, books, refusing
        self.base = self.run(Trial(refusing))

    def singles(self) -> Iterator[Trial]:
        """A crash at every point; between a write and its sync also one that takes the power away."""
        for number, name in enumerate(self.base.points, 1):
            for power in _powers(name):
                yield Trial(self._refusing, (number,), power)

    def pairs(self, count_max: int | None = None) -> Iterator[Trial]:
        """After every single crash, a second one at every point that then follows.

        Args:
            count_max: about so many, spread over both; None = all.
        """
        side = None if count_max is None else isqrt(count_max)
        for first in _spread(list(self.singles()), side):
            points = self.run(first).points
            seconds = [
                Trial(self._refusing, (*first.crashes, number), power)
                for number, name in enumerate(points[first.crashes[0] :], first.crashes[0] + 1)
                for power in ((first.power,) if first.power else _powers(name))]
            yield from _spread(seconds, side)

    def messages(self) -> Iterator[Trial]:
        """Every message lost, doubled, overtaken by later ones, and late beyond every timeout."""
        for number in range(1, self.base.messages + 1):
            for fault in MESSAGE_FAULTS:
                yield Trial(self._refusing, messages=((number, fault),))

    def run(self, trial: Trial) -> Tried:
        """Run one trial."""
        options = Options(in_doubt_after_ms=2_000)
        world = World(self._books, options, Chance(1))
        world.point_names = []
        violation = None
        try:
            self._run(world, trial)
        except ViolationError as error:
            violation = (error.guarantee, error.text)
        outcomes = [told.outcome for told in world.answers]
        outcome = f"{outcomes[-1].status.name} {outcomes[-1].code}".strip() if outcomes else "none"
        return Tried(trial, world.point_names, world.messages, outcome, world.trace, violation,
                     world.witness.marks)

    def _run(self, world: World, trial: Trial) -> None:
        if trial.refusing:
            world.service_faults = {trial.refusing: FaultSettings(decline=1.0)}
        world.start_all()
        world.run_until(BOOT_MS)
        world.watched = True
        world.points = world.messages = 0
        world.point_names = []
        world.crash_points = frozenset(trial.crashes)
        world.power_fails = trial.power
        world.message_faults = dict(trial.messages)
        payload = self._workload.payload(0)
        world.run_as(world.client, lambda: world.client.submit(self._workload.saga.name, KEY, payload, 0))
        settle(world)
        if any(fault == "late" for _, fault in trial.messages):
            world.run_until(world.now_ms + LATE_MS)  # now it comes
            settle(world)


def sweep(
    workload: Workload, books: Books, *, pairs_max: int | None = None, refusing: Iterable[str] | None = None,
) -> SweepReport:
    """Sweep a saga: all single crashes, all pairs, all messages, with everybody agreeing and with each service refusing.

    Args:
        workload: the saga.
        books: the state to begin with.
        pairs_max: about so many pairs for each way to end, evenly spread; None = all of them.
        refusing: services that are to refuse, one after the other; None = every one that prepares.
    """
    report = SweepReport()
    if refusing is None:
        refusing = list(dict.fromkeys(step.service for step in workload.saga.prepares))
    for service in ("", *refusing):
        one = Sweep(workload, books, service)
        if not _count(report, "undisturbed", one.base):
            return report
        for kind, trials in (
                ("single crashes", one.singles()), ("messages", one.messages()),
                ("pairs of crashes", one.pairs(pairs_max))):
            for trial in trials:
                if not _count(report, kind, one.run(trial)):
                    return report
    return report


def _count(report: SweepReport, kind: str, tried: Tried) -> bool:
    report.trials[kind] = report.trials.get(kind, 0) + 1
    report.outcomes[tried.outcome] = report.outcomes.get(tried.outcome, 0) + 1
    report.marks.add(tried.marks.counts)
    if tried.violation is not None:
        report.violation = tried
    return tried.violation is None


def _spread(trials: Sequence[Trial], count_max: int | None) -> Sequence[Trial]:
    """At most so many of them, evenly."""
    if count_max is None or len(trials) <= count_max:
        return trials
    return [trials[number * len(trials) // count_max] for number in range(count_max)]


def _powers(point: str) -> tuple[bool, ...]:
    return (False, True) if Point.SYNC.value in point else (False,)
