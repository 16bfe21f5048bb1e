"""A small world around the production coordinator and ledger: a network that a schedule commands, and a model of the log."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actors import ledger
from actors.ledger import Action, RowState
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.identifiers import epoch_of, partition_of
from orchestrator.protocol.messages import Command, OutcomeMessage, OutcomeStatus, Reply, Status, SubmitRequest
from orchestrator.protocol.records import (
    AppendResult,
    AppendStatus,
    Begun,
    CancelledKey,
    Decided,
    Decision,
    Ended,
    Record,
    State,
    StoredTransaction,
)
from orchestrator.saga import Saga, encode_plain


@dataclass
class Message:
    to: str  # "log", "shard", "client" or a service
    incarnation: int
    body: Any


class LogModel:
    """The transaction log's rules, written naively."""

    def __init__(self) -> None:
        self.epoch = 0
        self.begun: dict[str, Begun] = {}
        self.keys: dict[str, str] = {}
        self.decided: dict[str, Decided] = {}
        self.ended: set[str] = set()

    def take(self) -> tuple[int, list[StoredTransaction]]:
        self.epoch += 1
        return self.epoch, [self.stored(t) for t in self.begun if t not in self.ended]

    def stored(self, txn: str) -> StoredTransaction:
        decided = self.decided.get(txn)
        if decided is None:
            state = State.PREPARING
        elif decided.decision is Decision.COMMIT:
            state = State.COMMITTED if txn in self.ended else State.COMMITTING
        else:
            state = State.ABORTED if txn in self.ended else State.ABORTING
        return StoredTransaction(self.begun[txn], state, decided)

    def append(self, epoch: int, record: Record) -> AppendResult:
        if epoch != self.epoch:
            return AppendResult(AppendStatus.FENCED)
        if isinstance(record, Begun | CancelledKey):
            return self._bind(record)
        if record.transaction not in self.begun:
            return AppendResult(AppendStatus.UNKNOWN)
        if isinstance(record, Decided):
            stored = self.decided.setdefault(record.transaction, record)
            return AppendResult(AppendStatus.STORED, stored)
        if isinstance(record, Ended):
            assert record.transaction in self.decided, "Ended before Decided"
            self.ended.add(record.transaction)
        return AppendResult(AppendStatus.STORED)

    def _bind(self, record: Begun | CancelledKey) -> AppendResult:
        if epoch_of(record.transaction) != self.epoch:
            return AppendResult(AppendStatus.FENCED)
        bound = self.keys.get(record.key)
        if bound is not None and bound != record.transaction:
            fingerprint = self.begun[bound].fingerprint
            fits = isinstance(record, CancelledKey) or not fingerprint or fingerprint == record.fingerprint
            return AppendResult(AppendStatus.BOUND if fits else AppendStatus.CONFLICT, None, self.stored(bound))
        self.keys[record.key] = record.transaction
        if isinstance(record, Begun):
            self.begun.setdefault(record.transaction, record)
        elif bound is None:
            self.begun[record.transaction] = Begun(record.transaction, record.key, b"", "", 0, b"", record.at_ms, 0, 0)
            self.decided[record.transaction] = Decided(record.transaction, Decision.ABORT, record.at_ms, "E_CANCELLED")
            self.ended.add(record.transaction)
        return AppendResult(AppendStatus.STORED)


@dataclass
class ServiceModel:
    """A participant: the production ledger over a dictionary; counts every effect."""

    refuse: Callable[[Command], bool] = lambda _: False
    rows: dict[tuple[str, str], ledger.Row] = field(default_factory=dict)
    fence: dict[int, int] = field(default_factory=dict)
    effects: list[tuple[str, str, str]] = field(default_factory=list)

    def handle(self, command: Command) -> Reply:
        partition = partition_of(command.transaction)
        if command.epoch < self.fence.get(partition, 0):
            return ledger.answer(command, Status.FENCED)
        self.fence[partition] = command.epoch
        key = (command.transaction, command.step)
        row = self.rows.get(key)
        action = ledger.decide(row, command, watermark_ms=0, exempt=())
        if action is Action.RUN_PREPARE:
            if self.refuse(command):
                self.rows[key] = ledger.refused(command, "REFUSED", "no", 0)
            else:
                self.rows[key] = ledger.prepared(command, encode_plain({"held": command.step}), 0)
                self.effects.append((*key, "hold"))
            return ledger.vote(command, self.rows[key])
        if action is Action.RUN_PERFORM:
            self.rows[key] = ledger.performed(command, b"", 0)
            self.effects.append((*key, "perform"))
            return ledger.ack(command, self.rows[key])
        if action in (Action.RUN_COMMIT, Action.RUN_ROLLBACK):
            assert row is not None
            self.rows[key] = ledger.finished(row, command, 0)
            self.effects.append((*key, "commit" if action is Action.RUN_COMMIT else "release"))
            return ledger.ack(command, self.rows[key])
        if action is Action.TOMBSTONE:
            self.rows[key] = ledger.tombstone(command, 0)
            return ledger.ack(command, self.rows[key])
        return ledger.reply_for(action, row, command)


class World:
    """Everything that a schedule can act on."""

    def __init__(self, saga: Saga, services: dict[str, ServiceModel]) -> None:
        self.saga = saga
        self.services = services
        self.log = LogModel()
        self.network: list[Message] = []
        self.told: dict[str, list[OutcomeMessage]] = {}
        self.keys: dict[int, str] = {}
        self.now_ms = 1_000_000
        self.incarnation = 0
        self.delivered = 0
        self.start()

    # -- the shell's part ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A (new) incarnation of the shard takes the partitions."""
        self.incarnation += 1
        epoch, open_ = self.log.take()
        self.core = Coordinator({(self.saga.name, self.saga.version): self.saga}, open_max=1_000)
        self.apply(self.core.adopt(dict.fromkeys(range(256), epoch), open_, self.now_ms))

    def crash(self) -> None:
        """The shard dies; what it was being told is lost, what it has sent still travels."""
        self.network = [m for m in self.network if m.to != "shard"]
        self.start()

    def apply(self, effects: Effects) -> None:
        assert not effects.fenced or self.incarnation > 0
        for record in effects.records:
            self.network.append(Message("log", self.incarnation, (self.core.epochs[partition_of(record.transaction)], record)))
        for service, commands in effects.commands.items():
            self.network.extend(Message(service, self.incarnation, command) for command in commands)
        for waiter, outcome in effects.outcomes:
            self.network.append(Message("client", self.incarnation, (waiter, outcome)))
        for lookup in effects.lookups:
            txn = lookup.transaction or self.log.keys.get(lookup.key, "")
            stored = self.log.stored(txn) if txn in self.log.begun else None
            self.apply(self.core.loaded(lookup, stored, self.now_ms))

    def submit(self, number: int, key: str, data: Any = None, deadline_ms: int = 0) -> None:
        request = SubmitRequest(number, key, self.saga.name, self.saga.encode_input(data or {}), deadline_ms)
        self.keys[number] = key
        self.apply(self.core.submit([(Waiter("client", number), request)], self.now_ms))

    def cancel(self, number: int, key: str) -> None:
        self.keys[number] = key
        self.apply(self.core.cancel(Waiter("client", number), key, "", self.now_ms))

    # -- what a schedule does --------------------------------------------------------------------------------------

    def deliver(self, index: int = 0, *, keep: bool = False) -> None:
        """Deliver one message; `keep` leaves a duplicate behind."""
        message = self.network[index] if keep else self.network.pop(index)
        self.delivered += 1
        if message.to == "log":
            epoch, record = message.body
            result = self.log.append(epoch, record)
            self.network.append(Message("shard", message.incarnation, (record, result)))
        elif message.to == "client":
            waiter, outcome = message.body
            self.told.setdefault(self.keys[waiter.number], []).append(outcome)
        elif message.to == "shard":
            if message.incarnation == self.incarnation:
                self._to_shard(message.body)
        else:
            reply = self.services[message.to].handle(message.body)
            self.network.append(Message("shard", message.incarnation, reply))

    def _to_shard(self, body: Any) -> None:
        if isinstance(body, Reply):
            self.apply(self.core.receive([body], self.now_ms))
        else:
            self.apply(self.core.appended([body], self.now_ms))

    def lose(self, index: int) -> None:
        """Lose a message; an append is repeated by the shell until its outcome is known, so those are not losable."""
        message = self.network[index]
        if message.to in {"log", "client"} or (message.to == "shard" and not isinstance(message.body, Reply)):
            return
        del self.network[index]

    def advance(self, ms: int) -> None:
        self.now_ms += ms
        self.apply(self.core.tick(self.now_ms))

    def heal(self, limit: int = 20_000) -> None:
        """No more faults: deliver everything, let time pass, ask again for what was never told; all must end."""
        for _ in range(limit):
            if self.network:
                self.deliver(0)
            elif self.core.open_count:
                self.advance(500)
            else:
                return
        raise AssertionError(f"not live: {self.core.open_count} open, {len(self.network)} messages")

    def check(self) -> None:
        """All the safety properties, after healing."""
        for txn in self.log.begun:
            decided = self.log.decided[txn]
            assert txn in self.log.ended
            states = {(name, step): row.state for name, s in self.services.items()
                      for (t, step), row in s.rows.items() if t == txn}
            allowed = ({RowState.COMMITTED, RowState.DONE} if decided.decision is Decision.COMMIT
                       else {RowState.ROLLED_BACK, RowState.REFUSED})
            assert set(states.values()) <= allowed, (txn, decided, states)
            if decided.decision is Decision.COMMIT and self.log.begun[txn].saga:
                assert len(states) == len(self.saga.steps), (txn, states)
        for service in self.services.values():
            assert len(service.effects) == len(set(service.effects)), "an effect happened twice"
            for txn, step, what in service.effects:
                if what == "release":
                    assert (txn, step, "commit") not in service.effects
        for key, outcomes in self.told.items():
            told = (OutcomeStatus.COMMITTED, OutcomeStatus.ABORTED)
            finals = {(o.transaction, o.status) for o in outcomes if o.status in told}
            assert len(finals) <= 1, (key, finals)
            for txn, status in finals:
                commit = self.log.decided[txn].decision is Decision.COMMIT
                assert commit == (status is OutcomeStatus.COMMITTED), "told otherwise than decided"


def shuffle_run(world: World, rng: random.Random, steps: int) -> None:
    """A hostile phase: deliver out of order, double, lose, let time pass, crash the shard."""
    for _ in range(steps):
        choice = rng.random()
        if world.network and choice < 0.72:
            world.deliver(rng.randrange(len(world.network)))
        elif world.network and choice < 0.82:
            world.deliver(rng.randrange(len(world.network)), keep=True)
        elif world.network and choice < 0.92:
            world.lose(rng.randrange(len(world.network)))
        elif choice < 0.97:
            world.advance(rng.choice([1, 50, 1_100, 40_000]))
        else:
            world.crash()
