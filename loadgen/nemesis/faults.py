"""Carries a plan's steps out: finds the victim, strikes, waits until callers are served again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from loadgen.nemesis.disks import DELAY_US, full_disk, injected, wait_end
from loadgen.nemesis.marks import is_waited_for
from loadgen.nemesis.plan import Kind, Step
from loadgen.nemesis.targets import Targets, send
from orchestrator.ownership import Holder

OUTCOME_S_MAX = 120.0  # without an outcome for so long after a kill, something hangs
SUCCESSOR_S_MAX = 20.0
STRACE_S_MAX = 6.0
SERVING_S_MAX = 180.0
LOSES_DRIVER = frozenset({Kind.DRIVER, Kind.RAYLET, Kind.GCS, Kind.KEEPER, Kind.ALL})
LEAVES_ALIVE = frozenset(
    {Kind.STOP, Kind.SLOW_DISK, Kind.FULL_DISK, Kind.DISK_ERROR, Kind.ZOMBIE, Kind.PARTITION})  # not killed by the nemesis


class Load(Protocol):
    """What the nemesis needs of whatever places orders; `LoadProcess` is one."""

    def mark(self, actor: str, at_ns: int) -> int:
        """Watch for the first outcome after a kill."""

    def took_ms(self, mark: int, limit_s: float) -> float | None:
        """Wait for it."""

    def ray_kill(self, actor: str) -> int:
        """Kill an actor by Ray's means; when, or 0."""

    def kill(self) -> Holder | None:
        """SIGKILL the driver."""

    def start(self) -> None:
        """Start it again."""


@dataclass(slots=True)
class Strike:
    """One thing that was done to one process.

    Attributes:
        step: number of the plan's step.
        kind: the step's.
        actor: log, shard-0, inventory, driver, raylet, gcs_server, keeper or deployment.
        at_ns: when, by the machine's monotonic clock.
        took_ms: from then to the first outcome that needed a successor; None: nobody waited for it, or it did not come.
        missed: the victim was not there, or did not die of it.
        waited: whether callers wait for this actor, so that there should be a `took_ms`.
    """

    step: int
    kind: Kind
    actor: str
    at_ns: int
    took_ms: float | None = None
    missed: bool = False
    waited: bool = True

    @property
    def killed(self) -> bool:
        """Whether a process was killed."""
        return not self.missed and self.kind not in LEAVES_ALIVE

    @property
    def role(self) -> str:
        """Who, without the shard's number."""
        return "shard" if self.actor.startswith("shard-") else self.actor


def see_outcomes(load: Load, struck: Sequence[Strike], told: Callable[[Strike], None]) -> None:
    """Wait until callers have been served by every actor that was struck; notes how long that took.

    Args:
        load: what places orders.
        struck: what was done.
        told: called with each strike that callers waited for.
    """
    waited = [strike for strike in struck if strike.waited]
    marks = [load.mark("log" if strike.kind in LOSES_DRIVER else strike.actor, strike.at_ns) for strike in waited]
    for number, strike in zip(marks, waited, strict=True):
        strike.took_ms = load.took_ms(number, OUTCOME_S_MAX)
        told(strike)


class Nemesis:
    """Carries out steps, one after the other.

    Args:
        targets: the deployment's processes.
        load: what places orders meanwhile.
        bring_up: starts the deployment again after its keeper is dead, and returns when it serves.
        told: called with every strike as it happens, and again when it has been recovered from.
    """

    def __init__(self, targets: Targets, load: Load, bring_up: Callable[[], None], told: Callable[[Strike], None]) -> None:
        self._targets, self._load, self._bring_up, self._told = targets, load, bring_up, told
        self._stopped: list[Holder] = []
        self._hold = threading.Event()
        self.strikes: list[Strike] = []
        self._acts: dict[Kind, Callable[[Step], list[Strike]]] = {
            Kind.KILL: self._kill, Kind.TOGETHER: self._kill, Kind.RAY_KILL: self._ray_kill, Kind.STOP: self._stop,
            Kind.NESTED: self._nested, Kind.STRACE: self._strace, Kind.SLOW_DISK: self._slow_disk,
            Kind.DISK_ERROR: self._disk_error, Kind.FULL_DISK: self._full_disk, Kind.DRIVER: self._driver,
            Kind.RAYLET: self._raylet, Kind.GCS: self._gcs, Kind.KEEPER: self._keeper, Kind.ALL: self._all}

    def carry_out(self, step: Step) -> list[Strike]:
        """Do what a step says and wait until callers are served again; returns what was done."""
        self._hold.wait(step.pause_ms / 1_000)
        struck = self._acts[step.kind](step)
        if step.kind in LOSES_DRIVER:
            self._load.start()
        see_outcomes(self._load, struck, self._told)
        return struck

    def heal(self) -> None:
        """End whatever still lasts; a later fault has no pause before it and does not last."""
        self._hold.set()
        for process in self._stopped:
            send(process, signal.SIGCONT)
        self._stopped.clear()

    # ---- actors ---------------------------------------------------------------------------------------------------

    def _kill(self, step: Step) -> list[Strike]:
        victims = [(actor, self._targets.incarnations(actor)) for actor in step.actors]
        return [self._strike(step, actor, *processes) for actor, processes in victims]

    def _ray_kill(self, step: Step) -> list[Strike]:
        at_ns = self._load.ray_kill(step.actors[0])
        return [self._struck(step, step.actors[0], at_ns or time.monotonic_ns(), missed=not at_ns)]

    def _stop(self, step: Step) -> list[Strike]:
        process = self._targets.actor(step.actors[0])
        if process is None or not send(process, signal.SIGSTOP):
            return [self._struck(step, step.actors[0], missed=True)]
        self._stopped.append(process)
        strike = self._struck(step, step.actors[0])
        self._hold.wait(step.hold_ms / 1_000)
        send(process, signal.SIGCONT)
        self._stopped.remove(process)
        strike.at_ns = time.monotonic_ns()  # what follows is measured from its end
        return [strike]

    def _nested(self, step: Step) -> list[Strike]:
        process = self._targets.actor(step.actors[0])
        struck = [self._strike(step, step.actors[0], process)]
        for _ in range(step.times - 1):
            process = self._targets.successor(step.actors[0], process, SUCCESSOR_S_MAX)
            struck[-1].waited = False
            struck.append(self._strike(step, step.actors[0], process))
        return struck

    def _strike(self, step: Step, actor: str, *processes: Holder | None) -> Strike:
        """Kill an actor's process: all of them where it has several, so that whoever serves afterwards is a successor."""
        at_ns = time.monotonic_ns()
        there = [send(process, signal.SIGKILL) for process in processes if process is not None]
        return self._struck(step, actor, at_ns, missed=not any(there))

    # ---- disks ----------------------------------------------------------------------------------------------------

    def _strace(self, step: Step) -> list[Strike]:
        return self._inject_until_end(step, f"signal=SIGKILL:when={step.at}")

    def _disk_error(self, step: Step) -> list[Strike]:
        return self._inject_until_end(step, f"error=EIO:when={step.at}")

    def _inject_until_end(self, step: Step, what: str) -> list[Strike]:
        process = self._targets.actor(step.actors[0])
        if process is None:
            return [self._struck(step, step.actors[0], missed=True)]
        with injected(process, step.calls, what):
            ended = wait_end(process, STRACE_S_MAX)
            return [self._struck(step, step.actors[0], missed=not ended)]

    def _slow_disk(self, step: Step) -> list[Strike]:
        process = self._targets.actor(step.actors[0])
        if process is None:
            return [self._struck(step, step.actors[0], missed=True)]
        strike = self._struck(step, step.actors[0])
        with injected(process, step.calls, f"delay_enter={DELAY_US}"):
            self._hold.wait(step.hold_ms / 1_000)
        strike.at_ns = time.monotonic_ns()
        return [strike]

    def _full_disk(self, step: Step) -> list[Strike]:
        with full_disk(self._targets.directory.path):
            strike = self._struck(step, "log")  # every order needs it
            self._hold.wait(step.hold_ms / 1_000)
        strike.at_ns = time.monotonic_ns()
        return [strike]

    # ---- the head, the keeper, the driver, everything -----------------------------------------------------------------

    def _driver(self, step: Step) -> list[Strike]:
        at_ns = time.monotonic_ns()
        return [self._struck(step, "driver", at_ns, missed=self._load.kill() is None)]

    def _raylet(self, step: Step) -> list[Strike]:
        return self._lose_server(step, "raylet")

    def _gcs(self, step: Step) -> list[Strike]:
        return self._lose_server(step, "gcs_server")

    def _lose_server(self, step: Step, server: str) -> list[Strike]:
        before = self._targets.record().run
        struck = [self._strike(step, server, self._targets.server(server))]
        if not struck[0].missed:
            self._targets.wait_serving(before, SERVING_S_MAX)
        self._load.kill()  # Ray ends it sooner or later: its cluster is gone
        return struck

    def _keeper(self, step: Step) -> list[Strike]:
        struck = [self._strike(step, "keeper", self._targets.record().owner)]
        self._bring_up()
        self._load.kill()
        return struck

    def _all(self, step: Step) -> list[Strike]:
        at_ns = time.monotonic_ns()
        for process in self._targets.everything():
            send(process, signal.SIGKILL)
        self._load.kill()
        struck = [self._struck(step, "deployment", at_ns)]
        self._bring_up()
        return struck

    # ---- what is noted ----------------------------------------------------------------------------------------------

    def _struck(self, step: Step, actor: str, at_ns: int = 0, *, missed: bool = False) -> Strike:
        waited = step.kind in LOSES_DRIVER or is_waited_for(actor)
        strike = Strike(step.number, step.kind, actor, at_ns or time.monotonic_ns(), missed=missed, waited=waited)
        self.strikes.append(strike)
        self._told(strike)
        return strike

