"""Everything that is tried on one saga: contract check, crash sweep, random schedules; with one report at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import chain
from multiprocessing import get_context
from typing import Any

from orchestrator.app import App, load_app
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.saga import Saga
from orchestrator.testing.contract.check import check_app
from orchestrator.testing.contract.report import ContractReport
from orchestrator.testing.simulation.schedule import Run
from orchestrator.testing.simulation.simulator import Explored, Simulator, explore
from orchestrator.testing.simulation.sweep import SweepReport, sweep
from orchestrator.testing.simulation.workload import Workload

CHUNK = 1_000  # schedules that a process runs at a time
Progress = Callable[[str, Explored], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be tried.

    Attributes:
        target: MODULE:SAGA, or MODULE:APP for every saga of it that has an example.
        app: MODULE:APP, "" = the app in the saga's module that has it.
        seeds: so many random schedules of each saga.
        first_seed: the first of them.
        minutes: instead of a number: for so long, all sagas together; 0 = by number.
        pairs: at most so many pairs of crashes for each way to end; None = all of them.
        parts: which of "contract", "sweep" and "simulator".
        workers: processes that run schedules.
        on_disk: whether they run over the real stores on simulated disks: slower, and the disk's faults are finer.
    """

    target: str
    app: str = ""
    seeds: int = 2_000
    first_seed: int = 0
    minutes: float = 0.0
    pairs: int | None = 200
    parts: tuple[str, ...] = ("contract", "sweep", "simulator")
    workers: int = 1
    on_disk: bool = False


@dataclass(slots=True)
class Examination:
    """What came of it.

    Attributes:
        contracts: of every service that the sagas use.
        sweeps: by saga.
        explored: by saga.
        shrunk: the first violation of the simulator, with as few faults as could be found, and its saga.
        elapsed_s: seconds by part.
    """

    contracts: list[ContractReport] = field(default_factory=list)
    sweeps: dict[str, SweepReport] = field(default_factory=dict)
    explored: dict[str, Explored] = field(default_factory=dict)
    shrunk: tuple[str, Run] | None = None
    elapsed_s: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every guarantee held and every contract is kept."""
        return (all(report.ok for report in self.contracts) and self.shrunk is None
                and all(report.violation is None for report in self.sweeps.values()))


def find_sagas(plan: Plan) -> tuple[App, str, list[str]]:
    """The app, its import path, and the names of the sagas to be tried.

    Raises:
        DefiniteError: E_CONFIG, saying what could not be found.
    """
    module_name, _, attribute = plan.target.partition(":")
    try:
        module = import_module(module_name)
        found = getattr(module, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        told = f"cannot load {plan.target!r} ({error}); write package.module:saga or package.module:app"
        raise DefiniteError(ErrorCode.CONFIG, told) from None
    if isinstance(found, App):
        return found, plan.target, [saga.name for saga in found.sagas if saga.example is not None]
    if not isinstance(found, Saga):
        raise DefiniteError(ErrorCode.CONFIG, f"{plan.target!r} is a {type(found).__name__}, neither a Saga nor an App")
    path = plan.app or _app_with(module, found)
    return load_app(path), path, [found.name]


def examine(plan: Plan, progress: Progress = lambda _part, _explored: None) -> Examination:
    """Try everything that the plan names; stops at the first violation of the sweep or the simulator.

    Args:
        plan: what to try.
        progress: told now and then how far the part that is running has come.

    Raises:
        DefiniteError: E_CONFIG, E_SAGA_DEFINITION.
    """
    app, path, names = find_sagas(plan)
    done = Examination()
    if "contract" in plan.parts:
        began = time.monotonic()
        used = {step.service for name in names for step in app.saga(name).steps}
        done.contracts = check_app(app, services=used)
        done.elapsed_s["contract"] = time.monotonic() - began
    if "sweep" in plan.parts:
        began = time.monotonic()
        for name in names:
            workload = Workload(app, name)
            done.sweeps[name] = sweep(workload, Simulator(workload).books, pairs_max=plan.pairs)
        done.elapsed_s["sweep"] = time.monotonic() - began
    if "simulator" in plan.parts and done.ok:
        began = time.monotonic()
        until_s = began + plan.minutes * 60 if plan.minutes else None
        for name, found in _chunks(plan, path, names, until_s):
            done.explored.setdefault(name, Explored()).add(found)
            progress(name, done.explored[name])
            if found.violation is not None:
                simulator = Simulator(Workload(app, name), on_disk=plan.on_disk)
                done.shrunk = (name, simulator.shrink(found.violation))
                break
        done.elapsed_s["simulator"] = time.monotonic() - began
    return done


def _chunks(plan: Plan, path: str, names: list[str], until_s: float | None) -> Iterator[tuple[str, Explored]]:
    """Results of chunks of seeds, the sagas in turn; more of them as long as there is time, to each its share of it."""
    if plan.workers == 1 and until_s is not None:
        yield from _timed_chunks(plan, path, names, until_s)
        return
    starts = range(plan.first_seed, plan.first_seed + (plan.seeds if until_s is None else 1 << 60), CHUNK)
    last = None if until_s is not None else plan.first_seed + plan.seeds
    jobs = (
        (path, name, start, CHUNK if last is None else min(CHUNK, last - start), plan.on_disk)
        for start in starts for name in names)
    if plan.workers == 1:
        for job in jobs:
            yield job[1], explore_seeds(*job)
        return
    with ProcessPoolExecutor(plan.workers, mp_context=get_context("spawn")) as pool:
        waiting = [(job[1], pool.submit(explore_seeds, *job)) for job in (next(jobs) for _ in range(2 * plan.workers))]
        while waiting:
            name, future = waiting.pop(0)
            yield name, future.result()
            more = next(jobs, None) if until_s is None or time.monotonic() < until_s else None
            if more is not None:
                waiting.append((more[1], pool.submit(explore_seeds, *more)))


def _timed_chunks(plan: Plan, path: str, names: Sequence[str], until_s: float) -> Iterator[tuple[str, Explored]]:
    spent_s = dict.fromkeys(names, 0.0)
    following = dict.fromkeys(names, plan.first_seed)
    while time.monotonic() < until_s:
        name = min(names, key=lambda each: spent_s[each])
        found = explore_seeds(path, name, following[name], CHUNK, plan.on_disk)
        spent_s[name] += found.cpu_s
        following[name] += CHUNK
        yield name, found


def explore_seeds(path: str, saga: str, start: int, count: int, on_disk: bool) -> Explored:  # noqa: FBT001 - of a job
    """Run some schedules, in a process of its own perhaps.

    Args:
        path: import path of the app.
        saga: its name.
        start: the first seed.
        count: how many.
        on_disk: see `Plan`.
    """
    return explore(_simulator(path, saga, on_disk), range(start, start + count))


@cache
def _simulator(path: str, saga: str, on_disk: bool) -> Simulator:  # noqa: FBT001 - as above
    return Simulator(Workload(load_app(path), saga), on_disk=on_disk)


def _app_with(module: Any, saga: Saga) -> str:
    for name, value in vars(module).items():
        if isinstance(value, App) and saga in list(chain(value.sagas)):
            return f"{module.__name__}:{name}"
    raise DefiniteError(
        ErrorCode.CONFIG, f"{module.__name__} has no App with the saga {saga.name!r}: name one with --app MODULE:ATTRIBUTE")
