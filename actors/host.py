"""The Ray actor of a service: gathers messages while a batch is being made durable, then runs them as the next one."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import msgspec

from actors.asking import Asking
from actors.doubt import Doubts
from actors.faults import FaultyService
from actors.ledger import answer, finish_first
from actors.meter import ServiceMeter
from actors.reader import StoreReader
from actors.room import run_batch
from actors.runner import BatchRunner, Outcome, Work
from actors.store import Retention, Store
from orchestrator import garbage
from orchestrator.app import load_app
from orchestrator.config import FaultSettings, Transport, unpack_settings
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.exchange import BATCH_MAX, HOLD_S_MAX, Responder
from orchestrator.logs import configure_logging, debug_enabled, log_event
from orchestrator.metrics.export import export
from orchestrator.plane.endpoint import Endpoint
from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.messages import SCHEMA_VERSION, Command, CommandBatch, Inquiry, Kind, Reply, ReplyBatch, Status
from orchestrator.protocol.records import encode
from orchestrator.watchdog import Watchdog
from orchestrator.writer import SHORT_MAX, Writer

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Coroutine, Mapping

    from actors.ledger import Key
    from actors.operation import Operation
    from actors.service import Service
    from actors.spans import ServiceSpans
    from orchestrator.app import ParticipantSpec

OPEN_RETRY_S = 1.0
REGISTER_S = 5.0
REGISTER_RETRY_S_MIN = 0.05
REGISTER_RETRY_S_MAX = 2.0
INQUIRIES_MAX = 256  # in one call
DOUBT_TICK_S_MAX = 1.0

T = TypeVar("T")


class _Manifest(msgspec.Struct, frozen=True):
    """Which databases were created, by uuid, as far as a service has to know."""

    services: dict[str, str]


_MANIFESTS = msgspec.json.Decoder(_Manifest)
_COMMANDS = msgspec.msgpack.Decoder(CommandBatch)


class OwnerPort(Protocol):
    """What a participant asks of the transaction log and of the shards that own its transactions."""

    async def ask(self, inquiries: list[Inquiry]) -> list[Command]:
        """Ordinary commits and rollbacks for those that are decided; the others are asked about again later.

        Raises:
            IndefiniteError: no owner answered; where some did, their answers are returned.
        """

    async def register(self, name: str, uuid: str, sequence: int) -> str:
        """Tell the log which database a participant has, and how far it is; returns a reason for refusal or "".

        Raises:
            IndefiniteError: the log did not answer.
        """


def database_path(data_dir: Path, service: str) -> Path:
    """Where a service's database lies."""
    return data_dir / "services" / f"{service}.sqlite"


class ServiceHost:
    """Serves one participant; an asynchronous Ray actor, constructed inside its event loop.

    A restarted actor opens the same database and goes on. No reply leaves before the commit that it tells of returned;
    a commit that fails ends the process, since its outcome is unknown. A store that is refused is not retried: the
    actor stays up and says why.

    Args:
        spec: what to serve.
        owner: the way to log and shards; Ray actor calls unless given.
    """

    def __init__(self, spec: ParticipantSpec, owner: OwnerPort | None = None) -> None:
        self._spec = spec
        self._settings = unpack_settings(spec.settings)
        self._endpoint = Endpoint({"exchange": self.exchange})
        self._owner = owner or _remote_owners(spec.deployment, self._settings.transport, self._endpoint.refused)
        self._state, self._detail = "recovering", ""
        self._opened = asyncio.Event()  # set once it serves, or refuses
        self._responder: Responder[Reply] = Responder(lambda reply: len(reply.result))
        self._doubts = Doubts(self._settings.in_doubt_after_ms)
        self._retention = Retention()
        self._pending: list[Work] = []
        self._running = False
        self._writer = Writer(f"store-{spec.name}", self._failed)
        self._store: Store
        self._runner: BatchRunner
        self._asking: Asking
        self._faults: FaultyService | None = None
        self._spans: ServiceSpans | None = None  # where the setting `tracing` asks for them
        self._watchdog = Watchdog(self._settings.stuck_after_ms)
        self._tasks: set[asyncio.Task[None]] = set()
        self._meter = ServiceMeter(spec.name, self._endpoint.refused)
        self._spawn(self._open())

    def __repr__(self) -> str:
        return f"ServiceHost({self._spec.name})"

    async def exchange(self, payload: bytes) -> bytes:
        """Take a shard's messages and answer with what is ready: msgpack of CommandBatch to msgpack of ReplyBatch.

        Raises:
            DefiniteError: E_INVALID_INPUT; the payload is no batch of this schema, nothing was done.
        """
        batch = _decode_batch(payload)
        if self._state != "serving" and batch.commands and not await self._serves():
            code = ErrorCode.STORE_REFUSED if self._state == "refused" else ErrorCode.NOT_READY
            told = self._detail or "the service is still recovering"
            return _encode_replies([answer(command, Status.ERROR, code, told) for command in batch.commands])
        peer = f"{batch.sender}/{batch.incarnation}"
        self._retention = self._retention.joined(batch.watermark_ms, batch.exempt)
        commands = batch.commands if self._faults is None else self._faults.arriving(batch.commands)
        if commands:
            if self._spans is not None:
                self._spans.arrived(commands)
            self._gather([Work(command, peer) for command in commands])
        replies = await self._responder.collect(peer, empty=not batch.commands)
        return _encode_replies(replies, self._responder.conversation(peer))

    async def endpoint(self, host: str) -> bytes:
        """Where a peer on a host can connect, msgpack of `Address`."""
        return await self._endpoint.address(host)

    async def describe(self, transaction: str) -> bytes:
        """The ledger's rows of one transaction, msgpack of a list of LedgerRow.

        Raises:
            DefiniteError: E_STORE_REFUSED.
        """
        return await asyncio.to_thread(_describe, self._path(), transaction)

    async def status(self) -> bytes:
        """Role, name, pid, node, epoch, state, restarts and detail, msgpack."""
        opened = self._state == "serving"
        return msgspec.msgpack.encode({
            "role": self._spec.name, "name": f"service-{self._spec.name}", "pid": os.getpid(), "node": os.uname().nodename,
            "epoch": self._store.database.epoch if opened else 0, "state": self._state,
            "restarts": self._store.database.restarts if opened else 0, "detail": self._detail, "figures": self._figures(),
        })

    def _figures(self) -> dict[str, Any]:
        store = self._store if self._state == "serving" else None
        return self._meter.figures(store, self._doubts, len(self._pending))

    async def close(self) -> None:
        """Stop in an orderly way: what is being made durable becomes so, then the database is given up."""
        self._watchdog.close()
        await self._endpoint.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._state == "serving":
            await self._asking.close()
            await self._writer.result(self._store.close)
        self._state, self._detail = "refused", "the service was stopped"
        await asyncio.to_thread(self._writer.close)

    async def _open(self) -> None:
        configure_logging(self._spec.name, Path(self._spec.data_dir), self._settings.log_level)
        found = load_app(self._spec.app).by_service.get(self._spec.name)
        if found is None:
            raise DefiniteError(ErrorCode.CONFIG, f"app {self._spec.app!r} has no service {self._spec.name!r}")
        service = cast("Service", found)
        self._store = await self._open_store()
        faults = self._settings.faults.get(self._spec.name)
        operations = service.bound
        if faults is not None and faults != FaultSettings(seed=faults.seed):
            self._faults = FaultyService(service.bound, faults, self._store.database.epoch)
            operations = self._faults.bound
        if self._settings.tracing is not None:
            operations = self._traced(self._settings.tracing, operations)
        self._runner = await self._writer.result(partial(BatchRunner, self._spec.name, operations, self._store))
        self._asking = Asking(self._spec.name, operations, self._gather, self._not_asked, self._failed)
        held = await self._writer.result(self._store.prepared_keys)
        self._doubts.recovered(held, _monotonic_ms())
        await self._register()
        garbage.expect_little()
        self._watchdog.watch("writer", self._progress, lambda: self._writer.thread)
        self._watchdog.start()
        self._state = "serving"
        self._opened.set()
        log_event("serving", service=self._spec.name, epoch=self._store.database.epoch, prepared=len(held),
                  restarts=self._store.database.restarts)
        self._spawn(self._keep_registered())
        self._spawn(self._ask_in_doubt())
        self._spawn(export(f"service-{self._spec.name}", self._figures, self._settings.metrics_ms))

    def _traced(self, path: str, operations: Mapping[str, Operation]) -> Mapping[str, Operation]:
        from actors.spans import open_service_spans  # noqa: PLC0415 - nothing of it where nobody traces

        self._spans = open_service_spans(path, self._spec.name, Path(self._spec.data_dir))
        return operations if self._spans is None else self._spans.within(operations)

    async def _open_store(self) -> Store:
        """The database, tried again while the disk is full or failing: nothing is held meanwhile, and nobody is answered."""
        expected = _expected_uuid(Path(self._spec.data_dir), self._spec.name)
        opening = partial(Store, self._path(), self._spec.name, self._spec.run, expected_uuid=expected)
        while True:
            store, failure = await self._writer.result(partial(_attempt, opening))
            if store is not None:
                return store
            if not self._detail:
                log_event("store_unavailable", level="ERROR", service=self._spec.name, message=failure)
            self._detail = f"the database cannot be opened for now: {failure}"
            await asyncio.sleep(OPEN_RETRY_S)

    async def _serves(self) -> bool:
        """Whether it serves, at the latest after the time that an exchange may be held."""
        try:
            await asyncio.wait_for(self._opened.wait(), HOLD_S_MAX)
        except TimeoutError:
            return False
        return self._state == "serving"

    def _gather(self, works: list[Work]) -> None:
        self._pending.extend(works)
        if not self._running:
            self._start()

    def _start(self) -> None:
        works = self._pending
        self._pending = []
        if len(works) > BATCH_MAX:  # commits and rollbacks first, also where new work would fill the batch
            ordered = finish_first(works)
            works, self._pending = ordered[:BATCH_MAX], ordered[BATCH_MAX:]
        self._running = self._responder.busy = True
        self._meter.began_s = time.monotonic()
        retention = self._retention
        self._writer.run(partial(self._run, works, retention), self._finished, short=len(works) <= SHORT_MAX)

    def _run(self, works: list[Work], retention: Retention) -> list[Outcome]:
        return run_batch(self._runner, self._store, works, retention, time.time_ns() // 1_000_000)

    def _finished(self, outcomes: list[Outcome]) -> None:
        self._meter.finished(len(outcomes), time.monotonic())
        if self._spans is not None:
            self._spans.delivered(outcomes)
        self._deliver(outcomes)
        self._running = False
        self._responder.idle()
        if self._pending:
            self._start()

    def _not_asked(self, outcomes: list[Outcome]) -> None:
        if self._spans is not None:
            self._spans.delivered(outcomes)
        self._deliver(outcomes)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Hand the replies out, and keep track of what is held; a method of an actor is dear, so there is none for each."""
        by_peer: dict[str, list[Reply]] = {}
        now_ms, debug, answers = _monotonic_ms(), debug_enabled(), self._meter.answers
        for work, reply in outcomes:
            if reply is None:
                self._asking.start(work)
                continue
            key, status = (reply.transaction, reply.step), reply.status
            answers[reply.kind][status] += 1
            if status is Status.YES:
                self._doubts.heard(key, now_ms)
            elif status is Status.ACK:
                self._doubts.settled(key)
                if reply.kind is Kind.ROLLBACK:
                    self._asking.rolled_back(key)
            elif status is Status.VIOLATION:
                self._violation(reply)
            if debug:
                self._log_step(reply)
            if work.peer:
                by_peer.setdefault(work.peer, []).append(reply)
        for peer, replies in by_peer.items():
            self._responder.put(peer, replies if self._faults is None else self._faults.leaving(replies))

    def _log_step(self, reply: Reply) -> None:
        log_event("step", level="DEBUG", transaction=reply.transaction, service=self._spec.name, step=reply.step,
                  status=f"{reply.kind.name} {reply.status.name}", attempt=reply.attempt, code=reply.code,
                  message=reply.message)

    def _violation(self, reply: Reply) -> None:
        log_event("violation", level="ERROR", transaction=reply.transaction, service=self._spec.name, step=reply.step,
                  status=reply.kind.name, attempt=reply.attempt, code=reply.code, message=reply.message)

    async def _register(self) -> None:
        """Tell the log which database this is; an older copy or another one than the log knows is refused."""
        database = self._store.database
        delay_s = REGISTER_RETRY_S_MIN
        while True:
            try:
                reason = await self._owner.register(self._spec.name, database.uuid, database.sequence)
            except IndefiniteError as error:
                self._detail = f"waiting for the transaction log: {error.message}"
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, REGISTER_RETRY_S_MAX)
                continue
            if reason:
                raise DefiniteError(ErrorCode.STORE_REFUSED, f"{self._path()}: {reason}")
            self._detail = ""
            return

    async def _keep_registered(self) -> None:
        told = self._store.database.sequence
        while True:
            await asyncio.sleep(REGISTER_S)
            if self._store.database.sequence != told:
                told = self._store.database.sequence
                await self._register()

    async def _ask_in_doubt(self) -> None:
        tick_s = min(self._settings.in_doubt_after_ms / 4_000, DOUBT_TICK_S_MAX)
        while True:
            await asyncio.sleep(tick_s)
            while due := self._doubts.due(_monotonic_ms(), INQUIRIES_MAX):
                await self._ask_owner(due)

    async def _ask_owner(self, keys: list[Key]) -> None:
        held = await self._writer.result(partial(self._store.still_prepared, keys))
        for key in set(keys).difference(held):
            self._doubts.settled(key)
        if not held:
            return
        self._meter.inquiries += len(held)
        epochs = self._runner.fence.epochs
        inquiries = [Inquiry(txn, step, epochs.get(partition_of(txn), 0)) for txn, step in held]
        log_event("in_doubt", level="WARNING", service=self._spec.name, transaction=held[0][0], step=held[0][1],
                  rows=len(held), message="asking for the decision of rows that were unheard of for too long")
        try:
            commands = await self._owner.ask(inquiries)
        except IndefiniteError as error:
            log_event("owner_unreachable", level="WARNING", service=self._spec.name, code=error.code, message=error.message)
            return
        decided = [Work(command, "") for command in commands if command.kind in (Kind.COMMIT, Kind.ROLLBACK)]
        if decided:
            self._gather(decided)

    def _progress(self) -> tuple[int, int] | None:
        """The turn under way and how many of its messages are done: a long batch gets on."""
        turn = self._writer.turns.progress()
        return None if turn is None else (turn, self._runner.handled)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """A refused store stays refused until an operator mends it; anything else ends the process, Ray restarts it."""
        if isinstance(error, DefiniteError):
            self._writer.call_on_loop(partial(self._refuse, error))
            return
        try:
            log_event("fatal", level="ERROR", service=self._spec.name, message=f"{type(error).__name__}: {error}")
        finally:  # whatever becomes of the line
            os._exit(1)

    def _refuse(self, error: DefiniteError) -> None:
        self._state, self._detail = "refused", str(error)
        self._pending.clear()
        self._opened.set()
        log_event("refused", level="ERROR", service=self._spec.name, code=error.code, message=error.message)

    def _path(self) -> Path:
        return database_path(Path(self._spec.data_dir), self._spec.name)


def _remote_owners(deployment: str, transport: Transport, refused: Counter[str]) -> OwnerPort:
    from orchestrator.transport import RemoteOwners, way_to  # noqa: PLC0415 - ray is slow to import; readers do without it

    return RemoteOwners(way_to(deployment, transport, refused))


def _attempt(opening: Callable[[], Store]) -> tuple[Store | None, str]:
    try:
        return opening(), ""
    except (sqlite3.Error, OSError) as error:
        return None, str(error)


def _decode_batch(payload: bytes) -> CommandBatch:
    try:
        batch = _COMMANDS.decode(payload)
    except msgspec.DecodeError as error:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"not a batch of commands: {error}") from None
    if batch.schema != SCHEMA_VERSION:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"a batch of schema {batch.schema}; this is {SCHEMA_VERSION}")
    return batch


def _encode_replies(replies: list[Reply], conversation: str = "") -> bytes:
    return encode(ReplyBatch(SCHEMA_VERSION, replies, conversation))


def _describe(path: Path, transaction: str) -> bytes:
    reader = StoreReader(path)
    try:
        return msgspec.msgpack.encode(list(reader.rows(transaction)))
    finally:
        reader.close()


def _expected_uuid(data_dir: Path, service: str) -> str:
    """The uuid in the manifest of what was created; "" where the databases were created without one."""
    manifest = data_dir / "created.json"
    if not manifest.exists():
        return ""
    try:
        return _MANIFESTS.decode(manifest.read_bytes()).services.get(service, "")
    except msgspec.MsgspecError as error:
        raise DefiniteError(ErrorCode.DATA_DIR, f"{manifest} is damaged: {error}; restore it, nothing was changed") from None


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
