"""From a plan to the transactions that will be placed; nothing is deployed or placed yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from loadgen.baskets import Baskets
from loadgen.own_saga import Samples
from loadgen.plan import BANK, LoadPlan
from loadgen.returns import Return, match_returns
from loadgen.shapes import DISTINCT_MAX, LineRange, Shape, make_baskets
from loadgen.trace import Trace, read_trace
from loadgen.transfers import Transfers
from loadgen.workload import Source, Workload, new_run
from orchestrator.app import App
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.terminal.options import app_path
from orchestrator.testing.examine import Plan, find_sagas

SHOP_APP: Final = "actors.orders:app"
BANK_APP: Final = "actors.bank:app"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What will be placed; nothing has been yet."""

    plan: LoadPlan
    workload: Source
    trace: Trace | None
    unmatched_return_lines: int | None


def prepare(plan: LoadPlan, run: str = "") -> Prepared:
    """Read the trace, or make the orders.

    Args:
        plan: what is asked for.
        run: token in ids and keys; "" = a new one.

    Raises:
        DefiniteError: E_INVALID_INPUT, E_TRACE_ROW; E_CONFIG and E_SAGA_DEFINITION of a user's own saga.
    """
    plan.check()
    run = run or new_run()
    if plan.trace is not None:
        return _traced(plan, read_trace(plan.trace, skip_bad=plan.skip_bad), run)
    orders = plan.orders_made
    if plan.workload == BANK:
        source: Source = Transfers(orders=orders, run=run, seed=plan.seed + plan.index, share=plan.stock_share)
    elif ":" in plan.workload:
        source = _own(plan, orders, run)
    else:
        baskets = _made(min(orders, DISTINCT_MAX), plan.seed, plan.lines, Shape(plan.workload), plan.index)
        source = Workload(baskets, orders=orders, run=run, stock_share=plan.stock_share)
    return Prepared(plan, source, None, None)


def app_for(workload: str, data: Path, chosen: str | None) -> str:
    """Import path of the app that a workload runs on: what was chosen, runs or ran on the data directory, else its own.

    Raises:
        DefiniteError: E_CONFIG, saying what could not be found.
    """
    if ":" in workload:
        return _saga_of(workload, chosen or "")[1]
    return app_path(DataDirectory(data), chosen, BANK_APP if workload == BANK else SHOP_APP)


def _traced(plan: LoadPlan, trace: Trace, run: str) -> Prepared:
    if len(trace.baskets) < plan.processes > 1:
        told = f"--processes: {plan.processes} cannot share the {len(trace.baskets)} orders of the trace: lower it"
        raise DefiniteError(ErrorCode.INVALID_INPUT, told)
    baskets = trace.baskets if plan.of == 1 else trace.baskets.part(plan.index, plan.of)
    matched: Sequence[Return] = ()
    unmatched = None
    if plan.returns:
        found = match_returns(baskets, trace.credit_notes)
        matched, unmatched = found.matched, found.unmatched_lines
    whole = plan.orders is None and plan.arrivals is None and plan.duration_s is None
    orders = len(baskets) if whole else plan.orders_made
    workload = Workload(baskets, orders=orders, run=run, returns=matched, stock_share=plan.stock_share)
    return Prepared(plan, workload, trace, unmatched)


def _own(plan: LoadPlan, orders: int, run: str) -> Samples:
    app, _, name = _saga_of(plan.workload, plan.app)
    first = plan.first_sample + plan.index
    return Samples(app, app.saga(name), orders=orders, run=run, first=first, step=plan.of)


def _saga_of(workload: str, chosen: str) -> tuple[App, str, str]:
    """The app, its import path, and the one saga whose samples are placed."""
    app, path, names = find_sagas(Plan(workload, chosen))
    if len(names) != 1:
        told = f"--workload: {workload} is an app with examples for {', '.join(names) or 'no saga'}: name one as MODULE:SAGA"
        raise DefiniteError(ErrorCode.CONFIG, told)
    return app, path, names[0]


@lru_cache(maxsize=2)
def _made(orders: int, seed: int, lines: LineRange | None, shape: Shape, part: int) -> Baskets:
    """Kept for the next run of the same process: a search for the capacity has a dozen."""
    return make_baskets(orders, seed, lines, shape, part=part)
