"""The real stores of log and services under the simulator, each on a simulated disk of its own.

Slower than journals, and finer: here the disk loses any part of what was not synced, tears what it writes, fills up in the
middle of a transaction and fails at any of SQLite's calls, and what survives is what the product makes of it.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.app import App
from orchestrator.audit import audit_snapshots
from orchestrator.local import StorePlace
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.records import Act, AppendReply, AppendRequest, Decided, TakeReply, TakeRequest
from orchestrator.testing.disk.storage import Operation, SimulatedDisk
from orchestrator.testing.simulation.life import Crashed
from orchestrator.testing.simulation.log_model import Entry, LogModel

if TYPE_CHECKING:
    from orchestrator.app import LedgerReader, StepState
    from orchestrator.local import LocalParticipant
    from orchestrator.testing.simulation.journal import Journal
    from orchestrator.testing.simulation.life import Life
    from orchestrator.testing.simulation.log_life import AnyLog
    from orchestrator.testing.simulation.stores import Stores
    from orchestrator.testing.simulation.workload import Books
    from orchestrator.testing.simulation.world import World

PURGE_MAX = 100
ROOM_BYTES_MAX = 40_000  # so much may still be written on a disk that is full soon


@dataclass(frozen=True, slots=True)
class DiskBooks:
    """Books in real stores.

    Attributes:
        disks: of each role, with nobody using it.
    """

    app: App
    disks: Mapping[str, SimulatedDisk]
    decisions: Mapping[str, Decided] = field(default_factory=dict)
    ended_ms: int = 0

    def stores(self, world: World) -> Stores:
        """Disks that begin with these."""
        return DiskStores(world, self)


def empty_disks(app: App) -> DiskBooks:
    """Created stores in which nothing has happened yet."""
    disks = {name: SimulatedDisk(name) for name in ("log", *app.by_service)}
    create_log(_path("log"), disks["log"].files)
    for name, service in app.by_service.items():
        service.create(_path(name), disks[name].files)
    return DiskBooks(app, disks)


class DiskStores:
    """The stores of one world.

    Args:
        world: whose chances and points these are.
        books: what the disks hold already.
    """

    log_journal: Journal | None = None

    def __init__(self, world: World, books: DiskBooks) -> None:
        self.names: Collection[str] = books.disks.keys()
        self._world, self._books = world, books
        seed = world.chance.between("disks", 0, 1 << 30)
        self.disks = {name: disk.fork(f"{name}/{seed}") for name, disk in books.disks.items()}
        for name, disk in self.disks.items():
            disk.on_point = partial(self._at, name)
        self._log: _DiskLog | None = None

    def open_log(self) -> AnyLog:
        """Take the log's file over, as its actor does."""
        world = self._world
        self._log = _DiskLog(
            LogStore(_path("log"), world.run, world.options.retention_ms, files=self.disks["log"].files, clock=self._clock),
            self.read_log)
        return self._log

    def open_service(self, name: str) -> LocalParticipant:
        """Take a service's file over, as its actor does."""
        world = self._world
        return world.app.by_service[name].local(
            StorePlace(_path(name), world.run, self.disks[name].files), world.now_ms, world.options.in_doubt_after_ms,
            world.service_faults.get(name))

    def read_log(self) -> LogModel:
        """What the log's file holds, as a reader beside its owner sees it."""
        reader = LogReader(_path("log"), self.disks["log"].files)
        try:
            return _model_of(reader)
        finally:
            reader.close()

    def read_service(self, name: str) -> LedgerReader:
        """What a service's file holds."""
        return self._world.app.by_service[name].reader(_path(name), self.disks[name].files)

    def history_of(self, name: str) -> Iterator[StepState]:  # noqa: ARG002 - the port
        """A ledger keeps no history."""
        return iter(())

    def has_written(self, name: str) -> bool:
        """Not known here."""
        del name
        return False

    def damages(self) -> Iterator[str]:
        """What the product's own audit finds in the files."""
        readers = {name: self.read_service(name) for name in self._world.app.by_service}
        log = LogReader(_path("log"), self.disks["log"].files)
        report = audit_snapshots(self._world.app, log, readers, log)
        log.close()
        for reader in readers.values():
            reader.close()
        return iter([f"{found.check}: {found.text}" for found in report.examples])

    def close(self) -> None:
        """Every process gives its files up."""
        for name, disk in self.disks.items():
            disk.on_point = None
            disk.process_kill(_path(name))

    def books(self) -> Books:
        """What they hold now, at rest."""
        self.close()
        return replace(
            self._books, disks=self.disks, decisions=dict(self._world.decisions), ended_ms=self._world.now_ms)

    def died(self, life: Life) -> None:
        """A process has died; power may have failed with it."""
        world, disk = self._world, self.disks[life.role]
        if (world.faulty and world.chance.hits("power", world.options.power)) or world.power_fails:
            disk.power_loss()
        else:
            disk.process_kill(_path(life.role))

    def fill(self, name: str) -> None:
        """A disk has little room left."""
        disk = self.disks[name]
        disk.capacity = disk.used + self._world.chance.between("room", 0, ROOM_BYTES_MAX)

    def make_room(self, name: str) -> None:
        """It is large again."""
        self.disks[name].capacity = None

    def cannot_write(self, name: str) -> bool:  # noqa: ARG002 - the port
        """Trying is the way to find out."""
        return False

    def _clock(self) -> int:
        return self._world.now_ms

    def _at(self, name: str, _path_of: str, operation: Operation) -> None:
        """Before everything that changes a disk: whoever writes may die, or the disk may fail."""
        world = self._world
        if world.watched:
            try:
                world.point(f"before a {operation}", name)
            except Crashed:  # the disk ends whoever is running in its own way, through SQLite
                self.disks[name].process_kill(_path(name))
                return
        error = world.options.disk_error / 4  # a commit has several of these points
        if error and world.faulty and operation in {"sync", "write"} and world.chance.hits("disk_error", error):
            self.disks[name].fail(operation, errno.EIO)
            if operation == "sync":
                world.witness.disk_failed()


class _DiskLog:
    """The real log in the place of its model; what it holds is read from its file after every turn."""

    def __init__(self, store: LogStore, read: Callable[[], LogModel]) -> None:
        self._store, self._read = store, read
        self.model = read()
        self.superseded = False

    def append(self, requests: Sequence[AppendRequest], now_ms: int) -> list[AppendReply]:
        """Append a group; with the disk full nothing is answered, and the callers ask again."""
        try:
            replies = self._store.append(requests, now_ms)
            self._store.purge(now_ms, PURGE_MAX)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            replies = []
        self.model = self._read()
        return replies

    def take(self, request: TakeRequest, now_ms: int) -> TakeReply:
        """Give partitions to a shard's incarnation; without room for that this life ends."""
        reply = self._store.take(request, now_ms)
        self.model = self._read()
        return reply

    def pause(self, act: Act, now_ms: int) -> None:
        """Pause or resume; without room for that this life ends."""
        self._store.pause(act, now_ms)
        self.model = self._read()

    def owner(self, partition: int) -> tuple[int, int, str]:
        """Shard, epoch and incarnation."""
        owner = self._store.owner(partition)
        return (-1, 0, "") if owner is None else (owner.shard, owner.epoch, owner.incarnation)


def _model_of(reader: LogReader) -> LogModel:
    model = LogModel()
    model.watermark_ms, model.pauses = reader.watermark_ms, reader.pauses()
    for summary in reader.iterate():
        stored = reader.stored(summary.transaction)
        assert stored is not None
        parked = {one.step: one for one in stored.parked}
        model.transactions[summary.transaction] = Entry(
            stored.begun, stored.decided, stored.ended_ms, parked, recoveries=stored.recoveries,
            resolved={one.step: one for one in stored.resolved})
        model.keys[stored.begun.key] = summary.transaction
    return model


def _path(name: str) -> Path:
    return Path("/data/log/log.sqlite") if name == "log" else Path(f"/data/services/{name}.sqlite")

