"""What has to be done before sides can run alternately: see what is installed, write histories, measure the capacity."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks import comparisons, postgres, system_calls
from benchmarks.alternation import Execute
from benchmarks.comparisons import OTHERS, Comparison
from benchmarks.execution import FailedRunError, execute
from benchmarks.past import write_history
from benchmarks.plan import ON_DBOS, ON_POSTGRES, Plan, System
from orchestrator.errors import DefiniteError, ErrorCode

Progress = Callable[[str], None]
_DBOS = "install the extra 'bench'"


class Asked(NamedTuple):
    """Options of single benchmarks; see the command line."""

    only: tuple[System, ...] = ()
    other_orders: int = 3_000
    transactions: tuple[int, ...] = (1_000_000,)
    retention_s: int = 604_800
    counts: tuple[int, ...] = (1, 2, 4)
    rate_per_s: float = 0.0
    strace: bool = True


class Preparation:
    """Prepares comparisons of raytx's plan.

    Args:
        plan: of raytx's runs.
        asked: what else was asked for.
        progress: told what is being done.
        undo: what removes temporary data at the end.
        run: runs one plan.
    """

    def __init__(
        self, plan: Plan, asked: Asked, *, progress: Progress, undo: ExitStack, run: Execute = execute,
    ) -> None:
        self._plan, self._asked, self._progress, self._undo, self._run = plan, asked, progress, undo, run

    def comparison(self, name: str) -> Comparison:
        """The comparison of that name, ready to run.

        Raises:
            DefiniteError: E_INVALID_INPUT: there is none, or an option does not go with it.
            FailedRunError: what it needs could not be measured.
        """
        makers: dict[str, Callable[[], Comparison]] = {
            "systems": self._systems, "history": self._history, "latency": self._latency, "cost": self._cost,
            "shards": lambda: comparisons.shards(self._plan, self._asked.counts)}
        plain = {
            "floor": comparisons.floor, "head-of-line": comparisons.head_of_line, "transport": comparisons.transport,
            "metrics": comparisons.metrics, "memory": comparisons.memory, "recovery": comparisons.recovery}
        if name in plain:
            return plain[name](self._plan)
        if name in makers:
            return makers[name]()
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"there is no benchmark {name!r}")

    def _systems(self) -> Comparison:
        if System.RAYTX in self._asked.only:
            raise DefiniteError(
                ErrorCode.INVALID_INPUT, "--only: raytx is what the others are compared with: leave it out or name another")
        others = installed(self._asked.only or OTHERS, self._progress)
        return comparisons.systems(self._plan, others, self._asked.other_orders)

    def _history(self) -> Comparison:
        plan, span_ms = self._plan, self._asked.retention_s * 1_000
        root = Path(self._undo.enter_context(
            tempfile.TemporaryDirectory(prefix="raytx-history-", dir=plan.scratch or None)))
        directories = {}
        for count in self._asked.transactions:
            data = root / str(count)
            size = write_history(data, count, plan=plan, span_ms=span_ms, progress=self._progress)
            self._progress(f"{count:,} transactions written, {size:,.0f} bytes on disk each")
            directories[count] = str(data)
        retaining = msgspec.structs.replace(plan, settings=[*plan.settings, f"retention_ms={span_ms}"])
        return comparisons.history(retaining, directories)

    def _latency(self) -> Comparison:
        """At half of the rate that was asked for, or else of what it can do."""
        capacity = 2 * self._asked.rate_per_s
        if not capacity:
            found = self._run(self._plan)
            if not found.ok:
                raise FailedRunError(f"the run that measures the capacity does not count: {'; '.join(found.notes)}")
            capacity = found.orders_per_s
            self._progress(f"capacity: {capacity:,.0f} orders/s at {self._plan.concurrency:,} in flight")
        return comparisons.latency(self._plan, capacity)

    def _cost(self) -> Comparison:
        if self._asked.strace and not system_calls.available():
            self._progress("system calls are not counted: install strace")
        return comparisons.cost(self._plan, traced=self._asked.strace and system_calls.available())


def missing(system: System) -> str:
    """What has to be installed before that system can run; "" where nothing has."""
    found = {module: importlib.util.find_spec(module) is not None for module in ("dbos", "psycopg")}
    if system in ON_DBOS and not found["dbos"]:
        return f"{system} is left out: dbos is not installed: {_DBOS}"
    if system in ON_POSTGRES and not found["psycopg"]:
        return f"{system} is left out: psycopg is not installed: {_DBOS}"
    if system in ON_POSTGRES and postgres.programs() is None:
        return f"{system} is left out: there is no PostgreSQL server: install the package postgresql"
    return ""


def installed(systems: Iterable[System], progress: Progress) -> list[System]:
    """Those of the systems that can run here; the others are named."""
    found = []
    for system in systems:
        why = missing(system)
        if why:
            progress(why)
        else:
            found.append(system)
    return found
