"""A shard's process: the production coordinator in a shell that appends, sends and tells what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import msgspec

from orchestrator.protocol.breaker import BreakerPolicy
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Lookup, Waiter
from orchestrator.protocol.identifiers import began_ms_of, partition_of, partition_of_key
from orchestrator.protocol.messages import (
    SCHEMA_VERSION,
    ClientBatch,
    Command,
    CommandBatch,
    Inquiry,
    OutcomeBatch,
    OutcomeMessage,
    OutcomeStatus,
    ReplyBatch,
)
from orchestrator.protocol.records import (
    RECORD_SCHEMA,
    AppendReply,
    AppendRequest,
    AppendResult,
    AppendStatus,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Parked,
    Record,
    StoredTransaction,
    TakeReply,
    TakeRequest,
    encode,
)
from orchestrator.protocol.standing import Standing, standing_of
from orchestrator.protocol.strangers import Strangers
from orchestrator.protocol.traffic import TrafficPolicy
from orchestrator.testing.simulation.life import AGAIN_MS, AGAIN_MS_MAX, Life, Message

if TYPE_CHECKING:
    from orchestrator.protocol.transaction import Transaction
    from orchestrator.testing.simulation.world import World

_CLIENTS = msgspec.msgpack.Decoder(ClientBatch)
_REPLIES = msgspec.msgpack.Decoder(ReplyBatch)
_INQUIRIES = msgspec.msgpack.Decoder(list[Inquiry])
_TAKEN = msgspec.msgpack.Decoder(TakeReply)
_APPENDED = msgspec.msgpack.Decoder(AppendReply)
_ENCODER = msgspec.msgpack.Encoder()
BREAKER_SILENT_MS = 500  # a schedule has few transactions, and seconds only
LAZY_MS = 50  # an Ended record waits so long for company


class ShardLife(Life):
    """One incarnation of a shard."""

    def __init__(self, world: World, role: str, number: int, index: int) -> None:
        super().__init__(world, role, number)
        self.index = index
        self.serving = False
        self._run = world.run
        self._clock_ms = world.wall_ms - world.now_ms  # the wall clock is read once
        self._due_ms = 0
        self._sequence = 0
        self._queue: list[Record] = []
        self._appending = False
        self._underway: list[Record] = []
        self._lazy = False
        self._exempt: list[str] = []
        self._checking: set[int] = set()
        self._strangers = Strangers()
        self._overdue: set[str] = set()  # found undecided after their deadline

    @property
    def now_ms(self) -> int:
        """Unix ms that never run backwards in one life."""
        return self._clock_ms + self.world.now_ms

    @property
    def open(self) -> Collection[Transaction]:
        """The transactions that it holds."""
        return self._table.by_id.values()

    @property
    def appending(self) -> Sequence[Record]:
        """Records whose append is under way."""
        return self._underway

    @property
    def unlogged(self) -> Sequence[Record]:
        """Records that the log has not confirmed."""
        return [*self._underway, *self._queue]

    def boot(self) -> None:
        """Take the partitions."""
        self.core = Coordinator(
            self.world.sagas, open_max=1_000, quarantine_after=1_000,
            traffic=TrafficPolicy(breaker=BreakerPolicy(self.world.options.breaker_failures, BREAKER_SILENT_MS)))
        self._table = self.core._table  # noqa: SLF001 - what the witness looks at, and nobody changes
        self.partitions = [p for p in self.world.partitions if p % self.world.shards == self.index]
        request = encode(TakeRequest(RECORD_SCHEMA, self.index, self.name, self.partitions, 1, self._run))
        self.call("log", "take", lambda: request, self._taken)

    def _taken(self, payload: bytes) -> None:
        taken = _TAKEN.decode(payload)
        if self.partitions and not taken.epochs:
            self.world.end(self, "of another run")
        self.core.watermark_ms, self._exempt = taken.watermark_ms, taken.exempt
        self.core.pause(taken.pauses, self.now_ms)
        self.serving = True
        self._overdue = {t.begun.transaction for t in taken.open if t.decided is None and t.begun.deadline_ms <= self.now_ms}
        self._apply(self.core.adopt(dict(zip(self.partitions, taken.epochs, strict=True)), taken.open, self.now_ms))

    # ---- what arrives ---------------------------------------------------------------------------------------------

    def on_exchange(self, message: Message) -> None:
        """A `ClientBatch`."""
        batch = _CLIENTS.decode(message.body)
        if not self.serving:
            self.world.witness.asked_early([request.key for request in batch.submits])
            return  # the caller asks again
        if any(partition_of_key(request.key) not in self.core.epochs for request in batch.submits):
            self.world.witness.asked_wrongly()
        if batch.submits:
            self._apply(self.core.submit([(Waiter(batch.client, r.number), r) for r in batch.submits], self.now_ms))
        for request in batch.cancels:
            self.world.witness.cancelling(self._table.by_key.get(request.key))
            self._apply(self.core.cancel(Waiter(batch.client, request.number), request.key, request.transaction, self.now_ms))
        for act in batch.acts:
            self._apply(self.core.act(Waiter(batch.client, act.number), act, self.now_ms))

    def on_learn(self, message: Message) -> None:
        """Something was paused or resumed."""
        del message
        self._learn()

    def _learn(self) -> None:
        self.call("log", "pauses", lambda: None, lambda pauses: self._apply(self.core.pause(pauses, self.now_ms)))

    def on_replies(self, message: Message) -> None:
        """A `ReplyBatch` of a participant."""
        if self.serving:
            replies = _REPLIES.decode(message.body).replies
            for reply in replies:
                txn = self._table.by_id.get(reply.transaction)
                if txn is not None:
                    self.world.witness.answered(txn, reply)
            self._apply(self.core.receive(replies, self.now_ms))

    def on_inquire(self, message: Message) -> None:
        """What a participant in doubt should do."""
        if not self.serving:
            self.world.witness.asked_early(())
            return
        inquiries = _INQUIRIES.decode(message.body)
        mine = [i for i in inquiries if i.epoch <= self.core.epochs.get(partition_of(i.transaction), 0)]
        for inquiry in inquiries:
            if inquiry not in mine:
                self.world.witness.asked_above_its_epoch()
                self._check_owner(partition_of(inquiry.transaction))
        commands, absent = self.core.inquire(mine)
        if commands:
            self.answer(message, _ENCODER.encode(commands))
        for inquiry in absent:
            self._settle(message, inquiry)

    def _settle(self, message: Message, inquiry: Inquiry) -> None:
        def loaded(stored: StoredTransaction | None) -> None:
            # a zombie may hold what its successor has settled and the log has forgotten; who holds it at the end is judged then
            forgotten = began_ms_of(inquiry.transaction) < self.core.watermark_ms
            if stored is None and not forgotten and self._strangers.persists(inquiry, self.now_ms):
                self.world.violation("D", f"{message.source.role} holds {inquiry.transaction}, which the log does not know")
            elif stored is not None and stored.decided is not None:
                self.answer(message, _ENCODER.encode([self.core.settling(inquiry, stored.decided.decision)]))

        self.call("log", "load", lambda: ("", inquiry.transaction), loaded)

    # ---- what the core asks for -----------------------------------------------------------------------------------

    def _apply(self, effects: Effects) -> None:
        if effects.records:
            self._look_at(effects.records)
            self._queue.extend(effects.records)
            self._append()
        for service, commands in effects.commands.items():
            self._send(service, commands)
        if effects.outcomes:
            self._tell(effects.outcomes)
        for lookup in effects.lookups:
            self._load(lookup)
        for partition in sorted(effects.fenced):
            self._check_owner(partition)
        self._set_timer()

    def _send(self, service: str, commands: list[Command]) -> None:
        incarnation = self.name.partition("/")[2]
        batch = CommandBatch(SCHEMA_VERSION, self.role, incarnation, commands, self.core.watermark_ms, self._exempt)
        self.mail(service, "commands", encode(batch))
        self.world.witness.commanded(commands)

    def _tell(self, outcomes: Sequence[tuple[Waiter, OutcomeMessage]]) -> None:
        for waiter, outcome in outcomes:
            if outcome.status in (OutcomeStatus.COMMITTED, OutcomeStatus.ABORTED):
                self._check_durable(outcome)
            client = self.world.lives.get(waiter.peer)
            if client is not None:
                self.mail(client, "outcomes", encode(OutcomeBatch(SCHEMA_VERSION, [outcome])))

    def _check_durable(self, outcome: OutcomeMessage) -> None:
        decided = self.world.decisions.get(outcome.transaction)
        committed = outcome.status is OutcomeStatus.COMMITTED
        if decided is None or (decided.decision is Decision.COMMIT) is not committed:
            self.world.violation("K", f"{outcome.status.name} of {outcome.transaction} is told, but the durable decision is "
                                 f"{decided.decision.name if decided else 'not there'}")

    def _look_at(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, Parked):
                self.world.parked.add((record.transaction, record.step))
            elif isinstance(record, Decided) and record.decision is Decision.COMMIT and record.transaction in self._overdue:
                self.world.violation("L", f"{record.transaction} was found undecided after its deadline, and is committed")

    def _load(self, lookup: Lookup) -> None:
        def loaded(stored: StoredTransaction | None) -> None:
            self._apply(self.core.loaded(lookup, stored, self.now_ms))

        self.call("log", "load", lambda: (lookup.key, lookup.transaction), loaded)

    # ---- the log: one append under way, everything else gathers ----------------------------------------------------

    def _append(self) -> None:
        if self._appending or not self._queue:
            return
        if all(isinstance(record, Ended) for record in self._queue):
            if not self._lazy:
                self._lazy = True
                self.after(LAZY_MS, self._append_now)
            return
        self._append_now()

    def _append_now(self) -> None:
        self._lazy = False
        if self._appending or not self._queue:
            return
        queue, self._queue = self._queue, []
        batch = [record for record in queue if partition_of(record.transaction) in self.core.epochs]
        gone = [(record, AppendResult(AppendStatus.FENCED)) for record in queue if record not in batch]
        records = [EpochRecord(self.core.epochs[partition_of(record.transaction)], record) for record in batch]
        self._appending, self._underway = True, batch
        sequence = self._sequence

        def request() -> bytes:
            self._sequence += 1
            return encode(AppendRequest(RECORD_SCHEMA, self.index, self.name, self._sequence, records))

        def appended(payload: bytes) -> None:
            reply = _APPENDED.decode(payload)
            if reply.dropped:
                self._append_until_answered(request, appended)
                return
            self._appending, self._underway = False, []
            if self._sequence > sequence + 1:
                self.world.witness.appended_again(zip(batch, reply.results, strict=True), self._table.by_id, self.now_ms)
            self.core.watermark_ms, self._exempt = max(self.core.watermark_ms, reply.watermark_ms), reply.exempt
            if reply.pauses > self.core.pauses.version:
                self._learn()
            self._apply(self.core.appended([*zip(batch, reply.results, strict=True), *gone], self.now_ms))
            self._append()

        self._append_until_answered(request, appended)

    def _append_until_answered(
        self, request: Callable[[], bytes], appended: Callable[[bytes], None], again_ms: int = AGAIN_MS,
    ) -> None:
        """Only the newest attempt's answer counts, as in `Appender`: at a key just forgotten they may differ."""
        number = self.call("log", "append", request, appended, again=False)

        def repeat() -> None:
            if number in self._calls:
                self.forget_call(number)
                self._append_until_answered(request, appended, min(again_ms * 2, 2 * AGAIN_MS_MAX))

        self.after(again_ms, repeat)

    # ---- who owns a partition -------------------------------------------------------------------------------------

    def _check_owner(self, partition: int) -> None:
        if partition in self._checking:
            return
        self._checking.add(partition)

        def owned(owner: tuple[int, int, str]) -> None:
            self._checking.discard(partition)
            epoch = self.core.epochs.get(partition, 0)
            standing = standing_of(owner, shard=self.index, incarnation=self.name, epoch=epoch)
            if standing is Standing.SUPERSEDED:
                self.world.end(self, "superseded")
            elif standing is Standing.MOVED:
                self._apply(self.core.drop([partition], self.now_ms))

        self.call("log", "owner", lambda: partition, owned)

    # ---- time -----------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        due_ms = self.core.next_due_ms
        if due_ms is None or (self._due_ms and self._due_ms <= due_ms):
            return
        self._due_ms = due_ms
        self.after(max(due_ms - self.now_ms, 0), lambda: self._tick(due_ms))

    def _tick(self, due_ms: int) -> None:
        if self._due_ms != due_ms:
            return  # an earlier one was set meanwhile
        self._due_ms = 0
        self._apply(self.core.tick(self.now_ms))
