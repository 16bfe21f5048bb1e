"""What the core wants done. Nothing in one Effects waits for anything else in it.

A command or an outcome stands here only after the log has confirmed what it depends on (`Coordinator.appended`), so a
shell may append the records, send the commands and tell the outcomes in any order and at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.protocol.messages import Command, OutcomeMessage
from orchestrator.protocol.records import Record


class Waiter(NamedTuple):
    """Whom to tell: a client's incarnation and the number of its request."""

    peer: str
    number: int


class Joiner(NamedTuple):
    """Somebody who wants to be told the outcome of a key's or an id's transaction."""

    waiter: Waiter
    fingerprint: bytes | None  # of what was submitted; None fits any (a lookup, a cancel)
    cancel: bool = False

    def fits(self, fingerprint: bytes) -> bool:
        """Whether the transaction with this fingerprint is what is meant; an empty one fits any."""
        return self.fingerprint is None or not fingerprint or self.fingerprint == fingerprint


class Notice(NamedTuple):
    """What an operator should see; the shell logs it."""

    event: str
    level: str  # a loguru level
    transaction: str
    service: str = ""
    step: str = ""
    attempt: int = 0
    code: str = ""
    message: str = ""


class Lookup(NamedTuple):
    """A transaction that the core does not hold: load it from the log and hand it to `Coordinator.loaded`."""

    joiner: Joiner
    key: str
    transaction: str  # empty: by key
    otherwise: OutcomeMessage | None = None  # the answer where the log has none; E_UNKNOWN by default


@dataclass(slots=True)
class Effects:
    """What one call of the core asks of its shell.

    Attributes:
        records: to be appended, in this order; each one's result goes to `Coordinator.appended`.
        commands: by service; may be lost, doubled, reordered.
        outcomes: whom to tell what; durable already.
        lookups: to be loaded from the log.
        notices: to be logged.
        withdrawn: (service, transaction, step) of commands that must not be sent any more, as far as that can be helped.
        fenced: partitions whose epoch a participant or the log called stale: ask the log who owns them.
    """

    records: list[Record] = field(default_factory=list)
    commands: dict[str, list[Command]] = field(default_factory=dict)
    outcomes: list[tuple[Waiter, OutcomeMessage]] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    fenced: set[int] = field(default_factory=set)
    withdrawn: list[tuple[str, str, str]] = field(default_factory=list)

    def command(self, service: str, command: Command) -> None:
        """Add one command for a service."""
        queue = self.commands.get(service)
        if queue is None:
            self.commands[service] = [command]
        else:
            queue.append(command)

    def include(self, other: Effects) -> None:
        """Add what another call asked for, so that one shell call does both."""
        self.records += other.records
        self.outcomes += other.outcomes
        self.lookups += other.lookups
        self.notices += other.notices
        self.withdrawn += other.withdrawn
        self.fenced |= other.fenced
        for service, commands in other.commands.items():
            self.commands.setdefault(service, []).extend(commands)
