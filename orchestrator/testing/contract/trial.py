"""One participant that is sent messages as a shard would, over a journal of its own, every handler call watched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from pydantic import BaseModel

from orchestrator.app import Participant
from orchestrator.errors import ErrorCode
from orchestrator.local import HandlerCall, LocalParticipant
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import SCHEMA_VERSION, Command, CommandBatch, Kind, Reply, ReplyBatch, Status
from orchestrator.protocol.records import encode
from orchestrator.saga import decode_plain, encode_plain
from orchestrator.testing.contract.ambient import Ambient
from orchestrator.testing.contract.attributes import Attributes
from orchestrator.testing.contract.report import Rule, Verdicts, differences, short
from orchestrator.testing.simulation.journal import Journal

BEGAN_MS = 1_700_000_000_000
NEVER_IN_DOUBT_MS = 1 << 40
_REPLIES = msgspec.msgpack.Decoder(ReplyBatch)
_NOTHING_DONE = frozenset({Status.NO, Status.NOT_YET, Status.ERROR, Status.VIOLATION})


class Sample(NamedTuple):
    """One request to try an operation on."""

    operation: str
    prepares: bool
    request: bytes


class Message(NamedTuple):
    """One message about the sample's step of a transaction, which is named by a small number."""

    kind: Kind
    number: int
    sample: Sample

    def __str__(self) -> str:
        request = f" {short(decode_plain(self.sample.request))}" if self.kind in (Kind.PREPARE, Kind.PERFORM) else ""
        return f"{self.number}: {self.kind.name.lower()} {self.sample.operation}{request}"


class Surroundings:
    """What a check knows of the service besides its state: attributes, what handlers ask for, what they are given.

    Args:
        service: the service.
        verdicts: where findings go.
        ignored: attributes that may change.
    """

    def __init__(self, service: Participant, verdicts: Verdicts, ignored: Collection[str]) -> None:
        self.verdicts = verdicts
        self._attributes, self._ambient = Attributes(service, ignored), Ambient()

    def watch(self, call: HandlerCall, run: Callable[[], Any], sent: Sequence[str]) -> Any:
        """Call a handler, and judge what it does besides its work."""
        given = _encoded(call)
        try:
            returned = self._ambient.run(run)
        finally:
            self._judge(call, given, sent)
            self.judge_attributes(f"{call.part}_{call.operation}", call.operation, call.request, sent)
        if isinstance(returned, BaseModel):
            self._survives(returned, "result", call, sent)
        return returned

    def judge_attributes(self, handler: str, operation: str, request: Any, sent: Sequence[str]) -> None:
        """Nothing is kept on the service."""
        changed = self._attributes.changed()
        told = f"{handler} changed {', '.join(f'self.{name}' for name in changed)}: only the state is kept and undone"
        self.verdicts.expect(Rule.KEEPS_NOTHING, not changed, operation, told, request=request, sent=sent)

    def _judge(self, call: HandlerCall, given: tuple[bytes, ...], sent: Sequence[str]) -> None:
        handler = f"{call.part}_{call.operation}"
        self.verdicts.expect(
            Rule.READ_ONLY, _encoded(call) == given, call.operation, f"{handler} changed its request or result",
            request=decode_plain(given[0]), sent=sent)
        asked = self._ambient.take()
        told = f"{handler} asked for {asked[0] if asked else ''}: a replay would be told something else"
        self.verdicts.expect(Rule.REPLAYS, not asked, call.operation, told, request=call.request, sent=sent)
        self._survives(call.request, "request", call, sent)

    def _survives(self, model: BaseModel, what: str, call: HandlerCall, sent: Sequence[str]) -> None:
        problem = codec_problem(model)
        self.verdicts.expect(
            Rule.CODEC, not problem, call.operation, f"the {what} of {call.part}_{call.operation} {problem}",
            request=call.request, sent=sent)


class Trial:
    """One participant over a journal.

    Args:
        service: the service.
        surroundings: judges every handler call.
        entries: what the journal holds.
        ignored: prefixes of keys of the state that are not compared.
    """

    def __init__(
        self, service: Participant, surroundings: Surroundings, entries: Iterable[Any] = (), ignored: Collection[str] = (),
    ) -> None:
        self._service, self._surroundings, self._ignored = service, surroundings, tuple(ignored)
        self.journal = Journal(service.name, entries)
        self.sent: list[str] = []
        self.calls: list[tuple[HandlerCall, Any]] = []  # that did not raise, with what they returned
        self._attempts = 0
        self._life = self._open()

    def fork(self) -> Trial:
        """Another one that starts where this one is."""
        return Trial(self._service, self._surroundings, self.journal.entries, self._ignored)

    def reopen(self) -> None:
        """Forget everything but the journal."""
        self.sent.append("(the service is opened anew)")
        self._life = self._open()

    def send(self, kind: Kind, number: int, sample: Sample) -> Reply:
        """One message by itself, until it is answered; whatever is not done must leave nothing behind."""
        before = self.state()
        (reply,) = self.send_all([Message(kind, number, sample)])
        if reply.status in _NOTHING_DONE:
            left = differences(before, self.state())
            self.expect(Rule.NO_LEAK, not left, sample, f"{kind.name.lower()} answered {_answer(reply)}", difference=left)
        self.judge_end(sample, reply)
        return reply

    def send_all(self, messages: Sequence[Message]) -> list[Reply]:
        """Several messages as one batch, until all are answered."""
        replies = self.post(messages)
        while self._life.busy or self._life.asked:
            replies.extend(self.answer())
        return replies

    def post(self, messages: Sequence[Message]) -> list[Reply]:
        """Several messages as one batch; what waits for an asynchronous part is not answered yet."""
        together = f" (one batch of {len(messages)})" if len(messages) > 1 else ""
        self.sent.extend(f"{message}{together}" for message in messages)
        self._life.arrive(encode(CommandBatch(SCHEMA_VERSION, "shard", "1", [self._command(m) for m in messages])))
        return self._turn()

    def answer(self) -> list[Reply]:
        """Every asynchronous part that was started answers."""
        for key in list(self._life.asked):
            self._life.answer(key)
            self._surroundings.judge_attributes(f"the asynchronous part of {key[1]}", key[1], None, self.sent)
        return self._turn()

    @property
    def waits(self) -> list[tuple[str, str]]:
        """(transaction, step) whose asynchronous part has not answered."""
        return list(self._life.asked)

    def answer_late(self, keys: Iterable[tuple[str, str]]) -> list[Reply]:
        """Asynchronous parts answer though nobody may be waiting any more."""
        for key in keys:
            self._life.answer(key)
        return self._turn()

    def state(self) -> dict[str, bytes]:
        """The encoded value of every key that is compared."""
        return {key: value for key, value in self._life.values.items() if not key.startswith(self._ignored)}

    def judge_end(self, sample: Sample, reply: Reply) -> None:
        """A commit or rollback does not fail."""
        if reply.kind in (Kind.COMMIT, Kind.ROLLBACK):
            told = f"{reply.kind.name.lower()}_{sample.operation} failed, so its transaction cannot end: {reply.message}"
            self.expect(Rule.FINISHES, reply.status is not Status.ERROR, sample, told)

    def expect(
        self, rule: Rule, holds: bool, sample: Sample, told: str, *, difference: Sequence[str] = (),  # noqa: FBT001 - judged
    ) -> None:
        """Judge what this trial has come to."""
        self._surroundings.verdicts.expect(
            rule, holds, sample.operation, told, request=decode_plain(sample.request), difference=difference, sent=self.sent)

    def broke(self, rule: Rule, sample: Sample) -> bool:
        """Whether the sample's operation has been found to break the rule."""
        return (rule, sample.operation) in self._surroundings.verdicts.found

    def _open(self) -> LocalParticipant:
        return self._service.local(self.journal, 0, NEVER_IN_DOUBT_MS, watch=self._watch)

    def _watch(self, call: HandlerCall, run: Callable[[], Any]) -> Any:
        returned = self._surroundings.watch(call, run, self.sent)
        self.calls.append((call, returned))
        return returned

    def _command(self, message: Message) -> Command:
        self._attempts += 1
        request = message.sample.request if message.kind in (Kind.PREPARE, Kind.PERFORM) else b""
        return Command(
            transaction_id(message.number), message.sample.operation, message.kind, self._attempts, 1,
            message.sample.operation, request)

    def _turn(self) -> list[Reply]:
        mails = self._life.turn(BEGAN_MS)
        return [reply for mail in mails for reply in _REPLIES.decode(mail.payload).replies]


def transaction_id(number: int) -> str:
    """The id of the transaction of that number."""
    return make_id(BEGAN_MS, number % 256, 1, number)


def number_of(transaction: str) -> int:
    """The transaction's number."""
    return int(transaction[-10:], 16)


def codec_problem(model: BaseModel) -> str:
    """What is lost or refused when a model is encoded and decoded; "" if nothing."""
    try:
        payload = encode_plain(model)
        back = type(model).model_validate(decode_plain(payload))
    except Exception as error:  # noqa: BLE001 - of the user's model
        return f"cannot be encoded and decoded again: {type(error).__name__}: {error}"
    return "" if back == model and encode_plain(back) == payload else f"comes back as another one: {model!r} as {back!r}"


def refused_request(reply: Reply) -> bool:
    """Whether the request itself was no request of the operation."""
    return reply.status is Status.NO and reply.code in (ErrorCode.INVALID_INPUT, ErrorCode.SERVICE_DEFINITION)


def same_answer(one: Reply, other: Reply) -> bool:
    """Whether two replies say the same; an error's text may differ."""
    return (one.status, one.code, one.result) == (other.status, other.code, other.result)


def _answer(reply: Reply) -> str:
    return f"{reply.status.name} {reply.code}".strip() + (f" ({reply.message})" if reply.message else "")


def _encoded(call: HandlerCall) -> tuple[bytes, ...]:
    models: Mapping[str, BaseModel | None] = {"request": call.request, "result": call.result}
    return tuple(encode_plain(model) for model in models.values() if model is not None)
