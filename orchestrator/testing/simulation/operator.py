"""An operator in a schedule: retries, cancels, resolves what is parked (and what is not), pauses and resumes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import Act, AppendStatus, Parked, Resolved

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.protocol.records import AppendResult, Record
    from orchestrator.testing.simulation.world import World

WHO, WHY = "operator", "because"
LATER_MS = 15_000  # longer than any message is late


class Operator:
    """What operators of one world do and what must hold of it.

    Args:
        world: acted on.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._resolved: set[tuple[str, str]] = set()  # by the log's word, until it says that their ledgers agree
        self._parkings: set[Parked] = set()  # stored: an append that is repeated holds them again
        self._paused: set[tuple[str, str]] = set()

    def plan(self) -> None:
        """Have acts happen at any moment of the schedule."""
        world = self._world
        for _ in range(world.options.acts):
            at_ms = world.chance.between("act", 0, world.options.phase_ms)
            if world.chance.planned("act"):
                world.after(at_ms, None, self._act)

    def stored(self, records: Iterable[tuple[Record, AppendResult]]) -> None:
        """The log has answered an append: no resolution contradicts the decision, and none is lost."""
        world = self._world
        for record, result in records:
            if result.status is not AppendStatus.STORED:
                continue
            repeated = record in self._parkings
            if isinstance(record, Parked) and record.code:
                self._parkings.add(record)
            if isinstance(record, Resolved):
                self._check(record)
            elif isinstance(record, Parked) and (record.transaction, record.step) in self._resolved:
                if repeated:
                    continue
                if record.code:
                    world.violation("R", f"{record.transaction} {record.step} is parked though it was resolved before")
                self._resolved.discard((record.transaction, record.step))
            elif isinstance(record, Parked) and record.code and world.chance.hits("resolve", world.options.resolve):
                delay_ms = world.chance.between("resolved", 1, 800)
                world.after(delay_ms, None, partial(self._ask, ActKind.RESOLVE, record.transaction, record.step))

    def resume_all(self) -> None:
        """Everything has healed: nothing stays paused."""
        for saga, service in sorted(self._paused):
            for later_ms in (0, LATER_MS, 2 * LATER_MS):  # a pause that was never answered may be asked for once more
                self._world.after(later_ms, None, partial(self._change, ActKind.RESUME, saga, service))

    def _check(self, record: Resolved) -> None:
        world = self._world
        decided = world.decisions.get(record.transaction)
        told = f"{record.transaction} {record.step} is resolved as {record.decision.name}"
        if decided is None or decided.decision is not record.decision:
            world.violation("D", f"{told}, decided is {decided.decision.name if decided else 'nothing'}")
        if (record.transaction, record.step) not in world.parked:
            world.violation("D", f"{told}, and was never parked")
        if record.awaited:
            self._resolved.add((record.transaction, record.step))

    def _act(self) -> None:
        world = self._world
        log = world.log
        if not world.faulty or log is None or not log.ready:
            return
        kind = world.chance.pick("kind of act", (ActKind.RETRY, ActKind.RETRY, ActKind.RESOLVE, ActKind.CANCEL, ActKind.PAUSE))
        begun = [
            one.begun for one in log.model.transactions.values() if (one.begun.saga, one.begun.version) in world.sagas
            and partition_of(one.begun.transaction) in world.partitions]  # nobody takes those of the opening books
        if not begun:
            return
        chosen = world.chance.pick("acted on", begun)
        step = world.chance.pick("acted on", world.sagas[chosen.saga, chosen.version].steps)
        if kind is not ActKind.PAUSE:
            self._ask(kind, chosen.transaction, step.name)
            return
        what = world.chance.pick("paused", ((chosen.saga, ""), ("", step.service)))
        self._paused.add(what)
        self._change(kind, *what)
        world.after(world.chance.between("paused for", 50, 3_000), None, partial(self._change, ActKind.RESUME, *what))

    def _ask(self, kind: ActKind, transaction: str, step: str) -> None:
        client = self._world.client
        if client is not None:
            self._world.run_as(client, partial(client.act, kind, transaction, step, WHO, WHY))

    def _change(self, kind: ActKind, saga: str, service: str) -> None:
        client = self._world.client
        if client is None:
            self._world.after(100, None, partial(self._change, kind, saga, service))
        else:
            act = Act("", kind, WHO, WHY, self._world.wall_ms, "", saga, service)
            self._world.run_as(client, partial(client.pause, act))
