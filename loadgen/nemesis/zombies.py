"""`raytx chaos --zombies`: Ray gives up a node whose raylet is stopped, but the node's actors live on beside their successors.

A cluster of three nodes that reach the data directory. In each round the raylet of the node with the most actors is
stopped; Ray takes the node for dead and starts its actors on another one, while the old ones still run: log and services
are ended by whoever takes their database over, the shards are zombies. Every other round they are frozen as well and woken
up after their successors serve, with whatever they had been about to say. Then the raylet wakes up too, finds that it is
dead, and is replaced.
"""

from __future__ import annotations

import random
import shlex
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import ray.util
from rich.console import Console

from loadgen.checker.limits import Limits
from loadgen.nemesis.campaign import Campaign, Deployed, Ground, grounds
from loadgen.nemesis.disks import wait_end
from loadgen.nemesis.faults import Strike, see_outcomes
from loadgen.nemesis.live import ChaosView
from loadgen.nemesis.marks import is_waited_for
from loadgen.nemesis.nodes import SHARD, STORE, Nodes, RayNode
from loadgen.nemesis.plan import Kind
from loadgen.nemesis.report import ChaosReport, Wanted
from loadgen.nemesis.run import announce, settings_of
from loadgen.nemesis.targets import send
from orchestrator.config import Transport
from orchestrator.ownership import Holder
from orchestrator.processes import is_alive

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
SUCCESSOR_S_MAX = 60.0
ROUND_S = 15.0  # about
_ZOMBIE_MS = (500, 2_500)  # for so long it may speak beside its successor
_STOPPED_S_MAX = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ZombieOptions:
    """What a run is asked to do.

    Attributes:
        app: import path of the app.
        rounds: nodes that are lost, one after the other.
        seed: of times, orders and simulated failures.
        data: data directory, kept; None: a temporary one.
        shards: orchestrators.
        concurrency: orders in flight.
        lines: of an order.
        transport: what the processes of the deployment call each other over.
    """

    app: str
    rounds: int = 20
    seed: int = 1
    data: Path | None = None
    shards: int = 2
    concurrency: int = 128
    lines: str | None = "1-3"
    transport: Transport = Transport.DIRECT

    def replay(self) -> str:
        """The command that does the same."""
        words = ["raytx", "chaos", "--zombies", str(self.rounds), "--seed", str(self.seed), "--shards", str(self.shards),
                 "--concurrency", str(self.concurrency)]
        words += ["--transport", self.transport] if self.transport is not Transport.DIRECT else []
        return shlex.join([*words, "--lines", self.lines] if self.lines else words)

    def ground(self) -> Ground:
        """On what it takes place."""
        return Ground(app=self.app, seed=self.seed, data=self.data, disk_mb=None, concurrency=self.concurrency,
                      lines=self.lines, seconds=self.rounds * ROUND_S * 2)


def run_zombies(options: ZombieOptions, console: Console) -> ChaosReport:
    """The whole run; what it started is ended whatever happens.

    Args:
        options: what to do.
        console: for progress; one that writes to stderr.

    Raises:
        DefiniteError: E_CONFIG, E_DATA_DIR_IN_USE...: nothing was broken.
        IndefiniteError: E_UNREACHABLE: a node, the deployment or the load did not come up.
    """
    announce(options.seed, f"{options.rounds} nodes lost, their actors left running", options.replay(), console)
    ground = options.ground()
    with grounds(ground) as (data, histories), ExitStack() as stack:
        nodes = Nodes(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raytx-n", ignore_cleanup_errors=True))))
        stack.callback(nodes.close)
        nodes.start(ray.util.get_node_ip_address())  # the drivers' node: Ray looks for theirs by the machine's address
        with ThreadPoolExecutor(1) as starting:
            alive = list(starting.map(lambda ip: nodes.start(ip, (STORE, SHARD)), ADDRESSES))
        settings = settings_of(
            options.seed, shards=options.shards, transport=options.transport, store_resource=STORE, shard_resource=SHARD)
        deployed = Deployed(data, options.app, settings, address=nodes.gcs, environment=nodes.environment)
        stack.callback(deployed.down)
        deployed.up()
        campaign = Campaign(ground, deployed, histories, environment=nodes.environment)
        stack.callback(campaign.close)
        campaign.start()
        return _lose_nodes(options, campaign, Losses(campaign, nodes, alive, random.Random(options.seed)), console)


def _lose_nodes(options: ZombieOptions, campaign: Campaign, losses: Losses, console: Console) -> ChaosReport:
    with ChaosView(console, options.rounds, campaign.load) as view:

        def told(strike: Strike) -> None:
            view.tell(strike)
            campaign.note(strike)

        try:
            for number in range(1, options.rounds + 1):
                campaign.measure()
                view.begin(number, "a node is lost, its actors run on")
                losses.lose(number, told, frozen=number % 2 == 0)
                view.say(losses.words())
        finally:
            losses.heal()
        view.say("healed: waiting until every transaction has ended, then checking")
        few = max(1, options.rounds)
        judged = campaign.finish(Limits(commits_min=20 * few, aborts_min=few, duplicates_min=few))
    judged.facts |= losses.counts
    if losses.counts["zombie_shards"] < options.rounds:
        judged.failures.append(f"only {losses.counts['zombie_shards']} shards lived on beside a successor that served")
    return ChaosReport.of(
        campaign.load, judged, seed=options.seed, replay=options.replay(), planned=options.rounds, done=options.rounds,
        strikes=losses.strikes, wanted=Wanted(others={Kind.ZOMBIE: options.rounds}))


class Losses:
    """Loses nodes one after the other, and replaces them.

    Args:
        campaign: the load and what is noted.
        nodes: of the cluster.
        alive: those that hold actors or may.
        draw: of times.
    """

    def __init__(self, campaign: Campaign, nodes: Nodes, alive: list[RayNode], draw: random.Random) -> None:
        self._campaign, self._nodes, self._alive, self._draw = campaign, nodes, alive, draw
        self._stopped: list[Holder] = []
        self._pause = threading.Event()  # never set: only time passes
        self._replacing: Future[RayNode] | None = None
        self._starting = ThreadPoolExecutor(1)
        self.strikes: list[Strike] = []
        self.counts = {"zombie_shards": 0, "zombie_stores": 0, "zombies_left_by_themselves": 0, "nodes_lost": 0}

    def lose(self, number: int, told: Callable[[Strike], None], *, frozen: bool) -> None:
        """Lose the node with the most shards (then the most actors), and see its zombies and their successors.

        Args:
            number: of the round.
            told: called with every strike, and again when it has been recovered from.
            frozen: whether the shards are stopped too until their successors serve.
        """
        node, actors = self._fullest()
        at_ns = time.monotonic_ns()
        self._stop(node.raylet)
        shards = {actor: process for actor, process in actors.items() if actor.startswith("shard-")}
        for process in shards.values() if frozen else ():
            self._stop(process)
        struck = [Strike(number, Kind.ZOMBIE, actor, at_ns, waited=is_waited_for(actor)) for actor in actors]
        self.strikes += struck
        for strike in struck:
            told(strike)
        zombies = self._see_successors(actors)
        see_outcomes(self._campaign.load, struck, told)
        for process in shards.values():
            self._resume(process)
        self._pause.wait(self._draw.randint(*_ZOMBIE_MS) / 1_000)
        self.counts["zombies_left_by_themselves"] += sum(
            self._campaign.targets.has_logged(actor, process, "superseded") for actor, process in zombies.items())
        self._replace(node)

    def heal(self) -> None:
        """Wake up whatever is stopped, and have all nodes back."""
        for process in list(self._stopped):
            self._resume(process)
        self._take_replacement()
        self._starting.shutdown()

    def words(self) -> str:
        """What was seen so far."""
        return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in self.counts.items())

    def _fullest(self) -> tuple[RayNode, dict[str, Holder]]:
        targets = self._campaign.targets
        running = {actor: process for actor in targets.actors() if (process := targets.actor(actor)) is not None}
        placed = [
            {actor: process for actor, process in running.items() if node.hosts(process)} for node in self._alive]
        index = max(range(len(placed)), key=lambda at: (sum(a.startswith("shard-") for a in placed[at]), len(placed[at])))
        return self._alive[index], placed[index]

    def _see_successors(self, actors: dict[str, Holder]) -> dict[str, Holder]:
        """Wait until Ray has started every actor elsewhere; returns the shards that were still alive when theirs was seen."""
        zombies = {}
        for actor, _ in self._campaign.targets.successors(actors, SUCCESSOR_S_MAX):
            if not is_alive(actors[actor]):
                continue
            if actor.startswith("shard-"):
                zombies[actor] = actors[actor]
                self.counts["zombie_shards"] += 1
            else:
                self.counts["zombie_stores"] += 1
        return zombies

    def _replace(self, node: RayNode) -> None:
        """Wake the raylet up: it learns that it is dead and ends; another node takes its address, meanwhile."""
        self._take_replacement()
        self._resume(node.raylet)
        wait_end(node.raylet, _STOPPED_S_MAX)
        self._alive.remove(node)
        self._nodes.end(node)
        self.counts["nodes_lost"] += 1
        self._replacing = self._starting.submit(self._nodes.start, node.ip, (STORE, SHARD))

    def _take_replacement(self) -> None:
        if self._replacing is not None:
            self._alive.append(self._replacing.result())
            self._replacing = None

    def _stop(self, process: Holder) -> None:
        if send(process, signal.SIGSTOP):
            self._stopped.append(process)

    def _resume(self, process: Holder) -> None:
        if process in self._stopped:
            self._stopped.remove(process)
            send(process, signal.SIGCONT)
