"""Sees which failures of the catalogue really happen in a simulated world, and marks them.

It judges from state: from what was open, sent, durable and told at the moment. It changes nothing and draws nothing, so
that a schedule is the same with it and without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import ErrorCode
from orchestrator.protocol.identifiers import epoch_of, partition_of
from orchestrator.protocol.messages import Command, Kind, OutcomeStatus, Reply, Status
from orchestrator.protocol.records import (
    AppendReply,
    AppendRequest,
    AppendResult,
    AppendStatus,
    Begun,
    Decided,
    Decision,
    Ended,
    Record,
    State,
    TakeRequest,
)
from orchestrator.protocol.transaction import Phase, Transaction
from orchestrator.testing.marks import Marks
from orchestrator.testing.simulation.client_life import ClientLife, Told
from orchestrator.testing.simulation.journal import Journal, Point
from orchestrator.testing.simulation.life import Life, Message
from orchestrator.testing.simulation.log_life import LogLife
from orchestrator.testing.simulation.log_model import LogModel
from orchestrator.testing.simulation.service_life import ServiceLife
from orchestrator.testing.simulation.shard_life import ShardLife

if TYPE_CHECKING:
    from orchestrator.testing.simulation.world import World

NESTED = 3  # deaths in a row during recovery
SLOW_MS = 1_000
JUMP_MS = 3_600_000
_DURING = {Kind.COMMIT: "20", Kind.ROLLBACK: "21"}
_REPLIES = frozenset({"replies", "answer", "outcomes"})
_UNSTORED = frozenset({ErrorCode.LATE_PREPARE, ErrorCode.EXPIRED, ErrorCode.FINGERPRINT})  # a no that no row stores


class Witness:
    """Watches one world.

    Args:
        world: what it watches.
    """

    def __init__(self, world: World) -> None:
        self.marks = Marks()
        self._world = world
        self._nested: dict[str, int] = {}  # by shard: deaths in a row during recovery
        self._newest: dict[tuple[str, str], int] = {}  # by sender and receiver: order of the newest message that came
        self._replied: dict[tuple[str, str], tuple[Kind, Status]] = {}  # by (transaction, step): the last durable answer
        self._sent: set[str] = set()  # transactions of which a command has been sent
        self._held: dict[str, set[str]] = {}  # by service: transactions with a yes and no end
        self._unsynced_decision: tuple[int, int] | None = None  # its place in the log's journal, and who wrote it

    # ---- deaths ---------------------------------------------------------------------------------------------------

    def dying(self, life: Life, when: str, why: str) -> None:
        """A process ends.

        Args:
            life: it.
            when: the point at which it died, "" = between two events.
            why: "superseded" where a successor made it end.
        """
        if why == "superseded":
            self.marks.fire("12" if isinstance(life, ShardLife) else "66")
        elif isinstance(life, LogLife):
            self._log_dying(life, when)
        elif isinstance(life, ShardLife):
            self._shard_dying(life)
        elif isinstance(life, ServiceLife):
            self._service_dying(life, when)
        elif isinstance(life, ClientLife) and life.waiting:
            self.marks.fire("45")

    def power_failed(self, journal: Journal, lost: int) -> None:
        """A journal has lost what was not synced: so many batches."""
        if lost:
            self.marks.fire("61")
        if journal.name == "log" and self._unsynced_decision is not None:
            place, owner = self._unsynced_decision
            if journal.owner > owner and place < journal.synced:
                self.marks.fire("56b")
            self._unsynced_decision = None

    def everything_dies(self) -> None:
        """Every process is about to be killed."""
        if self._open():
            self.marks.fire("83")

    def _log_dying(self, log: LogLife, when: str) -> None:
        journal = self._world.stores.log_journal
        if journal is not None and when == Point.SYNC and _decides(journal.entries[-1]):
            self.marks.fire("5")
            self._unsynced_decision = (len(journal.entries) - 1, journal.owner)
        if log.ready and any(isinstance(life, ShardLife) and life.appending for life in self._world.lives.values()):
            self.marks.fire("65")

    def _shard_dying(self, shard: ShardLife) -> None:
        log = self._log()
        recovering = self._recovering(shard, log)
        nested = self._nested[shard.role] = self._nested.get(shard.role, 0) + 1 if recovering else 0
        if nested == NESTED:
            self.marks.fire("9")
        told = {answer.outcome.transaction for answer in self._world.answers}
        for txn in shard.open:
            begun, decided = log is not None and txn.id in log.transactions, txn.id in self._world.decisions
            if decided and txn.id not in told:
                self.marks.fire("6")
            for row in _died_with(txn, begun=begun, sent=txn.id in self._sent, decided=decided):
                self.marks.fire(row)
        for record in shard.unlogged:
            entry = log.transactions.get(record.transaction) if log is not None and isinstance(record, Ended) else None
            if entry is not None and not entry.ended:
                self.marks.fire("8")

    def _recovering(self, shard: ShardLife, log: LogModel | None) -> bool:
        if shard.serving:
            return any(txn.recovered for txn in shard.open)
        mine = set(shard.partitions)
        return log is not None and any(not e.ended and partition_of(txn) in mine for txn, e in log.transactions.items())

    def _service_dying(self, service: ServiceLife, when: str) -> None:
        if not service.batch or when not in (Point.WRITE, Point.SYNC, Point.SYNCED):
            return
        self.marks.fire({Point.WRITE: "17", Point.SYNC: "19", Point.SYNCED: "18"}[Point(when)])
        for kind in {command.kind for command in service.batch} & _DURING.keys():
            self.marks.fire(_DURING[kind])
        if len(service.batch) > 1:
            self.marks.fire("22")

    # ---- messages -------------------------------------------------------------------------------------------------

    def lost(self, message: Message) -> None:
        """A message is lost."""
        self.marks.fire("27" if message.method in _REPLIES else "26")

    def cut(self, message: Message, target: str) -> None:
        """A message does not pass a cut; the other direction is open."""
        if (target, message.source.role) not in self._world.cuts:
            self.marks.fire("40")

    def arrived(self, life: Life, message: Message, order: int, *, late: bool) -> None:
        """A message arrives where messages may overtake each other.

        Args:
            life: it arrives at.
            message: it.
            order: rises with every message sent.
            late: whether it is late beyond every timeout.
        """
        if late:
            self.marks.fire("37")
        pair = (message.source.name, life.name)
        if order < self._newest.get(pair, 0):
            self.marks.fire("36")
        else:
            self._newest[pair] = order

    def disk_failed(self) -> None:
        """A sync has failed, its outcome unknown."""
        self.marks.fire("57")

    def told(self, told: Told) -> None:
        """A caller has been told something; `world.answers` holds what was told before."""
        outcome = told.outcome
        if outcome.code == ErrorCode.KEY_CONFLICT:
            self.marks.fire("43")
        if outcome.status not in (OutcomeStatus.COMMITTED, OutcomeStatus.ABORTED) or told.cancel:
            return
        if any(before.key == told.key and before.input == told.input and before.outcome.transaction == outcome.transaction
               for before in self._world.answers):
            self.marks.fire("42")
        log = self._log() if outcome.code == ErrorCode.CANCELLED else None
        entry = log.transactions.get(outcome.transaction) if log is not None else None
        if entry is not None and not entry.begun.saga:
            self.marks.fire("47b")

    # ---- the log --------------------------------------------------------------------------------------------------

    def appended(self, request: AppendRequest, reply: AppendReply) -> None:
        """The log has answered an append."""
        for item, result in zip(request.records, reply.results, strict=False):  # none of an append that was dropped
            if result.status is AppendStatus.FENCED:
                self._superseded(request.incarnation)
                if isinstance(item.record, Begun):
                    self.marks.fire("10d")
                elif isinstance(item.record, Decided):
                    self.marks.fire("13")

    def taking(self, request: TakeRequest, log: LogModel) -> None:
        """Partitions are about to be taken."""
        for partition in request.partitions:
            _, epoch, incarnation = log.owners.get(partition, (-1, 0, ""))
            if incarnation == request.incarnation and any(
                    not entry.ended and partition_of(txn) == partition and epoch_of(txn) == epoch
                    for txn, entry in log.transactions.items()):
                self.marks.fire("11")

    def committing(self, delay_ms: int) -> None:
        """A commit of the log with appends in it takes so long."""
        if delay_ms >= SLOW_MS:
            self.marks.fire("60")

    def clock_jumped(self, by_ms: int) -> None:
        """Wall clocks show another time."""
        if abs(by_ms) >= JUMP_MS and self._open():
            self.marks.fire("52")

    # ---- shards ---------------------------------------------------------------------------------------------------

    def asked_early(self, keys: Iterable[str]) -> None:
        """A shard is asked before it serves; about these keys, where it is a caller that asks."""
        self.marks.fire("16")
        log = self._log()
        for key in keys:
            entry = log.transactions.get(log.keys.get(key, "")) if log is not None else None
            if entry is not None and not entry.ended:
                self.marks.fire("10")

    def asked_wrongly(self) -> None:
        """A shard is asked for what another one owns."""
        self.marks.fire("15")

    def asked_above_its_epoch(self) -> None:
        """A shard is asked about a transaction of a later epoch than its own."""
        self.marks.fire("10c")

    def commanded(self, commands: Iterable[Command]) -> None:
        """A shard has sent commands."""
        self._sent.update([command.transaction for command in commands])

    def cancelling(self, txn: Transaction | None) -> None:
        """A caller cancels."""
        if txn is not None and txn.deciding is not None:
            self.marks.fire("47")

    def appended_again(
        self, results: Iterable[tuple[Record, AppendResult]], held: Mapping[str, Transaction], now_ms: int,
    ) -> None:
        """An append has been answered that had to be sent more than once."""
        for record, result in results:
            decided, txn = result.decided, held.get(record.transaction)
            if isinstance(record, Decided) and decided is not None and decided.decision is Decision.COMMIT and (
                    txn is not None and (txn.cancelled or txn.deadline_ms <= now_ms)):
                self.marks.fire("50")

    def answered(self, txn: Transaction, reply: Reply) -> None:
        """A participant's reply comes to the shard that holds the transaction."""
        progress = txn.steps.get(reply.step)
        if progress is None:
            return
        if reply.attempt < progress.attempt and (reply.kind is Kind.PREPARE) is (progress.phase is Phase.SENT):
            self.marks.fire("38")
        if reply.kind is Kind.PERFORM and reply.status in (Status.ERROR, Status.NO):
            self.marks.fire("77")

    # ---- services -------------------------------------------------------------------------------------------------

    def rebuilt(self) -> None:
        """A service that had done something is started anew."""
        self.marks.fire("24")

    def arrived_while_asking(self, command: Command, asked: Sequence[tuple[str, str]]) -> None:
        """A message comes to a service, some of whose prepares wait for somebody outside."""
        if command.kind is Kind.ROLLBACK and (command.transaction, command.step) in asked:
            self.marks.fire("50c")

    def settled(self, commands: Iterable[Command]) -> None:
        """A service is told what to do with what it asked about; it acknowledges that to nobody."""
        for command in commands:
            self._replied.pop((command.transaction, command.step), None)

    def asks(self) -> None:
        """A service asks about what it holds."""
        self.marks.fire("51")

    def tombstone(self) -> None:
        """A Rollback has met no row."""
        self.marks.fire("31")

    def replied(self, service: str, reply: Reply, peer: str) -> None:
        """A service answers; what it says is durable."""
        kind, status = reply.kind, reply.status
        if status is Status.FENCED:
            self._superseded(peer)
            if kind is Kind.COMMIT or kind is Kind.ROLLBACK:
                self.marks.fire("14")
        elif status is Status.NO and reply.code in _UNSTORED:
            if reply.code == ErrorCode.LATE_PREPARE:
                self.marks.fire("32")
            elif reply.code == ErrorCode.EXPIRED:
                self.marks.fire("90")
        elif status in (Status.YES, Status.NO, Status.ACK) and kind is not Kind.PERFORM:
            self._durable(service, reply)

    def _durable(self, service: str, reply: Reply) -> None:
        answer, held = (reply.kind, reply.status), self._held.setdefault(service, set())
        key = (reply.transaction, reply.step)
        if self._replied.get(key) == answer:
            self._repeated(reply, held)
        self._replied[key] = answer
        if reply.status is Status.YES:
            held.add(reply.transaction)
        else:
            held.discard(reply.transaction)

    def _repeated(self, reply: Reply, held: set[str]) -> None:
        if reply.kind is Kind.PREPARE:
            self.marks.fire("28" if reply.status is Status.YES else "33")
            return
        self.marks.fire("29" if reply.kind is Kind.COMMIT else "30")
        if any(other > reply.transaction for other in held):
            self.marks.fire("39")

    # ---- what it knows --------------------------------------------------------------------------------------------

    def _superseded(self, incarnation: str) -> None:
        """Somebody was refused by its epoch: if it lives beside its successor, two were alive at once."""
        life = self._world.lives.get(incarnation)
        if life is not None and self._world.roles.get(life.role) is not life:
            self.marks.fire("12")

    def _log(self) -> LogModel | None:
        log = self._world.roles.get("log")
        return log.model if isinstance(log, LogLife) and log.ready else None

    def _open(self) -> bool:
        log = self._log()
        return log is not None and any(not entry.ended for entry in log.transactions.values())


def _died_with(txn: Transaction, *, begun: bool, sent: bool, decided: bool) -> Iterable[str]:
    """The rows that a shard's death is, as far as one open transaction tells.

    Args:
        txn: as the shard held it.
        begun: whether its Begun is durable.
        sent: whether any command of it was sent, by whomever.
        decided: whether its decision is.
    """
    phases = {progress.phase for progress in txn.steps.values() if not progress.step.after_commit}
    if not begun:
        yield "1"
    elif txn.state is State.PREPARING and not decided:
        if txn.deciding is None:
            yield "3" if sent else "2"
        elif txn.deciding.decision is Decision.COMMIT:
            yield "4"
    if txn.state in (State.COMMITTING, State.ABORTING) and {Phase.DONE, Phase.FINISHING} <= phases:
        yield "7"


def _decides(entry: tuple[str, object, int]) -> bool:
    operation, requests, _ = entry
    return operation == "_append" and isinstance(requests, list) and any(
        isinstance(item.record, Decided) for request in requests for item in request.records)
