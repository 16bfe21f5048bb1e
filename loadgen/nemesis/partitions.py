"""`raytx chaos --partitions`: nodes in network namespaces, cut off one way or both ways under load, and healed.

The head with log, services, keeper and driver is one node; the shards run on two others. In each round the node with the
most shards is cut off: shortly, so that Ray notices nothing and calls hang, or for so long that Ray gives the node up and
starts its shards on the other one. Then packets flow again, and what was cut off speaks to whoever replaced it.
"""

from __future__ import annotations

import os
import random
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loadgen.checker.limits import Limits
from loadgen.nemesis.campaign import Campaign, Deployed, Ground, grounds
from loadgen.nemesis.disks import wait_end
from loadgen.nemesis.faults import Strike, see_outcomes
from loadgen.nemesis.live import ChaosView
from loadgen.nemesis.network import Cut, Network, network
from loadgen.nemesis.nodes import SHARD, STORE, Nodes, RayNode
from loadgen.nemesis.plan import Kind
from loadgen.nemesis.report import ChaosReport, Wanted
from loadgen.nemesis.run import announce, settings_of
from orchestrator.config import Transport
from orchestrator.ownership import Holder
from orchestrator.processes import is_alive

ROUND_S = 15.0  # about
_HOLD_MS = (300, 1_500)
_SUCCESSOR_S_MAX = 60.0
_GIVEN_UP_S = 10.0  # a node that Ray has given up ends once it hears of that
HEAD, OTHERS = 0, (1, 2)  # namespaces


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOptions:
    """What a run is asked to do.

    Attributes:
        app: import path of the app.
        rounds: cuts, one after the other: the ways in turn, short and long ones.
        seed: of times, orders and simulated failures.
        data: data directory, kept; None: a temporary one.
        shards: orchestrators.
        concurrency: orders in flight.
        lines: of an order.
        transport: what the processes of the deployment call each other over.
    """

    app: str
    rounds: int = 6
    seed: int = 1
    data: Path | None = None
    shards: int = 2
    concurrency: int = 128
    lines: str | None = "1-3"
    transport: Transport = Transport.DIRECT

    def replay(self) -> str:
        """The command that does the same."""
        words = ["raytx", "chaos", "--partitions", str(self.rounds), "--seed", str(self.seed), "--shards", str(self.shards),
                 "--concurrency", str(self.concurrency)]
        words += ["--transport", self.transport] if self.transport is not Transport.DIRECT else []
        return shlex.join([*words, "--lines", self.lines] if self.lines else words)

    def ground(self) -> Ground:
        """On what it takes place."""
        return Ground(app=self.app, seed=self.seed, data=self.data, disk_mb=None, concurrency=self.concurrency,
                      lines=self.lines, seconds=self.rounds * ROUND_S * 2)


def run_partitions(options: PartitionOptions, console: Console) -> ChaosReport:
    """The whole run; what it started is ended whatever happens.

    Args:
        options: what to do.
        console: for progress; one that writes to stderr.

    Raises:
        DefiniteError: E_CONFIG where no namespaces can be made; E_DATA_DIR_IN_USE...: nothing was broken.
        IndefiniteError: E_UNREACHABLE: a node, the deployment or the load did not come up.
    """
    announce(options.seed, f"{options.rounds} cuts: {', '.join(Cut)}, short and long", options.replay(), console)
    ground = options.ground()
    with grounds(ground) as (data, histories), _cluster() as (nodes, net, others), ExitStack() as stack:
        settings = settings_of(
            options.seed, shards=options.shards, transport=options.transport, store_resource=STORE, shard_resource=SHARD)
        around = net.command(HEAD)
        deployed = Deployed(
            data, options.app, settings, address=nodes.gcs, environment=nodes.environment, command=around)
        stack.callback(deployed.down)
        deployed.up()
        campaign = Campaign(ground, deployed, histories, environment=nodes.environment, command=around)
        stack.callback(campaign.close)
        campaign.start()
        return _cut_off(options, campaign, Cuts(campaign, nodes, net, others, random.Random(options.seed)), console)


@contextmanager
def _cluster() -> Iterator[tuple[Nodes, Network, dict[int, RayNode]]]:
    """A head and two other nodes, each in a namespace of its own; gives the other ones by namespace."""
    with ExitStack() as stack:
        net = stack.enter_context(network(f"rtx{os.getpid() % 10_000}", 1 + len(OTHERS)))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="raytx-n", ignore_cleanup_errors=True))
        nodes = Nodes(Path(directory))
        stack.callback(nodes.close)
        nodes.start(net.ip(HEAD), (STORE,), net.command(HEAD))
        yield nodes, net, {index: nodes.start(net.ip(index), (SHARD,), net.command(index)) for index in OTHERS}


def _cut_off(options: PartitionOptions, campaign: Campaign, cuts: Cuts, console: Console) -> ChaosReport:
    with ChaosView(console, options.rounds, campaign.load) as view:

        def told(strike: Strike) -> None:
            view.tell(strike)
            campaign.note(strike)

        try:
            for number in range(1, options.rounds + 1):
                campaign.measure()
                cut, long = list(Cut)[number % len(Cut)], number % 2 == 0
                view.begin(number, f"packets dropped: {cut}")
                cuts.cut(number, cut, told, long=long)
                view.say(cuts.words())
        finally:
            cuts.heal()
        view.say("healed: waiting until every transaction has ended, then checking")
        few = max(1, options.rounds)
        judged = campaign.finish(Limits(commits_min=20 * few, aborts_min=few, duplicates_min=few))
    judged.facts |= cuts.counts
    if not cuts.counts["zombie_shards"] and options.rounds > 1:
        judged.failures.append("no shard ran on, cut off, beside a successor")
    return ChaosReport.of(
        campaign.load, judged, seed=options.seed, replay=options.replay(), planned=options.rounds, done=options.rounds,
        strikes=cuts.strikes, wanted=Wanted(others={Kind.PARTITION: options.rounds}))


class Cuts:
    """Cuts nodes off, one after the other, and mends what that did to them.

    Args:
        campaign: the load and what is noted.
        nodes: of the cluster.
        net: the namespaces.
        others: the nodes with shards, by namespace.
        draw: of times.
    """

    def __init__(
        self, campaign: Campaign, nodes: Nodes, net: Network, others: dict[int, RayNode], draw: random.Random,
    ) -> None:
        self._campaign, self._nodes, self._net, self._others, self._draw = campaign, nodes, net, others, draw
        self._hold = threading.Event()  # never set: only time passes
        self.strikes: list[Strike] = []
        self.counts = {"cuts": 0, "nodes_given_up": 0, "zombie_shards": 0}

    def cut(self, number: int, cut: Cut, told: Callable[[Strike], None], *, long: bool) -> None:
        """Cut the node with the most shards off for a while.

        Args:
            number: of the round.
            cut: which packets are dropped.
            told: called with every strike, and again when its actor has served after the cut was mended.
            long: whether Ray shall give the node up.
        """
        index, shards = self._fullest()
        self._net.cut(index, cut)
        struck = [Strike(number, Kind.PARTITION, actor, time.monotonic_ns()) for actor in shards]
        self.strikes += struck
        self.counts["cuts"] += 1
        for strike in struck:
            told(strike)
        if long:
            self._await_successors(shards)
        self._hold.wait(self._draw.randint(*_HOLD_MS) / 1_000)
        self._net.mend(index)
        for strike in struck:
            strike.at_ns = time.monotonic_ns()  # from here on they can be served
        see_outcomes(self._campaign.load, struck, told)
        if long and wait_end(self._others[index].raylet, _GIVEN_UP_S):
            self.counts["nodes_given_up"] += 1
            self._nodes.end(self._others[index])
            self._others[index] = self._nodes.start(self._net.ip(index), (SHARD,), self._net.command(index))

    def heal(self) -> None:
        """Forward all packets."""
        for index in OTHERS:
            self._net.mend(index)

    def words(self) -> str:
        """What was seen so far."""
        return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in self.counts.items())

    def _fullest(self) -> tuple[int, dict[str, Holder]]:
        targets = self._campaign.targets
        shards = [actor for actor in targets.actors() if actor.startswith("shard-")]
        running = {actor: process for actor in shards if (process := targets.actor(actor)) is not None}
        placed = {
            index: {actor: process for actor, process in running.items() if node.hosts(process)}
            for index, node in self._others.items()}
        index = max(placed, key=lambda at: len(placed[at]))
        return index, placed[index]

    def _await_successors(self, shards: dict[str, Holder]) -> None:
        """Wait until Ray has given the node up; counts the shards that run on, cut off, while their successors do."""
        for actor, _ in self._campaign.targets.successors(shards, _SUCCESSOR_S_MAX):
            self.counts["zombie_shards"] += is_alive(shards[actor])
