"""One run of the load generator, in phases: prepare, connect, open the books, drive, wait for rest, check, audit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape

from loadgen.apart import apart
from loadgen.capacity import Capacity, find_capacity
from loadgen.checker.bounds import RECOVERED
from loadgen.checker.limits import Limits
from loadgen.checker.run import check
from loadgen.driver import Milestone
from loadgen.history import History, HistoryWriter, read_history
from loadgen.nemesis.beside import Struck, beside
from loadgen.own_saga import take_samples
from loadgen.place import Placed, Progress, Watch, open_books, place
from loadgen.plan import LoadPlan
from loadgen.prepare import Prepared, prepare
from loadgen.progress import ProgressView
from loadgen.recording import Histories, RecordedClient, histories
from loadgen.summary import Summary
from loadgen.tally import Tally
from loadgen.trace import Trace
from loadgen.usage import Meter, Usage
from loadgen.watching import SnapshotWatcher
from orchestrator.app import App
from orchestrator.audit import audit
from orchestrator.client import Client, connect
from orchestrator.cluster import Deployment
from orchestrator.config import Settings
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode, RaytxError
from orchestrator.log.rest import wait_for_rest

__all__ = ["LoadPlan", "Prepared", "conclude", "deployed", "drive", "open_books", "prepare", "run_load"]

STATUS_TIMEOUT_S = 2.0
REST_S_MAX = 30.0
UNFINISHED_REST_S_MAX = 5.0
LIMITS = Limits(replay_rows_max=5_000)  # a long run is to end soon after its last order

Statuses = Callable[[], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Driven:
    """What came of placing, before it is checked."""

    placed: Placed
    usage: Usage
    settings: Settings
    embedded: bool
    at_rest: bool

    @property
    def tally(self) -> Tally:
        """What was counted."""
        return self.placed.tally


@dataclass(slots=True)
class _Stage:
    """Where a run places its orders: the deployment, this process's client, and files for what clients are told."""

    client: Client
    recorded: RecordedClient
    files: Histories
    console: Console
    struck: Struck | None = None
    last: list[tuple[Prepared, Driven]] = field(default_factory=list)

    def run(self, plan: LoadPlan, prepared: Prepared | None = None) -> Driven:
        """Open the books of one plan and place its orders."""
        if ":" in plan.workload:
            plan = replace(plan, first_sample=take_samples(plan.data, plan.samples_max))
            prepared = prepare(plan)
        prepared = prepare(plan) if prepared is None else prepared
        if plan.processes == 1:
            open_books(self.recorded, prepared)
            with self._beside(plan) as watch:
                driven = drive(self.recorded, prepared, self.console, watch=watch)
        else:
            driven = self._run_apart(plan, prepared)
        self.last = [(prepared, driven)]
        return driven

    def _run_apart(self, plan: LoadPlan, prepared: Prepared) -> Driven:
        deployment = self.client.deployment
        with apart(plan, prepared.workload.run, self.files.more(plan.processes)) as drivers:
            return drive(
                self.recorded, prepared, self.console, place_all=drivers.place,
                statuses=lambda: [*deployment.statuses(STATUS_TIMEOUT_S), *drivers.statuses()])

    @contextmanager
    def _beside(self, plan: LoadPlan) -> Iterator[Watch | None]:
        """Where there is a plan, strike; only while the orders are placed: not the opening of the books."""
        if plan.chaos is None:
            yield None
            return
        with beside(plan.chaos, self.client.deployment, self.console) as (outcomes, self.struck):
            yield outcomes.watch


def run_load(plan: LoadPlan, console: Console) -> Summary:
    """The whole run.

    Args:
        plan: what to do.
        console: for progress; one that writes to stderr.

    Raises:
        DefiniteError: E_TRACE_ROW, E_INVALID_INPUT, E_CONFIG, E_DATA_DIR...: no order was placed; or what ended the run:
            then what had been placed has been judged, and the console was told.
        IndefiniteError: E_UNREACHABLE; likewise.
    """
    plan.check()
    prepared = None if plan.capacity_p99_ms is not None else prepare(plan)
    capacity: Capacity | None = None
    with histories(plan.history) as files:
        with _judged_in_any_case(plan, files, console) as reached, deployed(plan) as client, \
                HistoryWriter(files.main, "load") as history:
            reached.append(client.deployment)
            app = client.deployment.app
            stage = _Stage(client, RecordedClient(client, history), files, console)
            if plan.capacity_p99_ms is not None:
                capacity = find_capacity(plan, plan.capacity_p99_ms, lambda step: stage.run(step).placed, console)
            else:
                stage.run(plan, prepared)
        last, driven = stage.last[0]
        summary = conclude(last, driven, app, read_history(files.all))
    summary.settings = {**summary.settings, "capacity_p99_ms": plan.capacity_p99_ms}  # beside what the last run did
    summary.chaos = stage.struck
    summary.capacity = capacity
    return summary


@contextmanager
def _judged_in_any_case(plan: LoadPlan, files: Histories, console: Console) -> Iterator[list[Deployment]]:
    """Audit and judge what had been placed also where a run ends by an error or an interrupt, and say so.

    Yields:
        To be given the deployment, once there is one to judge.
    """
    began_ms = time.time_ns() // 1_000_000
    reached: list[Deployment] = []
    try:
        yield reached
    except BaseException:
        for deployment in reached:
            try:
                _judge_unfinished(plan, deployment, files, console, began_ms)
            except RaytxError as error:  # what ended the run is what is raised
                console.print(f"[red]what had been placed cannot be judged: {escape(str(error))}[/red]", soft_wrap=True)
        raise


def _judge_unfinished(
    plan: LoadPlan, deployment: Deployment, files: Histories, console: Console, began_ms: int,
) -> None:
    console.print("the run did not come to its end; what had been placed is judged:", soft_wrap=True)
    if not deployment.owned:  # an embedded one has come to rest by itself, as far as it could
        wait_for_rest(DataDirectory(plan.data).log_path, min(plan.patience_s, UNFINISHED_REST_S_MAX), since_ms=began_ms)
    audited = audit(plan.data, deployment.app)
    judged = check(read_history(files.all), plan.data, deployment.app, LIMITS, audited)
    worst = "" if audited.ok else f": {audited.violations:,} violations, worst: {escape(str(audited.worst_violation))}"
    console.print(f"{_mood('audit', audited.ok)}{worst}; {audited.open:,} open", highlight=False, soft_wrap=True)
    console.print(_mood("history", judged.ok) if judged.ok else judged.render(), highlight=False)


def _mood(what: str, ok: bool) -> str:  # noqa: FBT001
    return f"[bold green]{what} ok[/bold green]" if ok else f"[bold red]{what} FAILED[/bold red]"


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
            check_attached(plan, deployment.settings)
        yield client


def drive(
    client: RecordedClient,
    prepared: Prepared,
    console: Console,
    *,
    milestones: Sequence[Milestone] = (),
    watch: Watch | None = None,
    place_all: Callable[[Progress], Placed] | None = None,
    statuses: Statuses | None = None,
) -> Driven:
    """Place every order, then wait until nothing of the run is open.

    Args:
        client: of this process.
        prepared: its books are open.
        console: for progress.
        milestones: see `Driver`.
        watch: see `Driver`.
        place_all: has others place them; None: this process does.
        statuses: of all whose CPU is counted beside this process; None: the deployment's actors.
    """
    plan, deployment = prepared.plan, client.deployment
    began_ms = time.time_ns() // 1_000_000
    meter = Meter(statuses or partial(deployment.statuses, STATUS_TIMEOUT_S))
    watcher = SnapshotWatcher(plan.data, deployment.app, client.history)
    timed = plan.duration_s is not None or plan.arrivals is not None
    with ProgressView(console, None if timed else prepared.workload.orders) as view, watcher if plan.watch else nullcontext():

        def progress(tally: Tally, in_flight: int) -> None:
            view.show(tally, in_flight, meter.recovered)
            meter.sample()

        if place_all is None:
            placed = place(client, prepared, milestones=milestones, watch=watch, progress=progress)
        else:
            placed = place_all(progress)
    meter.end_clients()  # who has nothing left to do; what comes after the last outcome is a part of the orders' cost
    at_rest = wait_for_rest(
        DataDirectory(plan.data).log_path, min(plan.patience_s, REST_S_MAX), since_ms=began_ms)
    usage = meter.stop()
    for _ in range(usage.restarts):
        client.history.note(RECOVERED)
    return Driven(placed, usage, deployment.settings, deployment.owned, at_rest)


def conclude(prepared: Prepared, driven: Driven, app: App, history: History) -> Summary:
    """Audit all stores, and judge what was told and seen by them."""
    plan, placed = prepared.plan, driven.placed
    audited = audit(plan.data, app)
    return Summary(
        run=prepared.workload.run,
        placed={"orders": placed.orders, **placed.contents},
        tally=placed.tally,
        usage=driven.usage,
        audit=audited,
        check=check(history, plan.data, app, LIMITS, audited),
        seed=plan.seed,
        settings={
            **plan.to_json(), "embedded": driven.embedded, "deployment": driven.settings.model_dump(mode="json")},
        skipped_returns=placed.skipped,
        unmatched_return_lines=prepared.unmatched_return_lines,
        rows=None if prepared.trace is None else _rows(prepared.trace),
        notes=[] if driven.at_rest else ["transactions of the run were still open when it was audited"],
        begin_ns=placed.begin_ns,
    )


def _rows(trace: Trace) -> dict[str, Any]:
    skipped = dict(trace.skipped.most_common())
    return {"read": trace.rows, "skipped": {str(reason): rows for reason, rows in skipped.items()}, "bad": trace.bad}


def check_attached(plan: LoadPlan, running: Settings) -> None:
    """Whether a running deployment runs as it is asked to.

    Raises:
        DefiniteError: E_CONFIG, naming the option.
    """
    where = f"a deployment already runs on {plan.data}"
    if plan.faults:
        raise DefiniteError(
            ErrorCode.CONFIG, f"--fault: {where}; simulated failures are for an embedded one: stop it with raytx down")
    if plan.shards not in (None, running.shards):
        raise DefiniteError(ErrorCode.CONFIG, f"--shards: {where} with {running.shards} shards: stop it with raytx down")
    if plan.transport not in (None, running.transport):
        raise DefiniteError(ErrorCode.CONFIG, f"--transport: {where} over {running.transport}: stop it with raytx down")
