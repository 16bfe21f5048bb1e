"""One run of the load generator, in phases: prepare, connect, open the books, drive, wait for rest, check, audit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from loadgen.baskets import Baskets
from loadgen.checker.bounds import RECOVERED
from loadgen.checker.limits import Limits
from loadgen.checker.run import check
from loadgen.driver import Driver, Milestone, Port, Tally
from loadgen.history import History, HistoryWriter, read_history
from loadgen.nemesis.beside import PlanText, beside
from loadgen.open_loop import Arrivals, OpenLoop
from loadgen.progress import ProgressView
from loadgen.recording import RecordedClient, history_file
from loadgen.returns import Return, match_returns
from loadgen.shapes import LineRange, make_baskets
from loadgen.summary import Summary
from loadgen.trace import Trace, read_trace
from loadgen.usage import Meter, Usage
from loadgen.watching import SnapshotWatcher
from loadgen.workload import BooksFeed, OrderFeed, Told, Workload, new_run
from orchestrator.app import App
from orchestrator.audit import audit
from orchestrator.client import Client, connect
from orchestrator.config import Settings, Transport, make_settings
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.rest import wait_for_rest

ORDERS_DEFAULT = 10_000
BOOKS_CONCURRENCY = 8
STATUS_TIMEOUT_S = 2.0
REST_S_MAX = 30.0
LIMITS = Limits(replay_rows_max=5_000)  # a long run is to end soon after its last order

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What a run is asked to do.

    Attributes:
        data: data directory; its running deployment is used, else one is embedded for the duration.
        app: import path of the app.
        orders: how many; None: the whole trace, or `ORDERS_DEFAULT`.
        concurrency: transactions in flight.
        arrivals: an open loop instead: they arrive when they arrive, and what is refused stays refused.
        shards: of an embedded deployment; None: its default.
        transport: what its processes call each other over; None: its default.
        seed: of made orders and of simulated failures.
        trace: Online Retail CSV to replay; None: orders are made.
        lines: lines of made orders; None: as measured.
        stock_share: opening stock as a share of what is ordered; None: enough.
        returns: whether the trace's credit notes are replayed.
        skip_bad: count rows that cannot be parsed instead of refusing the trace.
        faults: simulated failures by service, of an embedded deployment.
        patience_s: after so long without an outcome a transaction counts as unknown.
        history: file that keeps what was asked and told; None: a temporary one.
        chaos: plan of what is done to the deployment's actors meanwhile; None: nothing.
        watch: whether a reader looks at the services' databases meanwhile.
    """

    data: Path
    app: str
    orders: int | None = None
    concurrency: int = 256
    arrivals: Arrivals | None = None
    shards: int | None = None
    transport: Transport | None = None
    seed: int = 1
    trace: Path | None = None
    lines: LineRange | None = None
    stock_share: Decimal | None = None
    returns: bool = False
    skip_bad: bool = False
    faults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    patience_s: float = 120.0
    history: Path | None = None
    chaos: str | None = None
    watch: bool = False

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the option.
        """
        if self.chaos is not None:
            PlanText.parse(self.chaos)
        if self.returns and self.trace is None:
            raise DefiniteError(ErrorCode.INVALID_INPUT, "--returns needs --trace: made orders have no credit notes")
        if self.arrivals is not None and self.orders is not None:
            raise DefiniteError(ErrorCode.INVALID_INPUT, "--orders is for a closed loop: with --rate, say --duration")
        if self.lines and self.trace is not None:
            raise DefiniteError(ErrorCode.INVALID_INPUT, "--lines is for made orders: drop it, or drop --trace")
        if self.stock_share is not None and not (self.stock_share.is_finite() and self.stock_share > 0):
            raise DefiniteError(ErrorCode.INVALID_INPUT, f"--stock-share must be above 0, got {self.stock_share}")

    def settings(self) -> Settings:
        """Of an embedded deployment.

        Raises:
            DefiniteError: E_CONFIG, naming the setting.
        """
        faults = {service: {"seed": self.seed, **values} for service, values in self.faults.items()}
        wanted = {"shards": self.shards, "transport": self.transport}
        chosen = {name: value for name, value in wanted.items() if value is not None}
        return make_settings(**DataDirectory(self.data).settings() | chosen, faults=faults)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the summary."""
        return {
            "data": str(self.data), "app": self.app, "concurrency": self.concurrency,
            "rate_per_s": None if self.arrivals is None else self.arrivals.rate_per_s,
            "duration_s": None if self.arrivals is None else self.arrivals.duration_s,
            "trace": None if self.trace is None else str(self.trace),
            "lines": None if self.lines is None else [self.lines.least, self.lines.most],
            "stock_share": None if self.stock_share is None else float(self.stock_share), "returns": self.returns,
            "skip_bad": self.skip_bad, "patience_s": self.patience_s, "watch": self.watch,
            "history": None if self.history is None else str(self.history), "chaos": self.chaos,
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """What will be placed; nothing has been yet."""

    plan: LoadPlan
    workload: Workload
    trace: Trace | None
    unmatched_return_lines: int | None


@dataclass(frozen=True, slots=True)
class Driven:
    """What came of it, before it is checked."""

    tally: Tally
    told: bytearray
    usage: Usage
    settings: Settings
    embedded: bool
    at_rest: bool


def run_load(plan: LoadPlan, console: Console) -> Summary:
    """The whole run.

    Args:
        plan: what to do.
        console: for progress; one that writes to stderr.

    Raises:
        DefiniteError: E_TRACE_ROW, E_INVALID_INPUT, E_CONFIG, E_DATA_DIR...: no order was placed.
        IndefiniteError: E_UNREACHABLE.
    """
    prepared = prepare(plan)
    with history_file(plan.history) as path:
        with deployed(plan) as client, HistoryWriter(path, "load") as history:
            app = client.deployment.app
            recorded = RecordedClient(client, history)
            open_books(recorded, prepared)
            if plan.chaos is None:
                driven = drive(recorded, prepared, console)
            else:
                with beside(plan.chaos, client.deployment, console) as (outcomes, struck):
                    driven = drive(recorded, prepared, console, watch=outcomes.watch)
        summary = conclude(prepared, driven, app, read_history([path]))
    summary.chaos = None if plan.chaos is None else struck
    return summary


def prepare(plan: LoadPlan) -> Prepared:
    """Read the trace, or make the orders; nothing is placed where that fails."""
    plan.check()
    trace = None if plan.trace is None else read_trace(plan.trace, skip_bad=plan.skip_bad)
    usual = ORDERS_DEFAULT if plan.arrivals is None else plan.arrivals.expected
    wanted = usual if plan.orders is None else plan.orders
    baskets: Baskets = make_baskets(wanted, plan.seed, plan.lines) if trace is None else trace.baskets
    matched: Sequence[Return] = ()
    unmatched = None
    if trace is not None and plan.returns:
        found = match_returns(baskets, trace.credit_notes)
        matched, unmatched = found.matched, found.unmatched_lines
    whole_trace = plan.orders is None and plan.arrivals is None and trace is not None
    orders = len(baskets) if whole_trace else wanted
    workload = Workload(baskets, orders=orders, run=new_run(), returns=matched, stock_share=plan.stock_share)
    return Prepared(plan, workload, trace, unmatched)


@contextmanager
def deployed(plan: LoadPlan) -> Iterator[Client]:
    """A client of the deployment that runs on the data directory, else of an embedded one.

    Raises:
        DefiniteError: E_CONFIG where a running deployment is asked to run otherwise than it does.
    """
    settings = plan.settings()
    with connect(plan.data, app=plan.app, settings=settings) as client:
        deployment = client.deployment
        unknown = settings.faults.keys() - deployment.app.by_service.keys()
        if unknown:
            raise DefiniteError(ErrorCode.CONFIG, f"--fault: the app has no service {', '.join(sorted(unknown))}")
        if not deployment.owned:
            _check_attached(plan, deployment.settings)
        yield client


def open_books(client: Port, prepared: Prepared) -> None:
    """Bring in the stock and the credit that the run needs.

    Raises:
        DefiniteError: they could not be brought in; no order was placed.
    """
    plan, workload = prepared.plan, prepared.workload
    feed = BooksFeed(workload.run, workload.opening_books())
    Driver(client, feed, concurrency=BOOKS_CONCURRENCY, patience_s=plan.patience_s).run()


def drive(
    client: RecordedClient,
    prepared: Prepared,
    console: Console,
    *,
    milestones: Sequence[Milestone] = (),
    watch: Watch | None = None,
) -> Driven:
    """Place every order, then wait until nothing of the run is open."""
    plan, workload, deployment = prepared.plan, prepared.workload, client.deployment
    feed = OrderFeed(workload)
    began_ms = time.time_ns() // 1_000_000
    meter = Meter(partial(deployment.statuses, STATUS_TIMEOUT_S))
    watcher = SnapshotWatcher(plan.data, deployment.app, client.history)
    with ProgressView(console, workload.orders) as view, watcher if plan.watch else nullcontext():

        def progress(tally: Tally, in_flight: int) -> None:
            view.show(tally, in_flight)
            meter.sample()

        if plan.arrivals is None:
            tally = Driver(
                client, feed, concurrency=plan.concurrency, patience_s=plan.patience_s, milestones=milestones, watch=watch,
                progress=progress).run()
        else:
            tally = OpenLoop(
                client, feed, [plan.arrivals], patience_s=plan.patience_s, watch=watch, progress=progress).run()
    usage = meter.stop()
    for _ in range(usage.restarts):
        client.history.note(RECOVERED)
    at_rest = wait_for_rest(
        DataDirectory(plan.data).log_path, min(plan.patience_s, REST_S_MAX), since_ms=began_ms)
    return Driven(tally, feed.told, usage, deployment.settings, deployment.owned, at_rest)


def conclude(prepared: Prepared, driven: Driven, app: App, history: History) -> Summary:
    """Audit all stores, and judge what was told and seen by them."""
    plan, workload = prepared.plan, prepared.workload
    orders = driven.tally.orders.told.total()  # of an open loop, as many as arrived
    demand = workload.demand if orders == workload.orders else workload.baskets.demand(orders)
    audited = audit(plan.data, app)
    return Summary(
        run=workload.run,
        placed={"orders": orders, "lines": demand.lines, "units": demand.units, "amount_minor": demand.amount_minor},
        tally=driven.tally,
        usage=driven.usage,
        audit=audited,
        check=check(history, plan.data, app, LIMITS, audited),
        seed=plan.seed,
        settings={
            **plan.to_json(), "embedded": driven.embedded, "deployment": driven.settings.model_dump(mode="json")},
        skipped_returns=driven.told.count(Told.SKIPPED),
        unmatched_return_lines=prepared.unmatched_return_lines,
        rows=None if prepared.trace is None else _rows(prepared.trace),
        notes=[] if driven.at_rest else ["transactions of the run were still open when it was audited"],
    )


def _rows(trace: Trace) -> dict[str, Any]:
    skipped = dict(trace.skipped.most_common())
    return {"read": trace.rows, "skipped": {str(reason): rows for reason, rows in skipped.items()}, "bad": trace.bad}


def _check_attached(plan: LoadPlan, running: Settings) -> None:
    where = f"a deployment already runs on {plan.data}"
    if plan.faults:
        raise DefiniteError(
            ErrorCode.CONFIG, f"--fault: {where}; simulated failures are for an embedded one: stop it with raytx down")
    if plan.shards not in (None, running.shards):
        raise DefiniteError(ErrorCode.CONFIG, f"--shards: {where} with {running.shards} shards: stop it with raytx down")
