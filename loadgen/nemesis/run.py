"""`raytx chaos --minutes`: deploy, place orders, break things as planned, heal, wait for everything to end, check."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loadgen.checker.limits import Limits
from loadgen.nemesis.campaign import FAULTS, Campaign, Deployed, Ground, grounds
from loadgen.nemesis.disks import strace_is_there
from loadgen.nemesis.faults import Nemesis, Strike
from loadgen.nemesis.live import ChaosView
from loadgen.nemesis.plan import DISK_KINDS, USUAL, Kind, Plan, make_plan
from loadgen.nemesis.report import ChaosReport, Wanted
from orchestrator.app import load_app
from orchestrator.config import Settings, Transport, make_settings
from orchestrator.errors import DefiniteError, ErrorCode

KILLS_PER_MINUTE = 15
DEPLOYMENTS_PER_MINUTE = 0.5
COMMITS_PER_MINUTE = 1_000
RARER_PER_MINUTE = 10  # aborts, duplicates
PUSH_TASK = "CoreWorkerService.grpc_client.PushTask"  # a call of an actor
RPC_FAILURES_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    """What a run is asked to do.

    Attributes:
        app: import path of the app.
        minutes: of faults.
        seed: of plan, orders and simulated failures.
        data: data directory, kept, with the histories beside it; None: a temporary one.
        faults: kinds to choose from; None: the usual ones, and full disks where `disk_mb` is given.
        shards: orchestrators.
        concurrency: orders in flight.
        lines: of an order.
        transport: what the processes of the deployment call each other over.
        disk_mb: size of a tmpfs to put the data directory on; needed for full disks.
        rpc_percent: of Ray's actor calls, so many are lost on their way, and so many more on their way back.
    """

    app: str
    minutes: float = 1.0
    seed: int = 1
    data: Path | None = None
    faults: frozenset[Kind] | None = None
    shards: int = 2
    concurrency: int = 128
    lines: str | None = "1-3"
    transport: Transport = Transport.DIRECT
    disk_mb: int | None = None
    rpc_percent: int = 0

    def environment(self) -> Mapping[str, str]:
        """Of everything that is connected to Ray until it is healed: Ray injects failed calls as it says."""
        if not self.rpc_percent:
            return os.environ
        failure = {
            "num_failures": RPC_FAILURES_MAX, "req_failure_prob": self.rpc_percent, "resp_failure_prob": self.rpc_percent}
        return os.environ | {"RAY_testing_rpc_failure": json.dumps({PUSH_TASK: failure})}

    def kinds(self) -> frozenset[Kind]:
        """The faults to choose from, without what this machine has no tool for.

        Raises:
            DefiniteError: E_CONFIG where one was asked for that cannot be had.
        """
        kinds = self.faults or (USUAL | ({Kind.FULL_DISK} if self.disk_mb else set()))
        if Kind.FULL_DISK in kinds and not self.disk_mb:
            raise DefiniteError(ErrorCode.CONFIG, "full-disk: it needs a small file system: --disk-mb 512")
        if kinds & DISK_KINDS and not strace_is_there():
            if self.faults:
                raise DefiniteError(ErrorCode.CONFIG, "strace is not installed: install it, or leave those faults out")
            kinds -= DISK_KINDS
        return kinds

    def ground(self) -> Ground:
        """On what it takes place."""
        return Ground(app=self.app, seed=self.seed, data=self.data, disk_mb=self.disk_mb, concurrency=self.concurrency,
                      lines=self.lines, seconds=self.minutes * 60)

    def wanted(self, plan: Plan) -> Wanted:
        """What a run must have contained: of the usual faults a fixed rate, else half of the deployments planned."""
        if self.usual():
            return Wanted(round(KILLS_PER_MINUTE * self.minutes), int(DEPLOYMENTS_PER_MINUTE * self.minutes))
        return Wanted(0, plan.kinds()[Kind.ALL] // 2)

    def limits(self) -> Limits:
        """How much must have been told."""
        few = max(1, round(RARER_PER_MINUTE * self.minutes))
        commits = round(COMMITS_PER_MINUTE * self.minutes) if self.usual() else few  # a head that is down places nothing
        return Limits(commits_min=commits, aborts_min=few, duplicates_min=few)

    def usual(self) -> bool:
        """Whether all usual faults are among those to choose from, but for what needs strace."""
        return self.kinds() >= USUAL - DISK_KINDS

    def replay(self) -> str:
        """The command that runs the same plan."""
        words = ["raytx", "chaos", "--minutes", f"{self.minutes:g}", "--seed", str(self.seed)]
        words += ["--shards", str(self.shards), "--concurrency", str(self.concurrency)]
        words += ["--lines", self.lines] if self.lines else []
        words += ["--disk-mb", str(self.disk_mb)] if self.disk_mb else []
        words += ["--rpc-percent", str(self.rpc_percent)] if self.rpc_percent else []
        words += ["--transport", self.transport] if self.transport is not Transport.DIRECT else []
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
    kinds = options.kinds()
    services = [service.name for service in load_app(options.app).services]
    plan = make_plan(
        options.seed, options.minutes * 60, ["log", *services, *(f"shard-{n}" for n in range(options.shards))], kinds)
    announce(plan.seed, f"{len(plan.steps)} steps ({plan.words()})", options.replay(), console)
    ground = options.ground()
    with grounds(ground) as (data, histories), ExitStack() as stack:
        settings = settings_of(options.seed, shards=options.shards, transport=options.transport)
        deployed = Deployed(data, options.app, settings, environment=options.environment())
        stack.callback(deployed.down)
        deployed.up()
        campaign = Campaign(ground, deployed, histories, environment=options.environment())
        stack.callback(campaign.close)
        campaign.start()
        return _break(options, plan, campaign, console)


def _break(options: ChaosOptions, plan: Plan, campaign: Campaign, console: Console) -> ChaosReport:
    with ChaosView(console, len(plan.steps), campaign.load) as view:

        def told(strike: Strike) -> None:
            view.tell(strike)
            campaign.note(strike)

        nemesis = Nemesis(campaign.targets, campaign.load, campaign.deployed.up, told)
        try:
            done = _strike(plan, time.monotonic() + options.minutes * 60, nemesis, campaign, view)
        finally:
            nemesis.heal()
        if options.rpc_percent:
            campaign.calm()
        view.say("healed: waiting until every transaction has ended, then checking")
        judged = campaign.finish(options.limits())
    if options.rpc_percent:
        judged.facts["calls_lost"] = calls_lost(campaign.targets.directory.path)
        if not judged.facts["calls_lost"]:
            judged.failures.append("no call was seen to fail")
    return ChaosReport.of(
        campaign.load, judged, seed=plan.seed, replay=options.replay(), planned=len(plan.steps), done=done,
        strikes=nemesis.strikes, wanted=options.wanted(plan))


def _strike(plan: Plan, end_s: float, nemesis: Nemesis, campaign: Campaign, view: ChaosView) -> int:
    """Carry the plan out, as much of it as fits into the time; returns how many steps."""
    for done, step in enumerate(plan.steps):
        if time.monotonic() > end_s:
            return done
        campaign.measure()
        view.begin(step.number, str(step))
        nemesis.carry_out(step)
    return len(plan.steps)


def calls_lost(data: Path) -> int:
    """How often shards noted that a call of a service failed, in the logs that are kept."""
    return sum(path.read_text(errors="replace").count('"event":"service_lost"') for path in data.glob("logs/shard-*.jsonl"))


def announce(seed: int, what: str, replay: str, console: Console) -> None:
    """Print what will be done, and how to do it again, before anything is."""
    console.print(f"seed {seed}: {what}; again with: {replay}", highlight=False, soft_wrap=True)


def settings_of(seed: int, **more: object) -> Settings:
    """Settings of a deployment that is to be broken: with simulated failures of its services."""
    return make_settings(**more, faults={service: {"seed": seed, **values} for service, values in FAULTS.items()})
