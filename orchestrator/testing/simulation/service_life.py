"""A service's process: the production handlers, ledger and rules, turn by turn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.messages import Command, CommandBatch, Inquiry, Kind, ReplyBatch, Status
from orchestrator.protocol.records import Decision
from orchestrator.testing.simulation.life import Life, Message
from orchestrator.testing.simulation.shard_life import ShardLife

if TYPE_CHECKING:
    from orchestrator.local import Mail
    from orchestrator.testing.simulation.world import World

_COMMANDS = msgspec.msgpack.Decoder(CommandBatch)
_REPLIES = msgspec.msgpack.Decoder(ReplyBatch)
_SETTLING = msgspec.msgpack.Decoder(list[Command])
_INQUIRIES = msgspec.msgpack.Encoder()
_WANTED = {Kind.COMMIT: Decision.COMMIT, Kind.PERFORM: Decision.COMMIT, Kind.ROLLBACK: Decision.ABORT}


class ServiceLife(Life):
    """One life of a participant over its journal."""

    def __init__(self, world: World, role: str, number: int) -> None:
        super().__init__(world, role, number)
        self._early: list[Message] = []
        self._turning = self._doubting = False
        self._answering: set[tuple[str, str]] = set()
        self._open = False
        self.batch: list[Command] = []  # what has arrived since the last turn ended

    def boot(self) -> None:
        """Open the file."""
        if self.world.stores.cannot_write(self.role):
            self.after(300, self.boot)
            return
        self._local = self.world.stores.open_service(self.role)
        self._open = True
        if self.world.stores.has_written(self.role):
            self.world.witness.rebuilt()
        self._doubt_later()
        early, self._early = self._early, []
        for message in early:
            self.on_commands(message)

    def on_commands(self, message: Message) -> None:
        """A `CommandBatch` of a shard."""
        if not self._open:
            self._early.append(message)
            return
        for command in _COMMANDS.decode(message.body).commands:
            self.batch.append(command)
            if self._local.asked:
                self.world.witness.arrived_while_asking(command, self._local.asked)
            wanted = _WANTED.get(command.kind)
            decided = self.world.decisions.get(command.transaction)
            if wanted is not None and (decided is None or decided.decision is not wanted):
                self.world.violation("A", f"{command.kind.name} of {command.transaction} {command.step} came to {self.role}, "
                                     f"but the durable decision is {decided.decision.name if decided else 'not there'}")
        self._local.arrive(message.body)
        self._go()

    def _go(self) -> None:
        if self._local.busy and not self._turning:
            self._turning = True
            self.after(self.world.commit_ms(self.role), self._turn)
        for key in self._local.asked:
            if key not in self._answering:
                self._answering.add(key)
                self.after(self.world.chance.between("ask", 1, 900), partial(self._answer, key))

    def _turn(self) -> None:
        self._turning = False
        if self.world.stores.cannot_write(self.role):
            raise OSError(28, "no space left on device")
        self.world.worked.add(self.role)
        mails = self._local.turn(self.world.wall_ms)
        self.batch.clear()
        self._doubt_later()
        for mail in mails:
            self._post(mail)
        self._go()

    def _post(self, mail: Mail) -> None:
        target = self.world.lives.get(mail.peer)
        for reply in _REPLIES.decode(mail.payload).replies:
            self.world.witness.replied(self.role, reply, mail.peer)
            if isinstance(target, ShardLife) and reply.status not in (Status.FENCED, Status.ERROR):
                self._check_fence(target, partition_of(reply.transaction))
            if reply.status is Status.VIOLATION:
                what = f"{reply.kind.name} of {reply.transaction} {reply.step}"
                self.world.violation("M", f"{self.role}: {what}: {reply.message}")
        if target is not None:
            self.mail(target, "replies", mail.payload)

    def _check_fence(self, shard: ShardLife, partition: int) -> None:
        """Whoever had an answer of this service is the last of its partition to be answered until a higher epoch comes."""
        epoch = shard.core.epochs.get(partition)
        if epoch is None:
            return
        highest, heard = self.world.heard.get((self.role, partition), (0, ""))
        if epoch < highest or (epoch == highest and heard != shard.name):
            self.world.violation("F", f"{self.role} answers {shard.name}, which has epoch {epoch} of partition {partition}, "
                                 f"after {heard}, which has {highest}")
        self.world.heard[self.role, partition] = (epoch, shard.name)

    def _answer(self, key: tuple[str, str]) -> None:
        self._answering.discard(key)
        self._local.answer(key)
        self._go()

    # ---- in doubt -------------------------------------------------------------------------------------------------

    def _doubt_later(self) -> None:
        if self._local.holds and not self._doubting:
            self._doubting = True
            self.after(self.world.options.in_doubt_after_ms // 2, self._doubt)

    def _doubt(self) -> None:
        self._doubting = False
        for inquiry in self._local.inquiries(self.world.now_ms):
            self.world.witness.asks()
            self._inquire(inquiry)
        self._doubt_later()

    def _inquire(self, inquiry: Inquiry) -> None:
        partition = int(inquiry.transaction[12:14], 16)

        def owned(owner: tuple[int, int, str]) -> None:
            body = _INQUIRIES.encode([inquiry])
            self.call(f"shard-{owner[0]}", "inquire", lambda: body, settle, again=False)

        def settle(payload: bytes) -> None:
            commands = _SETTLING.decode(payload)
            self.world.witness.settled(commands)
            self._local.settle(commands)
            self._go()

        self.call("log", "owner", lambda: partition, owned, again=False)
