"""A data directory's stores opened by this process alone: no Ray, no actor, no message."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors.runner import BatchRunner, Work
from actors.store import Retention, Store
from benchmarks.orders import WEEK_MS
from orchestrator.app import App, load_app
from orchestrator.deployment import DataDirectory
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import PARTITIONS, fingerprint_of, make_id, partition_of_key
from orchestrator.protocol.messages import SCHEMA_VERSION, Command, Kind, Status
from orchestrator.protocol.records import (
    AppendRequest,
    AppendStatus,
    Begun,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Record,
    TakeRequest,
)
from orchestrator.saga import Context, Saga, encode_plain

SHOP = "actors.orders:app"
RUN = "direct"
SHARD = 0
DEADLINE_MS = 30_000


class DirectStores:
    """The log and the four services, open for writing.

    Args:
        data: data directory; databases that are missing are created.
        now_ms: the wall clock, Unix ms; a history is written under an earlier one.
        retention_ms: of the log.

    Attributes:
        log: the transaction log.
        services: the services' stores by name.
    """

    def __init__(self, data: Path, now_ms: Callable[[], int], retention_ms: int = WEEK_MS) -> None:
        self.app: App = load_app(SHOP)
        self.now_ms = now_ms
        directory = DataDirectory(data)
        directory.prepare()
        with ExitStack() as undo:
            lock = directory.lock()
            undo.callback(lock.release)
            manifest = directory.create_databases(self.app, create_log)
            self.log = LogStore(directory.log_path, RUN, retention_ms, expected_uuid=manifest.log, clock=now_ms)
            undo.callback(self.log.close)
            self.services: dict[str, Store] = {}
            for service in self.app.services:
                store = self.services[service.name] = Store(directory.service_path(service.name), service.name, RUN)
                undo.callback(store.close)
            self._closing = undo.pop_all()
        self._incarnation = f"direct-{os.getpid()}-{time.time_ns()}"
        self._sequence = self._counter = 0
        taken = self.log.take(
            TakeRequest(SCHEMA_VERSION, SHARD, self._incarnation, list(range(PARTITIONS)), os.getpid(), RUN), now_ms())
        assert not taken.open, "a history can only be written where nothing is open"
        self.epochs = dict(enumerate(taken.epochs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._closing.close()

    def new_id(self, key: str, at_ms: int) -> str:
        """An id in the key's partition, under its present epoch."""
        self._counter += 1
        partition = partition_of_key(key)
        return make_id(at_ms, partition, self.epochs[partition], self._counter)

    def begun(self, saga: Saga, key: str, payload: bytes, business_key: str, at_ms: int) -> Begun:
        """The record that a transaction begins with."""
        return Begun(
            self.new_id(key, at_ms), key, fingerprint_of(saga.name, payload), saga.name, saga.version, payload, at_ms,
            at_ms + DEADLINE_MS, DEADLINE_MS, business_key)

    def append(self, records: Sequence[Record]) -> None:
        """One append to the log, durable when it returns."""
        self._sequence += 1
        request = AppendRequest(SCHEMA_VERSION, SHARD, self._incarnation, self._sequence, [
            EpochRecord(self.epochs[int(record.transaction[12:14], 16)], record) for record in records])
        (reply,) = self.log.append([request], self.now_ms())
        assert all(result.status is AppendStatus.STORED for result in reply.results), reply.results[:1]

    def open_books(self, key: str, data: dict[str, Any]) -> None:
        """One opening transaction, by the services' own handlers."""
        saga = self.app.saga("open_books")
        model = saga.validate_input(data)
        begun = self.begun(saga, key, saga.encode_input(data), "", self.now_ms())
        self.append([begun])
        commands = [
            (step.service, Command(
                begun.transaction, step.name, Kind.PREPARE, 1, self.epochs[partition_of_key(key)], step.operation,
                encode_plain(step.request(Context(begun.transaction, model, {})))))
            for step in saga.steps]
        self._handle(commands, Status.YES)
        self.append([Decided(begun.transaction, Decision.COMMIT, self.now_ms())])
        self._handle([
            (service, Command(c.transaction, c.step, Kind.COMMIT, 1, c.epoch, c.operation)) for service, c in commands],
            Status.ACK)
        self.append([Ended(begun.transaction, self.now_ms())])

    def _handle(self, commands: Sequence[tuple[str, Command]], expected: Status) -> None:
        for name, command in commands:
            service: Any = self.app.by_service[name]
            runner = BatchRunner(name, service.bound, self.services[name])
            (outcome,) = runner.run([Work(command, "")], Retention(), self.now_ms())
            assert outcome.reply is not None
            assert outcome.reply.status is expected, outcome.reply
