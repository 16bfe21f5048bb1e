"""What every chaos run has in common: a deployment, a load on it that survives its driver, and the judgement at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from loadgen.checker.limits import Limits
from loadgen.checker.run import check
from loadgen.history import HistoryWriter, read_history
from loadgen.nemesis.disks import small_disk
from loadgen.nemesis.faults import Strike
from loadgen.nemesis.load_process import LoadOptions, LoadProcess
from loadgen.nemesis.report import TERMINAL_S_MAX, Checked
from loadgen.nemesis.targets import Targets
from loadgen.workload import new_run
from orchestrator.app import load_app
from orchestrator.audit import audit
from orchestrator.config import Settings
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.log.reader import LogReader

ORDERS_PER_S = 3_000  # more than can be placed: the feed does not run dry
DRAIN_S_MAX = 60.0
REST_S_MAX = 120.0
POLL_S = 0.02
RSS_MB_MAX = 1_024  # of any one process of the deployment
FAULTS: Mapping[str, Mapping[str, float]] = {  # simulated failures of the services, few: what is killed shall matter
    "payment": {"decline": 0.02, "lose_reply": 0.002},
    "inventory": {"transient": 0.002},
    "shipping": {"lose_reply": 0.002, "transient": 0.002},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """On what a run takes place.

    Attributes:
        app: import path of the app.
        seed: of plan, orders and simulated failures.
        data: data directory, kept; None: a temporary one.
        disk_mb: size of a tmpfs to put the data directory on instead.
        concurrency: orders in flight.
        lines: of an order.
        seconds: how long orders are placed, about.
    """

    app: str
    seed: int
    data: Path | None
    disk_mb: int | None
    concurrency: int
    lines: str | None
    seconds: float


class Deployed:
    """The deployment on a data directory, brought up by `raytx up` as often as it takes.

    Args:
        data: the directory.
        app: import path.
        settings: what it runs with.
        address: of a Ray cluster to join; None: a head of its own.
        environment: of the commands, and so of everything below them; None: this process's.
        command: what comes before them, such as `ip netns exec NAME`.
    """

    def __init__(
        self, data: Path, app: str, settings: Settings, *, address: str | None = None,
        environment: Mapping[str, str] | None = None, command: tuple[str, ...] = (),
    ) -> None:
        self.directory = DataDirectory(data)
        self.environment, self._command = environment or os.environ, command
        values = settings.model_dump(mode="json", exclude_defaults=True)
        self._options = ["--app", app, "--no-dashboard", *(["--address", address] if address else [])]
        self._options += [part for name, value in values.items() for part in ("--set", f"{name}={json.dumps(value)}")]

    def up(self) -> None:
        """Deploy; returns when it serves.

        Raises:
            IndefiniteError: E_UNREACHABLE: it does not.
        """
        ended = self._raytx("up", *self._options)
        if ended.returncode:
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"raytx up: {ended.stderr.strip()[-1_000:]}")

    def down(self) -> None:
        """End it, whatever is left of it."""
        self._raytx("down")

    def _raytx(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = [
            *self._command, sys.executable, "-m", "loadgen.cli", command, "--data", str(self.directory.path), *options]
        return subprocess.run(  # noqa: S603 - this interpreter, this package
            arguments, env=dict(self.environment), capture_output=True, text=True, check=False)


@dataclass(slots=True)
class Judged:
    """What came of a run once everything was healed.

    Attributes:
        terminal_s: from the last heal until no transaction was open; None: some still were.
        placed_s: seconds during which orders were placed, outages included.
        checks: audits and judgements by name.
        failures: what else is not as it must be.
        facts: figures by name.
    """

    terminal_s: float | None
    placed_s: float
    checks: dict[str, Checked] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    facts: dict[str, int] = field(default_factory=dict)


class Campaign:
    """A load on a deployment, and what is noted of it.

    Args:
        ground: on what.
        deployed: the deployment; it serves.
        histories: directory for the histories, and the driver's stderr.
        environment: of the driver's process; None: this one's.
        command: what comes before the driver's own command.
    """

    def __init__(
        self, ground: Ground, deployed: Deployed, histories: Path, *, environment: Mapping[str, str] | None = None,
        command: tuple[str, ...] = (),
    ) -> None:
        data = deployed.directory.path
        self.deployed, self.targets = deployed, Targets(data)
        self.load = LoadProcess(LoadOptions(
            data=data, histories=histories, run=new_run(), seed=ground.seed,
            orders=round((ground.seconds + 60) * ORDERS_PER_S), lines=ground.lines, concurrency=ground.concurrency,
            errors=histories / "driver.log", environment=environment or os.environ, command=command))
        self._histories, self._app = histories, load_app(ground.app)
        self._history = HistoryWriter(histories / "nemesis.jsonl", "nemesis")
        self._rss_mb: dict[str, int] = {}
        self._began_s = time.monotonic()
        self._failures: list[str] = []
        self._pause = threading.Event()  # never set: the log's file tells nobody when it changes

    def start(self) -> None:
        """Bring in the books and place orders."""
        self.load.start()
        self._began_s = time.monotonic()

    def close(self) -> None:
        """End the load."""
        self.load.close()
        self._history.close()

    def calm(self) -> None:
        """Start everything again in this program's own environment: what was injected by the environment is over."""
        self.load.kill()
        self.deployed.down()
        self.deployed.environment = self.load.environment = os.environ
        self.deployed.up()
        self.load.start()

    def note(self, strike: Strike) -> None:
        """Record a kill, or what was recovered from."""
        if strike.killed:
            self._history.note("killed" if strike.took_ms is None else "recovered", strike.actor)

    def measure(self) -> None:
        """Record the memory of every actor, and see that the load goes on."""
        for actor in self.targets.actors():
            process = self.targets.actor(actor)
            with suppress(psutil.NoSuchProcess):
                if process is not None:
                    rss = psutil.Process(process.pid).memory_info().rss >> 20
                    self._rss_mb[actor] = max(rss, self._rss_mb.get(actor, 0))
        if self.load.ended:
            self._failures.append(f"the load driver ended by itself in its life {self.load.lives}")
            self.load.start()

    def finish(self, limits: Limits) -> Judged:
        """Everything is healed: place nothing more, wait until nothing is open, end it all, judge.

        Args:
            limits: how much must have happened; bounds of time and memory are added.
        """
        self._history.note("healed")
        self._history.note("measured", values={f"rss_mb:{actor}": rss for actor, rss in self._rss_mb.items()})
        terminal_s = self._come_to_rest()
        judged = Judged(terminal_s, time.monotonic() - self._began_s, failures=self._failures)
        judged.checks["online audit"] = audit(self.deployed.directory.path, self._app)
        self.close()
        self.deployed.down()
        offline = audit(self.deployed.directory.path, self._app)
        bounds = Limits(
            commits_min=limits.commits_min, aborts_min=limits.aborts_min, recoveries_min=limits.recoveries_min,
            duplicates_min=limits.duplicates_min, settle_ms=round(TERMINAL_S_MAX * 1_000), caps={"rss_mb:*": RSS_MB_MAX})
        history = read_history(sorted(self._histories.glob("*.jsonl")))
        judged.checks["history"] = check(history, self.deployed.directory.path, self._app, bounds, offline)
        judged.checks["offline audit"] = offline
        judged.facts["operations"] = len(history.operations)
        judged.facts["rss_mb_max"] = max(self._rss_mb.values(), default=0)
        return judged

    def _come_to_rest(self) -> float | None:
        healed_s = time.monotonic()
        self.load.drain()
        took_s = None
        while took_s is None and time.monotonic() - healed_s < REST_S_MAX:
            with closing(LogReader(self.deployed.directory.log_path)) as log:
                if log.open_count() == 0 and (self.load.drained or self.load.ended):
                    took_s = time.monotonic() - healed_s
            self._pause.wait(POLL_S)
        if not self.load.wait_drained(DRAIN_S_MAX):
            self._failures.append("the load driver was not told every outcome")
        return took_s


@contextmanager
def grounds(ground: Ground) -> Iterator[tuple[Path, Path]]:
    """Data directory and directory for histories of a run; SIGTERM ends what happens in the context as Ctrl-C does.

    Raises:
        DefiniteError: E_DATA_DIR_IN_USE; E_CONFIG where no small disk can be made.
    """
    with ExitStack() as stack:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGTERM, before)
        histories = stack.enter_context(_temporary("raytx-history-"))
        if ground.disk_mb:
            data = stack.enter_context(small_disk(ground.disk_mb)) / "data"
        elif ground.data is not None:
            data, histories = ground.data, ground.data.absolute().with_name(f"{ground.data.name}-history")
            histories.mkdir(exist_ok=True)
            if DataDirectory(data).running() is not None:
                raise DefiniteError(
                    ErrorCode.DATA_DIR_IN_USE, f"a deployment runs on {data}, and chaos breaks one of its own")
        else:
            data = stack.enter_context(_temporary("raytx-chaos-")) / "data"
        yield data, histories


@contextmanager
def _temporary(prefix: str) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
