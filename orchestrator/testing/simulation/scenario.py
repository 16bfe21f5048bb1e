"""Single scenarios in given/expect style: what stands, what goes wrong and where, and what must come of it.

given(app).submitted("place_order", order).crash("payment", "between write and sync").expect("COMMITTED")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.app import App
from orchestrator.config import FaultSettings
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.saga import decode_plain
from orchestrator.testing.simulation.chance import Chance
from orchestrator.testing.simulation.life import Message
from orchestrator.testing.simulation.options import Options
from orchestrator.testing.simulation.schedule import BOOT_MS, settle
from orchestrator.testing.simulation.simulator import opened
from orchestrator.testing.simulation.story import tell
from orchestrator.testing.simulation.world import LATE_MS, ViolationError, World

POINTS = (
    "before sending", "on receiving", "after handling", "before the write", "between write and sync", "after the sync")
FAULTS = ("lose", "double", "swap", "late")


@dataclass(frozen=True, slots=True)
class Crash:
    """A role dies at its n-th point of a kind."""

    role: str
    when: str
    nth: int
    what: str
    power: bool


@dataclass(frozen=True, slots=True)
class Mishap:
    """Something happens to the n-th message of a kind."""

    fault: str
    method: str
    to: str
    nth: int


@dataclass(frozen=True, slots=True)
class Submission:
    """A transaction to be asked for."""

    saga: str
    key: str
    payload: bytes
    deadline_ms: int
    cancelled_ms: int | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario being written; every method returns a longer one, `run` and `expect` end it."""

    app: App
    submissions: tuple[Submission, ...] = ()
    crashes: tuple[Crash, ...] = ()
    mishaps: tuple[Mishap, ...] = ()
    refusing: tuple[str, ...] = ()
    shards: int = 1

    def submitted(
        self, saga: str, data: Any, *, key: str = "", deadline_ms: int = 0, cancelled_ms: int | None = None,
    ) -> Scenario:
        """Somebody submits a transaction.

        Args:
            saga: its name.
            data: the input, as a model or plain data.
            key: the idempotency key; one of its own by default.
            deadline_ms: 0 = the saga's.
            cancelled_ms: somebody cancels it by its key after so long (simulated ms).

        Raises:
            DefiniteError: E_UNKNOWN_SAGA or E_INVALID_INPUT.
        """
        key = key or f"transaction-{len(self.submissions)}"
        payload = self.app.saga(saga).encode_input(data)
        return replace(self, submissions=(*self.submissions, Submission(saga, key, payload, deadline_ms, cancelled_ms)))

    def crash(self, role: str, when: str, *, nth: int = 1, what: str = "", power: bool = False) -> Scenario:
        """A process dies at its n-th point of a kind, and is started again.

        Args:
            role: "log", "shard-0", or a service's name.
            when: one of `POINTS`.
            nth: counted from 1, among the points that fit.
            what: only points of this message ("commands", "replies", "append", ...); "" = any.
            power: whether that takes what was not synced.

        Raises:
            DefiniteError: E_INVALID_INPUT; there is no such role or kind of point.
        """
        _check("role", role, (*self._roles(),))
        _check("when", when, POINTS)
        return replace(self, crashes=(*self.crashes, Crash(role, when, nth, what, power)))

    def message(self, fault: str, method: str, *, to: str = "", nth: int = 1) -> Scenario:
        """Something happens to the n-th message of a kind.

        Args:
            fault: "lose", "double", "swap" (later ones overtake it) or "late" (beyond every timeout).
            method: "exchange", "commands", "replies", "append", "answer", "outcomes", "take", "load", "owner", "inquire".
            to: the role it is for; "" = any.
            nth: counted from 1.

        Raises:
            DefiniteError: E_INVALID_INPUT; there is no such fault.
        """
        _check("fault", fault, FAULTS)
        return replace(self, mishaps=(*self.mishaps, Mishap(fault, method, to, nth)))

    def refused_by(self, service: str) -> Scenario:
        """A service refuses whatever it is asked to prepare.

        Raises:
            DefiniteError: E_INVALID_INPUT; there is no such service.
        """
        _check("service", service, tuple(self.app.by_service))
        return replace(self, refusing=(*self.refusing, service))

    def run(self) -> Ended:
        """Let it happen, heal, wait until everything has ended, and check every guarantee.

        Raises:
            AssertionError: a guarantee was broken, or something never happened that the scenario names; with the story.
        """
        world = World(opened(self.app), Options(shards=self.shards, in_doubt_after_ms=2_000), Chance(1))
        watch = _Watch(self)
        try:
            self._run(world, watch)
        except ViolationError as error:
            raise AssertionError(f"{error}\n{tell(world.trace)}") from None
        missed = watch.missed()
        if missed:
            raise AssertionError(f"never happened: {missed}\n{tell(world.trace)}")
        return Ended(world)

    def expect(self, status: str, code: str = "", **states: str) -> Ended:
        """Run it; its one transaction must have come to this.

        Args:
            status: "COMMITTED", "ABORTED" or "REJECTED".
            code: why it aborted, where that matters.
            states: by step: "COMMITTED", "ROLLED_BACK", "REFUSED", "DONE", or "" where the step left no row.

        Raises:
            AssertionError: it has not; with the story.
        """
        ended = self.run()
        ended.expect(self.submissions[0].key, status, code, **states)
        return ended

    def _roles(self) -> tuple[str, ...]:
        return ("log", *self.app.by_service, *(f"shard-{index}" for index in range(self.shards)))

    def _run(self, world: World, watch: _Watch) -> None:
        world.service_faults = {service: FaultSettings(decline=1.0) for service in self.refusing}
        world.start_all()
        world.run_until(BOOT_MS)
        world.watched = True
        world.dies_at, world.mishap_of = watch.dies, watch.mishap
        for one in self.submissions:
            _ask(world, one)
        settle(world)
        if any(mishap.fault == "late" for mishap in self.mishaps):
            world.run_until(world.now_ms + LATE_MS)
            settle(world)


class Ended:
    """A scenario that has ended well: nothing was broken."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told = {told.key: told.outcome for told in world.answers if not told.cancel}

    def __repr__(self) -> str:
        return f"Ended({', '.join(f'{key}: {outcome.status.name}' for key, outcome in self._told.items())})"

    @property
    def story(self) -> str:
        """What happened, line by line."""
        return tell(self._world.trace)

    def expect(self, key: str, status: str, code: str = "", **states: str) -> None:
        """As `Scenario.expect`, of any of its transactions.

        Raises:
            AssertionError: it is otherwise; with the story.
        """
        outcome = self._told[key]
        found = {step: self.state(key, step) for step in states}
        if outcome.status.name != status or (code and outcome.code != code) or found != states:
            told = f"{key}: {outcome.status.name} {outcome.code} {found}, expected {status} {code} {states}"
            raise AssertionError(f"{told}\n{self.story}")

    def state(self, key: str, step: str) -> str:
        """Where a step stands in its service's ledger, "" where it left no row."""
        transaction = self._told[key].transaction
        for name in self._world.app.by_service:
            for row in self._world.stores.read_service(name).rows(transaction):
                if row.step == step:
                    return row.state
        return ""

    def results(self, key: str) -> dict[str, Any]:
        """What the steps answered, by step, as the caller was told."""
        return {result.step: decode_plain(result.result) for result in self._told[key].results}

    def totals(self, service: str) -> dict[str, int]:
        """The totals of a service's own audit."""
        return self._world.stores.read_service(service).audit().totals


def given(app: App, *, shards: int = 1) -> Scenario:
    """A deployment of the app whose opening transactions have run.

    Args:
        app: services and sagas.
        shards: of orchestrators.
    """
    return Scenario(app, shards=shards)


class _Watch:
    """Counts points and messages, and says when it is the turn of what the scenario names."""

    def __init__(self, scenario: Scenario) -> None:
        self._crashes = {crash: crash.nth for crash in scenario.crashes}
        self._mishaps = {mishap: mishap.nth for mishap in scenario.mishaps}

    def dies(self, world: World, role: str, when: str, what: str) -> bool:
        """Whether this is the point at which a role dies."""
        for crash, left in self._crashes.items():
            if left and (crash.role, crash.when) == (role, when) and crash.what in ("", what):
                self._crashes[crash] = left - 1
                if left == 1:
                    world.power_fails = crash.power
                    return True
        return False

    def mishap(self, message: Message) -> str | None:
        """What happens to a message."""
        target = message.target if isinstance(message.target, str) else message.target.role
        for mishap, left in self._mishaps.items():
            if left and mishap.method == message.method and mishap.to in ("", target):
                self._mishaps[mishap] = left - 1
                if left == 1:
                    return mishap.fault
        return None

    def missed(self) -> str:
        """What the scenario names and never came."""
        return ", ".join(str(one) for one, left in (*self._crashes.items(), *self._mishaps.items()) if left)


def _ask(world: World, one: Submission) -> None:
    client: Callable[[], Any] = lambda: world.client  # noqa: E731 - who it is may change
    world.run_as(client(), lambda: client().submit(one.saga, one.key, one.payload, one.deadline_ms))
    if one.cancelled_ms is not None:
        world.after(one.cancelled_ms, client(), lambda: client().cancel(one.key))


def _check(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"{field}: there is no {value!r}; choose among {', '.join(known)}")
