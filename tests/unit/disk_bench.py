"""A log and a service on a simulated disk: what disk tests do with them, and what must be true of them afterwards."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from actors.ledger import Row, RowState, finished, prepared
from actors.reader import StoreReader
from actors.store import Retention, Store, create_store
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind
from orchestrator.protocol.records import AppendRequest, AppendResult, EpochRecord, Record, TakeRequest
from orchestrator.saga import encode_plain
from orchestrator.testing.disk.storage import SimulatedDisk
from unit.log_bench import DAY, NOW

if TYPE_CHECKING:
    from orchestrator.testing.disk.storage import SimulatedDisk as Disk

LOG = Path("/data/log/log.sqlite")
VAULT = Path("/data/services/vault.sqlite")
BALLAST = 4 << 20


def new_disk() -> Disk:
    """A disk with a created log and a created service."""
    disk = SimulatedDisk("template")
    create_log(LOG, disk.files)
    create_store(VAULT, "vault", disk.files)
    return disk


TEMPLATE = new_disk()


def open_log(disk: Disk, retention_ms: int = 7 * DAY, ballast: int = BALLAST) -> LogStore:
    return LogStore(
        LOG, "run", retention_ms, clock=itertools.count(0, DAY).__next__, files=disk.files, ballast_bytes=ballast)


def open_store(disk: Disk, ballast: int = BALLAST) -> Store:
    return Store(VAULT, "vault", "run", files=disk.files, ballast_bytes=ballast)


def read_store(disk: Disk) -> StoreReader:
    return StoreReader(VAULT, files=disk.files)


class Shard:
    """One shard's side of the log."""

    def __init__(self, store: LogStore, incarnation: str = "first") -> None:
        self.store, self.incarnation = store, incarnation
        self.sequence = self.counter = 0
        self.epoch = store.take(TakeRequest(1, 0, incarnation, [7], 1, "run"), NOW).epochs[0]

    def id(self) -> str:
        self.counter += 1
        return make_id(NOW + self.counter, 7, self.epoch, self.counter)

    def request(self, *records: Record) -> AppendRequest:
        self.sequence += 1
        return AppendRequest(1, 0, self.incarnation, self.sequence, [EpochRecord(self.epoch, record) for record in records])

    def append(self, *records: Record, now_ms: int = NOW) -> list[AppendResult]:
        (reply,) = self.store.append([self.request(*records)], now_ms)
        return reply.results


def command(number: int, kind: Kind = Kind.PREPARE) -> Command:
    return Command(make_id(NOW + number, 7, 1, number), "pay", kind, 1, 1, "hold", encode_plain({"n": number}))


def held(number: int) -> Row:
    return prepared(command(number), encode_plain({"ok": True}), 5)


def ended(number: int) -> Row:
    return finished(held(number), command(number, Kind.COMMIT), 9)


def put(store: Store, rows: list[Row], values: dict[str, bytes | None] | None = None) -> None:
    """One batch."""
    store.begin()
    store.retain(Retention())
    by_key = {(row.transaction, row.step): row for row in rows}
    store.write(by_key, store.load(by_key), values or {}, {7: len(rows)})
    store.commit(by_key, values or {})


def states(store: Store, numbers: range) -> dict[int, RowState]:
    """Where the steps of these transactions stand."""
    keys = {(command(number).transaction, "pay"): number for number in numbers}
    return {keys[key]: row.state for key, row in store.load(keys).items()}
