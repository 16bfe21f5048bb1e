"""A shard: the thin shell around a coordinator. It moves bytes, waits for the log, and keeps time."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from ray.exceptions import RayError

from orchestrator import garbage
from orchestrator.app import load_app
from orchestrator.appender import Appender
from orchestrator.config import unpack_settings
from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.exchange import HOLD_S_MAX, Caller, Responder
from orchestrator.loader import Found, Loader
from orchestrator.logs import configure_logging, debug_enabled, log_event
from orchestrator.metrics.export import export
from orchestrator.metrics.shard_meter import ShardMeter
from orchestrator.plane.endpoint import Endpoint
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Lookup, Waiter
from orchestrator.protocol.identifiers import PARTITIONS, partition_of
from orchestrator.protocol.messages import (
    SCHEMA_VERSION,
    ClientBatch,
    Command,
    CommandBatch,
    Inquiry,
    OutcomeBatch,
    OutcomeMessage,
    OutcomeStatus,
    Reply,
)
from orchestrator.protocol.records import AppendReply, AppendResult, Record, StoredTransaction, TakeRequest, encode
from orchestrator.protocol.standing import Standing, standing_of
from orchestrator.protocol.strangers import Strangers
from orchestrator.service_caller import service_caller
from orchestrator.transport import RemoteLog, service_actor, way_to
from orchestrator.watchdog import Watchdog

if TYPE_CHECKING:
    from orchestrator.tracing.shard_spans import ShardSpans

AGAIN_S = 0.05

_CLIENT_BATCH = msgspec.msgpack.Decoder(ClientBatch)
_INQUIRIES = msgspec.msgpack.Decoder(list[Inquiry])


class ShardSpec(msgspec.Struct, frozen=True):
    """What a shard's actor is constructed with; plain data, so that a restarted actor gets the same."""

    index: int
    shards: int
    app: str
    data_dir: str
    deployment: str
    run: str
    settings: bytes


class Shard:
    """The actor. Its constructor starts the recovery, so a restarted shard serves without anyone calling it."""

    def __init__(self, spec: ShardSpec) -> None:
        self._spec = spec
        self._name = f"shard-{spec.index}"
        self._incarnation = uuid.uuid4().hex
        self._state = "recovering"
        self._restarts = 0
        self._settings = unpack_settings(spec.settings)
        self._endpoint = Endpoint({"exchange": self.exchange, "inquire": self.inquire})
        self._way_to = way_to(spec.deployment, self._settings.transport, self._endpoint.refused)
        self._log = RemoteLog(self._way_to)
        self._clients: Responder[OutcomeMessage] = Responder(_length)
        self._services: dict[str, Caller[Command, Reply]] = {}
        self._exempt: list[str] = []
        self._clock_base_ms = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ms = 0
        self._checking: set[int] = set()
        self._learning = False
        self._strangers = Strangers()
        self._serving = asyncio.Event()
        self._loader = Loader(self._log, self._loaded)
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchdog = Watchdog(self._settings.stuck_after_ms)
        self._meter = ShardMeter(self._endpoint.refused)
        self._spans: ShardSpans | None = None  # where the setting `tracing` asks for them
        asyncio.get_running_loop().set_exception_handler(self._bug)
        self._spawn(self._recover())

    def __repr__(self) -> str:
        return f"Orchestrator(shard={self._spec.index})"

    # ---- called through Ray ---------------------------------------------------------------------------------------

    async def exchange(self, payload: bytes) -> bytes:
        """One exchange with a client: `ClientBatch` in, `OutcomeBatch` out."""
        batch = _CLIENT_BATCH.decode(payload)
        self._clients.open(batch.client)
        if self._state != "serving" and not await self._serves():
            return encode(OutcomeBatch(SCHEMA_VERSION, _retry_all(batch)))
        try:
            self._take_in(batch)
        except Exception as error:  # noqa: BLE001 - half of the batch may be taken in: start again from what is durable
            self._bug(asyncio.get_running_loop(), {"exception": error})
        outcomes = await self._clients.collect(batch.client, empty=batch.empty)
        return encode(OutcomeBatch(SCHEMA_VERSION, outcomes, self._core.full_ms, self._clients.conversation(batch.client)))

    def _take_in(self, batch: ClientBatch) -> None:
        now_ms = self._now_ms()
        if batch.submits:
            submits = batch.submits if self._spans is None else self._spans.rooted(batch.submits)
            self._apply(self._core.submit([(Waiter(batch.client, r.number), r) for r in submits], now_ms))
        for cancel in batch.cancels:
            waiter = Waiter(batch.client, cancel.number)
            self._apply(self._core.cancel(waiter, cancel.key, cancel.transaction, now_ms))
        for act in batch.acts:
            self._apply(self._core.act(Waiter(batch.client, act.number), act, now_ms))
        for lookup in batch.lookups:
            waiter = Waiter(batch.client, lookup.number)
            self._apply(self._core.lookup(waiter, lookup.key, lookup.transaction, now_ms))

    async def _serves(self) -> bool:
        """Whether it serves, at the latest after the time that an exchange may be held."""
        try:
            await asyncio.wait_for(self._serving.wait(), HOLD_S_MAX)
        except TimeoutError:
            return False
        return True

    async def inquire(self, payload: bytes) -> bytes:
        """What a participant in doubt should do: commands for decided transactions, nothing (not ready) for others."""
        if self._state != "serving":
            return msgspec.msgpack.encode([])
        inquiries = _INQUIRIES.decode(payload)
        for inquiry in inquiries:
            if inquiry.epoch > self._core.epochs.get(partition_of(inquiry.transaction), 0):
                self._check_owner(partition_of(inquiry.transaction))
        mine = [i for i in inquiries if i.epoch <= self._core.epochs.get(partition_of(i.transaction), 0)]
        commands, absent = self._core.inquire(mine)
        if absent:
            commands.extend(await self._settle_absent(absent))
        return msgspec.msgpack.encode(commands)

    async def endpoint(self, host: str) -> bytes:
        """Where a peer on a host can connect, msgpack of `Address`."""
        return await self._endpoint.address(host)

    async def learn(self, payload: bytes = b"") -> bytes:
        """Look up at the log what is paused and obey it from now on; `Pauses` back."""
        await self._serving.wait()
        pauses = await self._log.pauses(payload)
        self._apply(self._core.pause(pauses, self._now_ms()))
        return encode(pauses)

    async def status(self) -> bytes:
        """Who this is and how it is, msgpack."""
        serving = self._state == "serving"
        return msgspec.msgpack.encode({
            "role": "orchestrator", "name": self._name, "pid": os.getpid(), "node": socket.gethostname(),
            "epoch": max(self._core.epochs.values(), default=0) if serving else 0, "state": self._state,
            "restarts": self._restarts, "detail": self._detail() if serving else {"open": 0},
            "figures": self._figures(),
            "breakers": {name: report._asdict() for name, report in self._core.breakers.items()} if serving else {},
        })

    def _detail(self) -> dict[str, int]:
        draining_ms = self._core.drain_until_ms - self._now_ms()
        return {"open": self._core.open_count} | ({"draining_ms": draining_ms} if draining_ms > 0 else {})

    def _figures(self) -> dict[str, Any]:
        if self._state != "serving":
            return self._meter.figures(None, None, {}, self._restarts)
        return self._meter.figures(self._core, self._appender, self._services, self._restarts)

    async def drain(self, lease_ms: int) -> bytes:
        """Begin nothing new for so long (0 = begin again); msgpack of how many transactions are open, nil before it serves."""
        if self._state != "serving":
            return msgspec.msgpack.encode(None)
        if lease_ms and self._core.drain_until_ms <= self._now_ms():
            log_event("draining", code=ErrorCode.DRAINING, message=f"{self._core.open_count} open transactions")
        self._core.drain_until_ms = self._now_ms() + lease_ms
        return msgspec.msgpack.encode(self._core.open_count)

    # ---- recovery -------------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        configure_logging(self._name, Path(self._spec.data_dir), self._settings.log_level)
        app = load_app(self._spec.app)
        self._spans = self._open_spans()
        self._core = Coordinator(
            {(saga.name, saga.version): saga for saga in app.sagas},
            open_max=self._settings.open_transactions_max, quarantine_after=self._settings.quarantine_after,
            traffic=self._settings.traffic())
        for service in app.services:
            self._services[service.name] = self._caller(service.name)
        partitions = list(range(self._spec.index, PARTITIONS, self._spec.shards))
        request = TakeRequest(
            SCHEMA_VERSION, self._spec.index, self._incarnation, partitions, os.getpid(), self._spec.run)
        while True:
            try:
                taken = await self._log.take(request)
                break
            except IndefiniteError:
                await asyncio.sleep(AGAIN_S)
        if not taken.epochs:
            log_event("superseded", level="WARNING", code=ErrorCode.FENCED, message="the log is of another run; leaving")
            os._exit(1)
        self._core.watermark_ms, self._exempt, self._restarts = taken.watermark_ms, taken.exempt, taken.restarts
        self._core.pause(taken.pauses, self._now_ms())
        self._appender = Appender(
            self._log, shard=self._spec.index, incarnation=self._incarnation, epochs=self._core.epochs,
            deliver=self._appended)
        self._watchdog.start()  # from here on request builders run
        if self._spans is not None:
            self._spans.adopted(taken.open)
        self._state = "serving"
        self._serving.set()
        self._apply(self._core.adopt(dict(zip(partitions, taken.epochs, strict=True)), taken.open, self._now_ms()))
        self._spawn(export(self._name, self._figures, self._settings.metrics_ms))
        garbage.expect_little()

    def _open_spans(self) -> ShardSpans | None:
        if self._settings.tracing is None:
            return None
        from orchestrator.tracing.shard_spans import open_shard_spans  # noqa: PLC0415 - nothing of it where nobody traces

        return open_shard_spans(self._settings.tracing, self._name, Path(self._spec.data_dir))

    def _caller(self, service: str) -> Caller[Command, Reply]:
        def received(replies: list[Reply]) -> None:  # no method: those of an actor are dear
            if self._spans is not None:
                self._spans.received(replies)
            self._apply(self._core.receive(replies, self._now_ms()))

        return service_caller(
            self._way_to(service_actor(service), "exchange"), encode=self._encode_commands, deliver=received,
            lost=lambda error: self._lost(service, error))

    def _lost(self, service: str, error: IndefiniteError) -> None:
        self._meter.lost(service)
        log_event("service_lost", level="WARNING", service=service, code=error.code, message=error.message)

    def _encode_commands(self, commands: list[Command]) -> bytes:
        return encode(CommandBatch(
            SCHEMA_VERSION, self._name, self._incarnation, commands, self._core.watermark_ms, self._exempt))

    # ---- what the core asks for -----------------------------------------------------------------------------------

    def _apply(self, effects: Effects) -> None:
        if self._spans is not None:
            self._spans.applied(effects)
        if effects.records:
            self._appender.add(effects.records)
        for service, commands in effects.commands.items():
            self._services[service].send(commands)
        if effects.outcomes:
            self._tell(effects.outcomes)
        if effects.lookups:
            self._look_up(effects.lookups)
        for service, transaction, step in effects.withdrawn:
            self._services[service].forget((transaction, step))
        for notice in effects.notices:
            self._meter.notice(notice)
            log_event(notice.event, level=notice.level, transaction=notice.transaction, service=notice.service,
                      step=notice.step, attempt=notice.attempt, code=notice.code, message=notice.message)
        for partition in effects.fenced:
            self._meter.fenced += 1
            self._check_owner(partition)
        self._set_timer()

    def _tell(self, outcomes: Sequence[tuple[Waiter, OutcomeMessage]]) -> None:
        by_peer: dict[str, list[OutcomeMessage]] = {}
        debug = debug_enabled()
        for waiter, outcome in outcomes:
            by_peer.setdefault(waiter.peer, []).append(outcome)
            if outcome.status is OutcomeStatus.REJECTED:
                self._meter.rejected(outcome.code)
            if debug:
                log_event("outcome", level="DEBUG", transaction=outcome.transaction, service=outcome.service,
                          step=outcome.step, status=outcome.status.name, attempt=outcome.attempts, code=outcome.code)
        for peer, messages in by_peer.items():
            self._clients.put(peer, messages)

    def _appended(self, results: Sequence[tuple[Record, AppendResult]], reply: AppendReply) -> None:
        self._core.watermark_ms, self._exempt = max(self._core.watermark_ms, reply.watermark_ms), reply.exempt
        if self._spans is not None:
            self._spans.appended(results)
        if reply.pauses > self._core.pauses.version and not self._learning:
            self._learning = True
            self._spawn(self._learn())
        self._apply(self._core.appended(results, self._now_ms()))

    def _look_up(self, lookups: Sequence[Lookup]) -> None:
        waiters = [lookup.joiner.waiter for lookup in self._loader.add(lookups)]
        self._tell([(waiter, _not_now(waiter.number, "too many are waiting for the log")) for waiter in waiters])

    def _loaded(self, found: Sequence[Found]) -> None:
        effects, now_ms = Effects(), self._now_ms()
        for lookup, stored in found:
            effects.include(self._core.loaded(lookup, stored, now_ms))
        self._apply(effects)

    async def _learn(self) -> None:
        while True:
            try:
                await self.learn()
                break
            except IndefiniteError:
                await asyncio.sleep(AGAIN_S)
        self._learning = False

    async def _settle_absent(self, inquiries: Sequence[Inquiry]) -> list[Command]:
        try:
            found = await self._log.load([], [inquiry.transaction for inquiry in inquiries])
        except IndefiniteError:
            return []
        by_id = {stored.begun.transaction: stored for stored in found}
        return [command for inquiry in inquiries for command in self._settle(inquiry, by_id.get(inquiry.transaction))]

    def _settle(self, inquiry: Inquiry, stored: StoredTransaction | None) -> list[Command]:
        if stored is None:
            if not self._strangers.persists(inquiry, self._now_ms()):
                return []
            # Begun is durable before any prepare: a lost or foreign log; never "so rolled back"
            log_event("unknown_to_log", level="CRITICAL", transaction=inquiry.transaction, step=inquiry.step,
                      code=ErrorCode.UNKNOWN, message="a service holds a prepared row of a transaction the log never saw")
            return []
        return [self._core.settling(inquiry, stored.decided.decision)] if stored.decided else []

    # ---- who owns a partition -------------------------------------------------------------------------------------

    def _check_owner(self, partition: int) -> None:
        if partition not in self._checking:
            self._checking.add(partition)
            self._spawn(self._ask_owner(partition))

    async def _ask_owner(self, partition: int) -> None:
        """Called stale: drop the partition if another shard has it, leave if this incarnation was superseded."""
        while True:
            try:
                owner = await self._log.owner(partition)
                break
            except IndefiniteError:
                await asyncio.sleep(AGAIN_S)
        self._checking.discard(partition)
        standing = standing_of(
            (owner["shard"], owner["epoch"], owner["incarnation"]), shard=self._spec.index, incarnation=self._incarnation,
            epoch=self._core.epochs.get(partition, 0))
        if standing is Standing.HOLDS:
            log_event("fenced_by_foreign_epoch", level="CRITICAL", code=ErrorCode.FENCED,
                      message=f"partition {partition}: a service has seen a higher epoch than the log gave out")
        elif standing is Standing.SUPERSEDED:
            log_event("superseded", level="WARNING", code=ErrorCode.FENCED, message="a newer taking counts; leaving")
            os._exit(1)
        else:
            if self._spans is not None:
                self._spans.dropped(partition)
            self._apply(self._core.drop([partition], self._now_ms()))

    # ---- time and tasks -------------------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self._clock_base_ms + time.monotonic_ns() // 1_000_000

    def _set_timer(self) -> None:
        due_ms = self._core.next_due_ms
        if due_ms is None or (self._timer is not None and self._timer_due_ms <= due_ms):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_ms = due_ms
        delay_s = max(due_ms - self._now_ms(), 0) / 1_000
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._apply(self._core.tick(self._now_ms()))

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._spawned_done)

    def _spawned_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def _bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An exception nobody caught: the state in memory is suspect, the durable one is not; start again from that."""
        error = context.get("exception")
        if isinstance(error, RayError | asyncio.CancelledError) or error is None:
            return
        log_event("crashed", level="CRITICAL", message=f"{type(error).__name__}: {error}", traceback=_traceback(error))
        os._exit(1)


def _traceback(error: object) -> str:
    import traceback  # noqa: PLC0415 - only when dying

    return "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""


def _retry_all(batch: ClientBatch) -> list[OutcomeMessage]:
    numbers = [r.number for r in batch.submits] + [r.number for r in batch.cancels]
    numbers += [r.number for r in batch.lookups] + [r.number for r in batch.acts]
    return [_not_now(number, "the shard is recovering") for number in numbers]


def _not_now(number: int, why: str) -> OutcomeMessage:
    return OutcomeMessage(number, "", OutcomeStatus.RETRY, [], ErrorCode.NOT_READY, why)


def _length(outcome: OutcomeMessage) -> int:
    return sum(len(step.result) for step in outcome.results) if outcome.results else 0
