"""The transaction log as a Ray actor: one writer, readers on snapshots of their own, bytes in and bytes out."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from orchestrator import garbage
from orchestrator.ballast import is_full
from orchestrator.config import unpack_settings
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore
from orchestrator.log.writer import LogWriter
from orchestrator.logs import configure_logging, log_event
from orchestrator.metrics.export import export
from orchestrator.metrics.log_meter import log_figures
from orchestrator.plane.endpoint import Endpoint
from orchestrator.protocol.identifiers import is_id
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import RECORD_SCHEMA, Act, AppendRequest, LoadRequest, TakeRequest
from orchestrator.rescue import lacks_index
from orchestrator.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PURGE_EVERY_S = 10.0
PURGE_LIMIT = 256  # transactions a turn, some 20 ms: appends wait behind one turn only
FULL_RETRY_S = 1.0
READERS = 2

_APPEND = msgspec.msgpack.Decoder(AppendRequest)
_TAKE = msgspec.msgpack.Decoder(TakeRequest)
_LOAD = msgspec.msgpack.Decoder(LoadRequest)
_ACT = msgspec.msgpack.Decoder(Act)
_QUERY = msgspec.msgpack.Decoder(TransactionQuery)


class LogSpec(msgspec.Struct, frozen=True):
    """What the log's actor is constructed with; plain data, so that a restarted actor gets the same."""

    data_dir: str
    deployment: str  # the Ray namespace
    run: str  # changes at every `up`
    settings: bytes  # msgpack of orchestrator.config.Settings


class _Registration(msgspec.Struct, frozen=True):
    """A service's database, as it reports it."""

    name: str
    uuid: str
    sequence: int


_REGISTRATION = msgspec.msgpack.Decoder(_Registration)


class TransactionLog:
    """Makes decisions durable and says who owns which partition; an asynchronous Ray actor.

    It opens its database in a task of its own. Until that is done calls wait; where the database is refused it stays
    up, says so, and answers every other call with E_STORE_REFUSED. An error of unknown outcome ends the process, and
    Ray starts another one, which reads what is durable.

    Args:
        spec: where the log lies and for whom it is.
    """

    def __init__(self, spec: LogSpec) -> None:
        self._spec = spec
        self._settings = unpack_settings(spec.settings)
        self._directory = DataDirectory(spec.data_dir)
        self._state, self._detail = "recovering", ""
        self._opened = asyncio.Event()  # set once it serves, or refuses
        self._store: LogStore
        self._writer: LogWriter
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="log-reader")
        self._watchdog = Watchdog(self._settings.stuck_after_ms)
        self._endpoint = Endpoint({
            "append": self.append, "take": self.take, "load": self.load, "owner": self.owner,
            "register_store": self.register_store, "pauses": self.pauses})
        self._since_ms = _now_ms()
        self._recovering = _spawned(self._recover())
        self._purging: asyncio.Task[None] | None = None
        self._exporting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return "TransactionLog()"

    async def endpoint(self, host: str) -> bytes:
        """Where a peer on a host can connect, msgpack of `Address`."""
        return await self._endpoint.address(host)

    async def append(self, payload: bytes) -> bytes:
        """Append a batch of records: msgpack of AppendRequest to msgpack of AppendReply; answered when durable.

        Raises:
            DefiniteError: E_INVALID_INPUT; the payload is no append of this schema, nothing was stored.
            IndefiniteError: the records may or may not be durable; append the same again.
        """
        request = _APPEND.decode(payload)
        _check_schema(request.schema)
        for item in request.records:
            if not is_id(item.record.transaction):
                raise DefiniteError(ErrorCode.INVALID_INPUT, f"{item.record.transaction!r} is no transaction id")
        return msgspec.msgpack.encode(await (await self._serving()).append(request))

    async def take(self, payload: bytes) -> bytes:
        """Give partitions to a shard's incarnation: msgpack of TakeRequest to msgpack of TakeReply.

        Raises:
            DefiniteError: E_INVALID_INPUT; nothing was taken.
            IndefiniteError: they may or may not be taken; take again.
        """
        request = _TAKE.decode(payload)
        _check_schema(request.schema)
        reply = await (await self._serving()).call(lambda store: store.take(request, _now_ms()))
        log_event("partitions_taken", status="open", shard=request.shard, partitions=len(request.partitions),
                  open=len(reply.open), restarts=reply.restarts)
        return msgspec.msgpack.encode(reply)

    async def owner(self, partition: int) -> bytes:
        """Who owns a partition: msgpack of {shard, epoch, incarnation}; shard -1, epoch 0 where nobody ever took it."""
        await self._serving()
        owner = self._store.owner(partition)
        return msgspec.msgpack.encode(
            {"shard": -1, "epoch": 0, "incarnation": ""} if owner is None else owner._asdict())

    async def register_store(self, payload: bytes) -> bytes:
        """Note how far a service's database has come: msgpack of {name, uuid, sequence} to a reason for refusal, or ""."""
        report = _REGISTRATION.decode(payload)
        reason = await (await self._serving()).call(
            lambda store: store.register_store(report.name, report.uuid, report.sequence))
        if reason:
            log_event("store_refused", level="ERROR", service=report.name, code=ErrorCode.STORE_REFUSED, message=reason)
        return reason.encode()

    async def pause(self, payload: bytes) -> bytes:
        """Pause or resume a saga or a service: msgpack of Act to msgpack of whether that changed anything; durable then.

        Raises:
            DefiniteError: E_INVALID_INPUT; nothing was changed.
            IndefiniteError: it may or may not be paused; ask for the same again.
        """
        act = _ACT.decode(payload)
        if act.kind not in (ActKind.PAUSE, ActKind.RESUME) or bool(act.saga) is bool(act.service):
            raise DefiniteError(ErrorCode.INVALID_INPUT, "name either a saga or a service to pause or to resume")
        changed = await (await self._serving()).call(lambda store: store.pause(act, _now_ms()))
        if changed:
            if act.kind is ActKind.PAUSE:
                log_event("paused", level="WARNING", service=act.service, saga=act.saga, who=act.who, message=act.reason)
            else:
                log_event("resumed", level="WARNING", service=act.service, saga=act.saga, who=act.who, message=act.reason)
        return msgspec.msgpack.encode(changed)

    async def pauses(self, _payload: bytes = b"") -> bytes:
        """What is paused: msgpack of Pauses."""
        await self._serving()
        return msgspec.msgpack.encode(self._store.pauses)

    async def find(self, payload: bytes) -> bytes:
        """The newest transactions that fit: msgpack of TransactionQuery to msgpack of a list of TransactionSummary.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field.
        """
        query = _QUERY.decode(payload)
        return await self._read(lambda reader: reader.find(query))

    async def load(self, payload: bytes) -> bytes:
        """Transactions by key or id, many in one call: msgpack of LoadRequest to msgpack of a list of StoredTransaction."""
        request = _LOAD.decode(payload)
        return await self._read(lambda reader: reader.load(request.keys, request.transactions))

    async def history(self, transaction: str) -> bytes:
        """All records of a transaction: msgpack of a list of StoredRecord."""
        return await self._read(lambda reader: reader.history(transaction))

    async def describe(self) -> bytes:
        """The log itself: msgpack of {uuid, epoch, records, open, watermark_ms, shards}."""
        await self._serving()
        store = self._store
        return msgspec.msgpack.encode({
            "uuid": store.uuid, "epoch": store.epoch, "records": store.last_record, "open": store.open_count,
            "watermark_ms": store.watermark_ms, "shards": self._settings.shards})

    async def status(self) -> bytes:
        """Role, name, pid, node, epoch, state, restarts and detail, msgpack; answers in every state."""
        serving = self._state == "serving"
        return msgspec.msgpack.encode({
            "role": "log", "name": "log", "pid": os.getpid(), "node": os.uname().nodename,
            "epoch": self._store.epoch if serving else 0, "state": self._state,
            "restarts": self._store.restarts if serving else 0, "detail": self._detail, "figures": self._figures()})

    def _figures(self) -> dict[str, Any]:
        serving = self._state == "serving"
        return log_figures(
            self._endpoint.refused, self._since_ms, self._directory, self._store if serving else None,
            self._writer if serving else None)

    async def _serving(self) -> LogWriter:
        await self._opened.wait()
        if self._state == "refused":
            raise IndefiniteError(ErrorCode.STORE_REFUSED, self._detail)
        return self._writer

    async def _recover(self) -> None:
        try:
            configure_logging("log", self._directory.path, self._settings.log_level)
            self._store = await self._open()
            self._writer = LogWriter(self._store, _die)
        except DefiniteError as error:
            self._state, self._detail = "refused", error.message
            log_event("refused", level="ERROR", code=error.code, message=error.message)
        else:
            self._state, self._detail = "serving", ""
            garbage.expect_little()
            log_event("serving", status="serving", epoch=self._store.epoch, restarts=self._store.restarts,
                      records=self._store.last_record, open=self._store.open_count)
            self._purging = _spawned(self._purge())
            self._exporting = _spawned(export("log", self._figures, self._settings.metrics_ms))
            self._watchdog.watch("writer", self._writer.turns.progress, lambda: self._writer.thread)
            self._watchdog.start()
        self._opened.set()

    async def _open(self) -> LogStore:
        """Open the database; a full disk is waited for, since opening must write."""
        manifest = self._directory.manifest()
        expected = "" if manifest is None else manifest.log
        while True:
            try:
                return await asyncio.to_thread(
                    LogStore, self._directory.log_path, self._spec.run, self._settings.retention_ms,
                    expected_uuid=expected)
            except (sqlite3.Error, OSError) as error:
                if not is_full(error) and not lacks_index(error):
                    raise
                if not self._detail:
                    log_event("disk_full", level="ERROR", code=ErrorCode.NOT_READY, message=str(error))
                self._detail = "the disk is full: make room"
                await asyncio.sleep(FULL_RETRY_S)

    async def _read(self, query: Callable[[LogReader], Any]) -> bytes:
        await self._serving()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_snapshot, query)

    def _read_snapshot(self, query: Callable[[LogReader], Any]) -> bytes:
        reader = LogReader(self._directory.log_path)
        try:
            return msgspec.msgpack.encode(query(reader))
        finally:
            reader.close()

    async def _purge(self) -> None:
        while True:
            await asyncio.sleep(PURGE_EVERY_S)
            try:
                while await self._writer.call(lambda store: store.purge(_now_ms(), PURGE_LIMIT)) == PURGE_LIMIT:
                    continue  # each turn lets the appends that wait go first
            except IndefiniteError as error:
                log_event("purge_failed", level="WARNING", code=error.code, message=error.message)


def _spawned(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task without which the log would be alive and of no use: its failure ends the process."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _die(error)


def _die(error: BaseException) -> NoReturn:
    """End the process: what the error left behind is unknown, a successor reads what is durable."""
    try:
        log_event("crashed", level="ERROR", message=f"{type(error).__name__}: {error}")
    finally:  # whatever becomes of the line
        os._exit(1)


def _check_schema(schema: int) -> None:
    if schema > RECORD_SCHEMA:
        raise DefiniteError(
            ErrorCode.INVALID_INPUT, f"schema {schema} is newer than this log's {RECORD_SCHEMA}: upgrade the log first")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
