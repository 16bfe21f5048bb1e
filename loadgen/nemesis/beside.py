"""`raytx load --chaos PLAN`: actors of the deployment are struck while this very process places orders.

Only actors: with a head or a keeper this process would be lost as well; `raytx chaos` has a driver of its own for that.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console

from loadgen.arrivals import SECONDS_MAX
from loadgen.nemesis.disks import strace_is_there
from loadgen.nemesis.faults import OUTCOME_S_MAX, Nemesis, Strike
from loadgen.nemesis.live import ChaosView
from loadgen.nemesis.marks import Mark, Marks
from loadgen.nemesis.plan import DISK_KINDS, ON_ACTORS, Plan, make_plan, parse_kinds
from loadgen.nemesis.report import spread
from loadgen.nemesis.targets import Targets
from orchestrator.cluster import Deployment
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.ownership import Holder
from orchestrator.transport import service_actor


@dataclass(frozen=True, slots=True)
class PlanText:
    """A plan as `--chaos` takes it: `seed=7,seconds=30,faults=kill+stop`, any part of it, or the word `usual`."""

    seed: int = 1
    seconds: float = 60.0
    faults: str | None = None

    @classmethod
    def parse(cls, text: str) -> PlanText:
        """From the option's text.

        Raises:
            DefiniteError: E_INVALID_INPUT.
        """
        values: dict[str, Any] = {}
        kinds: dict[str, Callable[[str], Any]] = {
            "seed": int, "seconds": float, "faults": lambda faults: faults.replace("+", ",")}
        for part in text.split(",") if text != "usual" else ():
            name, _, value = part.strip().partition("=")
            try:
                values[name] = kinds[name](value)
            except (KeyError, ValueError):
                raise DefiniteError(
                    ErrorCode.INVALID_INPUT,
                    f"--chaos: {part!r} is not like seed=7, seconds=30 or faults=kill+stop") from None
        parse_kinds(values.get("faults"), ON_ACTORS)
        found = cls(**values)
        if not 0 <= found.seconds <= SECONDS_MAX:
            raise DefiniteError(
                ErrorCode.INVALID_INPUT, f"--chaos: seconds must be from 0 to {SECONDS_MAX:,}; got {found.seconds}")
        return found

    def plan(self, actors: list[str]) -> Plan:
        """The plan for these actors."""
        kinds = parse_kinds(self.faults, ON_ACTORS) or (ON_ACTORS if strace_is_there() else ON_ACTORS - DISK_KINDS)
        return make_plan(self.seed, self.seconds, actors, kinds)


@dataclass(slots=True)
class Struck:
    """What was done beside a load, for its summary."""

    plan: Plan | None = None
    strikes: list[Strike] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        killed = [strike for strike in self.strikes if strike.killed]
        exact = [s.took_ms for s in killed if s.took_ms is not None and s.role in ("log", "shard")]
        return {
            "seed": None if self.plan is None else self.plan.seed, "kills": len(killed),
            "kills_by_role": dict(Counter(strike.role for strike in killed)),
            "recovery_ms": spread(exact), "failures": self.failures}

    def render(self) -> str:
        """One line for a terminal, and one for each failure."""
        told = self.to_json()
        kills = ", ".join(f"{role} {number}" for role, number in sorted(told["kills_by_role"].items()))
        times = "  ".join(f"{name} {value}" for name, value in told["recovery_ms"].items())
        text = f"chaos seed {told['seed']}: {told['kills']} kills ({kills})"
        waited = f"ms from the kill of a log or shard to the first outcome: {times}"
        return "\n".join([text, waited, *(f"[red]{failure}[/red]" for failure in self.failures)])


class InProcess:
    """Fits the nemesis's `Load`; outcomes are told to `watch`.

    Args:
        deployment: this process is attached to it, or embeds it.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._numbers = itertools.count(1)
        self._took_ms: dict[int, float] = {}
        self._changed = threading.Condition()
        self._begun = self._over = False
        self._marks = Marks(deployment.settings.shards, self._resolved)

    def watch(self, key: str, began_ns: int, ended_ns: int) -> None:
        """See every outcome, which counts for services too; fits `Driver`'s watch, whose clock is Linux's monotonic one."""
        self._marks.see(key, began_ns, ended_ns, committed=True)
        if not self._begun:
            with self._changed:
                self._begun = True
                self._changed.notify_all()

    def wait_begun(self) -> None:
        """Wait for the first outcome; returns as well when the load is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._begun or self._over)

    def end(self) -> None:
        """No more outcomes come."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def mark(self, actor: str, at_ns: int) -> int:
        """See `Load.mark`."""
        mark = Mark(next(self._numbers), actor, at_ns)
        self._marks.add(mark)
        return mark.number

    def took_ms(self, mark: int, limit_s: float) -> float | None:
        """See `Load.took_ms`; returns at once when the load is over."""
        with self._changed:
            self._changed.wait_for(lambda: mark in self._took_ms or self._over, limit_s)
            return self._took_ms.get(mark)

    def ray_kill(self, actor: str) -> int:
        """See `Load.ray_kill`."""
        name = actor if actor == "log" or actor.startswith("shard-") else service_actor(actor)
        try:
            handle = self._deployment.actor(name)
            at_ns = time.monotonic_ns()
            ray.kill(handle, no_restart=False)
        except (IndefiniteError, RayError, ValueError):
            return 0
        return at_ns

    def kill(self) -> Holder | None:
        """This process is not killed."""
        return None

    def start(self) -> None:
        """It has not ended."""

    def _resolved(self, mark: Mark, took_ms: float) -> None:
        with self._changed:
            self._took_ms[mark.number] = took_ms
            self._changed.notify_all()


@contextmanager
def beside(text: str, deployment: Deployment, console: Console) -> Iterator[tuple[InProcess, Struck]]:
    """Strike while in the context, from the first outcome on until the plan has been carried out or the context is left.

    Args:
        text: the plan, see `PlanText`.
        deployment: whose actors are struck.
        console: told of every strike.
    """
    load, struck = InProcess(deployment), Struck()
    targets = Targets(deployment.data_dir)
    struck.plan = PlanText.parse(text).plan(targets.actors())
    console.print(f"chaos seed {struck.plan.seed}: {len(struck.plan.steps)} steps ({struck.plan.words()})",
                  highlight=False, soft_wrap=True)
    view, over = ChaosView(console, len(struck.plan.steps), None), threading.Event()
    nemesis = Nemesis(targets, load, lambda: None, view.tell)
    struck.strikes = nemesis.strikes
    thread = threading.Thread(target=_carry_out, args=(struck, nemesis, load, over), name="nemesis", daemon=True)
    thread.start()
    try:
        yield load, struck
    finally:
        over.set()
        nemesis.heal()
        load.end()
        thread.join()


def _carry_out(struck: Struck, nemesis: Nemesis, load: InProcess, over: threading.Event) -> None:
    assert struck.plan is not None
    load.wait_begun()
    for step in struck.plan.steps:
        if over.is_set():
            return
        done = nemesis.carry_out(step)
        hung = [strike for strike in done if strike.waited and not strike.missed and strike.took_ms is None]
        if hung and not over.is_set():
            struck.failures.append(f"no outcome within {OUTCOME_S_MAX:.0f} s after {step}")
