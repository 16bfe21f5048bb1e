"""One chaos run: deploy, place orders, break things as planned, heal, wait for everything to end, read, check."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loadgen.history import Call, History, read_history
from loadgen.nemesis.disks import small_disk, strace_is_there
from loadgen.nemesis.faults import Nemesis
from loadgen.nemesis.live import ChaosView
from loadgen.nemesis.load_process import LoadOptions, LoadProcess
from loadgen.nemesis.plan import DISK_KINDS, USUAL, Kind, Plan, make_plan
from loadgen.nemesis.report import ChaosReport, Checked, wanted_of
from loadgen.nemesis.targets import Targets
from loadgen.workload import new_run
from orchestrator.app import load_app
from orchestrator.audit import audit
from orchestrator.bringup import Keeper, bring_down, bring_up
from orchestrator.config import Settings, make_settings
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.reader import LogReader

ORDERS_PER_S = 3_000  # more than can be placed: the feed does not run dry
DRAIN_S_MAX = 60.0
REST_S_MAX = 120.0
POLL_S = 0.02
FAULTS = {  # simulated failures of the services, small ones: what is killed shall matter
    "payment": {"decline": 0.02, "lose_reply": 0.002},
    "inventory": {"transient": 0.002},
    "shipping": {"lose_reply": 0.002, "transient": 0.002},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    """What a run is asked to do.

    Attributes:
        app: import path of the app.
        minutes: of faults.
        seed: of plan, orders and simulated failures.
        data: data directory, kept; None: a temporary one, removed if the run held.
        faults: kinds to choose from; None: the usual ones, and full disks where `disk_mb` is given.
        shards: orchestrators.
        concurrency: orders in flight.
        lines: of an order.
        disk_mb: size of a tmpfs to put the data directory on; needed for full disks.
    """

    app: str
    minutes: float = 1.0
    seed: int = 1
    data: Path | None = None
    faults: frozenset[Kind] | None = None
    shards: int = 2
    concurrency: int = 128
    lines: str | None = "1-3"
    disk_mb: int | None = None

    def kinds(self) -> frozenset[Kind]:
        """The faults to choose from, without what this machine has no tool for.

        Raises:
            DefiniteError: E_CONFIG where one was asked for that cannot be had.
        """
        kinds = self.faults or (USUAL | ({Kind.FULL_DISK} if self.disk_mb else set()))
        if Kind.FULL_DISK in kinds and not self.disk_mb:
            raise DefiniteError(ErrorCode.CONFIG, "full-disk: it needs a small file system: --disk-mb 256")
        if kinds & DISK_KINDS and not strace_is_there():
            if self.faults:
                raise DefiniteError(ErrorCode.CONFIG, "strace is not installed: install it, or leave those faults out")
            kinds -= DISK_KINDS
        return kinds

    def replay(self) -> str:
        """The command that runs the same plan."""
        words = ["raytx", "chaos", "--minutes", f"{self.minutes:g}", "--seed", str(self.seed)]
        words += ["--shards", str(self.shards), "--concurrency", str(self.concurrency)]
        words += ["--lines", self.lines] if self.lines else []
        words += ["--disk-mb", str(self.disk_mb)] if self.disk_mb else []
        words += ["--faults", ",".join(sorted(self.faults))] if self.faults else []
        return shlex.join(words)


def run_chaos(options: ChaosOptions, console: Console) -> ChaosReport:
    """The whole run; what it started is ended whatever happens.

    Args:
        options: what to do.
        console: for progress; one that writes to stderr.

    Raises:
        DefiniteError: E_CONFIG, E_INVALID_INPUT, E_DATA_DIR_IN_USE...: nothing was broken.
        IndefiniteError: E_UNREACHABLE: the deployment, or the load driver, did not come up (again).
    """
    app = load_app(options.app)
    kinds = options.kinds()
    actors = ["log", *(service.name for service in app.services), *(f"shard-{n}" for n in range(options.shards))]
    plan = make_plan(options.seed, options.minutes * 60, actors, kinds)
    _announce(plan, options, console)
    with _ended_by_signal(), _directory(options) as data, ExitStack() as stack:
        deployed = Deployed(data, options.app, _settings(options))
        stack.callback(deployed.down)
        deployed.up()
        return _Run(options, plan, deployed, stack, console).run(kinds)


class Deployed:
    """The deployment on a data directory, brought up by this program as often as it takes.

    Args:
        data: the directory.
        app: import path.
        settings: what it runs with.
    """

    def __init__(self, data: Path, app: str, settings: Settings) -> None:
        self.directory, self.app, self.settings = DataDirectory(data), app, settings
        self._keepers: list[Keeper] = []

    def up(self) -> None:
        """Deploy; returns when it serves."""
        _, keeper = bring_up(self.directory, self.app, self.settings, dashboard=False)
        for earlier in self._keepers:
            earlier.wait()  # killed: take its exit code, or it stays a zombie
        self._keepers = [keeper]

    def down(self) -> None:
        """End it, whatever is left of it."""
        bring_down(self.directory)
        for keeper in self._keepers:
            keeper.wait()
        self._keepers = []


class _Run:
    def __init__(self, options: ChaosOptions, plan: Plan, deployed: Deployed, stack: ExitStack, console: Console) -> None:
        self._options, self._plan, self._deployed, self._console = options, plan, deployed, console
        self._app = load_app(options.app)
        self._data = deployed.directory.path
        self._histories = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raytx-history-")))
        self._load = LoadProcess(_load_options(options, self._data, self._histories))
        stack.callback(self._load.close)
        self._failures: list[str] = []
        self._pause = threading.Event()  # never set: the log's file tells nobody when it changes

    def run(self, kinds: frozenset[Kind]) -> ChaosReport:
        options, plan = self._options, self._plan
        began_s = time.monotonic()
        self._load.start()
        with ChaosView(self._console, plan, self._load) as view:
            nemesis = Nemesis(Targets(self._data), self._load, self._deployed.up, view.tell)
            try:
                done = self._strike(nemesis, view)
            finally:
                nemesis.heal()
            terminal_s = self._come_to_rest(view)
        placed_s = time.monotonic() - began_s
        checks: dict[str, Checked] = {"online audit": audit(self._data, self._app)}
        self._load.close()
        self._deployed.down()
        checks["offline audit"] = audit(self._data, self._app)
        facts = {"duplicates": duplicates(read_history(sorted(self._histories.glob("*.jsonl"))))}
        return ChaosReport(
            seed=plan.seed, replay=options.replay(), planned=len(plan.steps), done=done, strikes=nemesis.strikes,
            placed_s=placed_s, told=self._load.total(), aborted_by_code=self._load.aborted_by_code(), lives=self._load.lives,
            terminal_s=terminal_s, checks=checks, facts=facts, failures=self._failures,
            wanted=wanted_of(options.minutes, plan.kinds(), usual=kinds >= USUAL))

    def _strike(self, nemesis: Nemesis, view: ChaosView) -> int:
        """Carry the plan out, as much of it as fits into the time; returns how many steps."""
        end_s = time.monotonic() + self._options.minutes * 60
        for done, step in enumerate(self._plan.steps):
            if time.monotonic() > end_s:
                return done
            if self._load.ended:
                self._failures.append(f"the load driver ended by itself before step {step.number}")
                self._load.start()
            view.begin(step)
            nemesis.carry_out(step)
        return len(self._plan.steps)

    def _come_to_rest(self, view: ChaosView) -> float | None:
        """Place nothing more and wait until nothing is open; returns how long that took."""
        healed_s = time.monotonic()
        self._load.drain()
        view.say("healed: waiting until every transaction has ended")
        took_s = None
        while took_s is None and time.monotonic() - healed_s < REST_S_MAX:
            with closing(LogReader(self._deployed.directory.log_path)) as log:
                if log.open_count() == 0 and self._load.drained:
                    took_s = time.monotonic() - healed_s
            self._pause.wait(POLL_S)
        if not self._load.wait_drained(DRAIN_S_MAX):
            self._failures.append("the load driver was not told every outcome")
        return took_s


def duplicates(history: History) -> int:
    """How many submits repeated a key that had been submitted before."""
    submits = [operation.key for operation in history.operations if operation.call is Call.SUBMIT]
    return len(submits) - len(set(submits))


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Have SIGTERM end the run as Ctrl-C does, so that nothing is left running or stopped."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _announce(plan: Plan, options: ChaosOptions, console: Console) -> None:
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(plan.kinds().items()))
    console.print(f"seed {plan.seed}: {len(plan.steps)} steps ({kinds}); again with: {options.replay()}",
                  highlight=False, soft_wrap=True)


def _settings(options: ChaosOptions) -> Settings:
    faults = {service: {"seed": options.seed, **values} for service, values in FAULTS.items()}
    return make_settings(shards=options.shards, faults=faults)


def _load_options(options: ChaosOptions, data: Path, histories: Path) -> LoadOptions:
    return LoadOptions(
        data=data, histories=histories, run=new_run(), seed=options.seed,
        orders=round((options.minutes * 60 + 60) * ORDERS_PER_S), lines=options.lines, concurrency=options.concurrency,
        errors=histories / "driver.log", environment=os.environ)


@contextmanager
def _directory(options: ChaosOptions) -> Iterator[Path]:
    """Where the data lies: as asked for, on a small disk, or in a temporary directory that is kept if the run failed."""
    with ExitStack() as stack:
        if options.disk_mb:
            yield stack.enter_context(small_disk(options.disk_mb)) / "data"
            return
        if options.data is not None:
            if DataDirectory(options.data).running() is not None:
                raise DefiniteError(
                    ErrorCode.DATA_DIR_IN_USE, f"a deployment runs on {options.data}, and chaos breaks one of its own")
            yield options.data
            return
        made = Path(tempfile.mkdtemp(prefix="raytx-chaos-"))
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        yield made / "data"
