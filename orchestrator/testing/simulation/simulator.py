"""The simulator: schedules by seed, one or millions; a failing one is made small and told as a story."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial

from orchestrator.app import App
from orchestrator.testing.marks import Marks
from orchestrator.testing.simulation.chance import Chance, Draw
from orchestrator.testing.simulation.options import Options
from orchestrator.testing.simulation.schedule import Run, run_schedule, settle
from orchestrator.testing.simulation.workload import Books, Workload, empty_books
from orchestrator.testing.simulation.world import World

GC_THRESHOLDS = (2_000, 20, 1_000)  # what a schedule leaves behind is found while it is still in the cache
_SHRINK_RUNS_MAX = 400


class Simulator:
    """Runs schedules of one workload.

    Args:
        workload: what is tried; the app's opening transactions are run first, once, undisturbed.
        on_disk: whether the stores are the real ones on a simulated disk: slower, and the disk's faults are finer.
    """

    def __init__(self, workload: Workload, *, on_disk: bool = False) -> None:
        self.workload, self.on_disk = workload, on_disk
        self.books = opened(workload.app, on_disk=on_disk)

    def run(self, seed: int, options: Options | None = None, without: Iterable[Draw] = ()) -> Run:
        """Run one schedule; the same arguments always give the same trace."""
        return run_schedule(self.workload, self.books, seed, options, frozenset(without))

    def shrink(self, run: Run) -> Run:
        """The same violation with as few faults as can be found."""
        assert run.violation is not None
        best, without = run, frozenset[Draw]()
        size = max(len(best.fired) // 2, 1)
        runs = 0
        while runs < _SHRINK_RUNS_MAX:
            smaller = None
            for start in range(0, len(best.fired), size):
                left_out = without | set(best.fired[start : start + size])
                runs += 1
                found = self.run(run.seed, run.options, left_out)
                same = found.violation is not None and found.violation[0] == run.violation[0]
                if same and len(found.fired) < len(best.fired):
                    smaller, without = found, left_out
                    break
            if smaller is not None:
                best = smaller
                size = max(min(size, len(best.fired) // 2), 1)
            elif size == 1:
                break
            else:
                size = max(size // 2, 1)
        return best


@dataclass(slots=True)
class Explored:
    """What a series of schedules came to.

    Attributes:
        schedules: those that count: services worked for a transaction of several steps, and at least one fault happened.
        idle: the others.
        traces: digests of the traces seen.
        violation: the first one, None where all held.
        marks: how often each row of the catalogue of failures occurred.
        cpu_s: seconds of one core that it took.
    """

    schedules: int = 0
    idle: int = 0
    committed: int = 0
    aborted: int = 0
    faults: int = 0
    traces: set[bytes] = field(default_factory=set)
    violation: Run | None = None
    marks: Marks = field(default_factory=Marks)
    cpu_s: float = 0.0

    def add(self, other: Explored) -> None:
        """Count what another series came to."""
        self.schedules += other.schedules
        self.idle += other.idle
        self.committed += other.committed
        self.aborted += other.aborted
        self.faults += other.faults
        self.traces |= other.traces
        self.marks.add(other.marks.counts)
        self.violation = self.violation or other.violation
        self.cpu_s += other.cpu_s


def explore(
    simulator: Simulator, seeds: Iterable[int], *, until: Callable[[Explored], bool] = lambda _: False,
) -> Explored:
    """Run schedules until one fails, the seeds are used up, or it is enough.

    Args:
        simulator: of the workload.
        seeds: one schedule each.
        until: asked after every schedule.
    """
    explored = Explored()
    steps = len(simulator.workload.saga.steps)
    began = time.process_time()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    for seed in seeds:
        run = simulator.run(seed)
        counts = steps > 1 and run.fired and run.worked
        explored.schedules += bool(counts)
        explored.idle += not counts
        explored.committed += run.committed
        explored.aborted += run.aborted
        explored.faults += len(run.fired)
        explored.traces.add(run.digest)
        explored.marks.add(run.marks.counts)
        if simulator.on_disk:
            gc.collect(0)  # a world and its disks are large, and hang together in a circle
        explored.cpu_s = time.process_time() - began
        if run.violation is not None:
            explored.violation = run
            break
        if until(explored):
            break
    return explored


@lru_cache(maxsize=16)
def opened(app: App, *, on_disk: bool = False) -> Books:
    """The books of an app after its opening transactions, which no fault disturbs.

    Args:
        app: services and sagas.
        on_disk: whether they are real stores on a simulated disk; journals in memory otherwise.
    """
    books: Books = empty_books(app)
    if on_disk:
        from orchestrator.testing.simulation.disk_stores import empty_disks  # noqa: PLC0415 - needs APSW, which comes with [test]

        books = empty_disks(app)
    world = World(books, Options(), Chance(0))
    world.start_all()
    world.run_until(20)
    for number, (name, data) in enumerate(app.opening):
        saga = app.saga(name)
        payload = saga.encode_input(data)
        world.run_as(world.client, partial(world.client.submit, name, f"opening-{number}", payload, 0))
        settle(world)
        outcome = world.answers[-1].outcome
        if outcome.code:
            raise AssertionError(f"opening transaction {number} ({name}) ended with {outcome.code}: {outcome.message}")
    return world.stores.books()
