"""What the roles of a simulated deployment keep durable: a port, and the journals that most schedules use."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from orchestrator.testing.simulation.journal import Journal, Point
from orchestrator.testing.simulation.log_model import LogModel, MemoryLog

if TYPE_CHECKING:
    from orchestrator.app import LedgerReader, StepState
    from orchestrator.local import LocalParticipant
    from orchestrator.testing.simulation.life import Life
    from orchestrator.testing.simulation.log_life import AnyLog
    from orchestrator.testing.simulation.workload import Books, JournalBooks
    from orchestrator.testing.simulation.world import World


class Stores(Protocol):
    """The files of all roles that have one, and what can happen to them."""

    names: Collection[str]  # of those roles
    log_journal: Journal | None  # where the log is one

    def open_log(self) -> AnyLog:
        """Take the log's file over."""

    def open_service(self, name: str) -> LocalParticipant:
        """Take a service's file over."""

    def read_log(self) -> LogModel:
        """What the log's file holds."""

    def read_service(self, name: str) -> LedgerReader:
        """What a service's file holds."""

    def history_of(self, name: str) -> Iterator[StepState]:
        """Every state that any step ever had in a service's file, in the order of writing, where the file tells."""

    def has_written(self, name: str) -> bool:
        """Whether a service wrote anything but its openings since the books were opened."""

    def damages(self) -> Iterator[str]:
        """What is wrong with the files themselves."""

    def books(self) -> Books:
        """What they hold now, at rest, for other worlds to begin with."""

    def close(self) -> None:
        """Every process gives its files up."""

    def died(self, life: Life) -> None:
        """A process has died; power may have failed with it."""

    def fill(self, name: str) -> None:
        """A disk is full."""

    def make_room(self, name: str) -> None:
        """It is not any more."""

    def cannot_write(self, name: str) -> bool:
        """Whether whoever has that file would better wait than try; False where trying is the way to find out."""


class JournalStores:
    """Journals in memory: batches that are written, synced, and lost.

    Args:
        world: whose chances and points these are.
        books: what the journals hold already.
    """

    def __init__(self, world: World, books: JournalBooks) -> None:
        self.names: Collection[str] = books.entries.keys()
        self.journals = {name: Journal(name, entries) for name, entries in books.entries.items()}
        for journal in self.journals.values():
            journal.at = self._at
        self.log_journal: Journal | None = self.journals["log"]
        self._world, self._books = world, books
        self._full: set[str] = set()

    def open_log(self) -> AnyLog:
        """Take the log's journal over."""
        return MemoryLog(self.journals["log"], self._world.options.retention_ms, self._world.run)

    def open_service(self, name: str) -> LocalParticipant:
        """Take a service's journal over."""
        world = self._world
        return world.app.by_service[name].local(
            self.journals[name], world.now_ms, world.options.in_doubt_after_ms, world.service_faults.get(name))

    def read_log(self) -> LogModel:
        """What the log's journal holds."""
        return MemoryLog(self.journals["log"], self._world.options.retention_ms, read_only=True).model

    def read_service(self, name: str) -> LedgerReader:
        """What a service's journal holds."""
        return self._world.app.by_service[name].local_reader(self.journals[name])

    def history_of(self, name: str) -> Iterator[StepState]:
        """Every state that any step ever had, in the order of writing."""
        return self._world.app.by_service[name].local_history(self.journals[name])

    def has_written(self, name: str) -> bool:
        """Whether a service wrote anything but its openings since the books were opened."""
        return len(self.journals[name].entries) > len(self._books.entries[name]) + 2

    def damages(self) -> Iterator[str]:
        """A journal cannot be damaged."""
        return iter(())

    def books(self) -> Books:
        """What they hold now, at rest."""
        entries = {name: tuple(journal.entries) for name, journal in self.journals.items()}
        entries["log"] = (("_restored", self.read_log().snapshot(), 0),)
        return replace(
            self._books, entries=entries, decisions=dict(self._world.decisions), ended_ms=self._world.now_ms)

    def close(self) -> None:
        """A journal needs no closing; it is let go of, and the world with it."""
        for journal in self.journals.values():
            del journal.at

    def died(self, life: Life) -> None:
        """A process has died; power may have failed with it."""
        world, journal = self._world, self.journals[life.role]
        if world.faulty and world.chance.hits("power", world.options.power):
            unsynced = len(journal.entries) - journal.synced
            world.witness.power_failed(journal, journal.lose_unsynced(world.chance.between("kept", 0, unsynced)))
        elif world.power_fails:
            world.witness.power_failed(journal, journal.lose_unsynced(0))

    def fill(self, name: str) -> None:
        """A disk is full."""
        self._full.add(name)

    def make_room(self, name: str) -> None:
        """It is not any more."""
        self._full.discard(name)

    def cannot_write(self, name: str) -> bool:
        """Whether a disk is full."""
        return name in self._full

    def _at(self, journal: Journal, point: Point) -> None:
        world = self._world
        if world.watched:
            world.point(point.value, journal.name)
        error = world.options.disk_error
        if point is Point.SYNC and world.faulty and error and world.chance.hits("disk_error", error):
            if world.chance.between("applied", 0, 1):
                journal.synced = len(journal.entries)
            else:
                del journal.entries[-1]
            world.witness.disk_failed()
            raise OSError(5, "input/output error")
