"""The client's conversation with shards that are full, or gone quiet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from orchestrator.conversation import Conversation
from orchestrator.errors import ErrorCode, IndefiniteError, OverloadedError, RefusedForNowError
from orchestrator.outcome import Handle
from orchestrator.protocol.identifiers import partition_of_key
from orchestrator.protocol.messages import (
    SCHEMA_VERSION,
    ClientBatch,
    LookupRequest,
    OutcomeBatch,
    OutcomeMessage,
    OutcomeStatus,
    SubmitRequest,
)


class Shard:
    """Answers every submit as `answer` says; None: not at all."""

    def __init__(self, answer: Callable[[SubmitRequest], OutcomeMessage | None]) -> None:
        self.answer = answer
        self.full_ms: dict[str, int] = {}
        self.submits: list[SubmitRequest] = []
        self.gone = asyncio.Event()
        self.breaks = False  # whether whoever waits for an answer is told that the connection broke

    async def call(self, payload: bytes) -> bytes:
        batch = msgspec.msgpack.decode(payload, type=ClientBatch)
        self.submits += batch.submits
        answers = [answer for submit in batch.submits if (answer := self.answer(submit)) is not None]
        if not answers:
            await self.gone.wait()
            if self.breaks:
                raise IndefiniteError(ErrorCode.UNREACHABLE, "the connection broke")
        return msgspec.msgpack.encode(OutcomeBatch(SCHEMA_VERSION, answers, self.full_ms))


def full(retry_after_ms: int = 60_000) -> Callable[[SubmitRequest], OutcomeMessage]:
    return lambda submit: OutcomeMessage(
        submit.number, "", OutcomeStatus.REJECTED, [], "E_OVERLOADED", "full", retry_after_ms=retry_after_ms)


def committed(submit: SubmitRequest) -> OutcomeMessage:
    return OutcomeMessage(submit.number, "t", OutcomeStatus.COMMITTED)


def silent(_: SubmitRequest) -> None:
    return None


@pytest.fixture
def talk() -> Iterator[Callable[..., Conversation]]:
    opened: list[Conversation] = []

    def make(*shards: Shard, **more: int) -> Conversation:
        opened.append(Conversation(len(shards), lambda number: shards[number], **more))
        return opened[-1]

    yield make
    for conversation in opened:
        conversation.close()


def submit(conversation: Conversation, key: str) -> Handle:
    return conversation.request(key, lambda number: SubmitRequest(number, key, "s", b"", 0), lambda handle: handle)


def test_a_full_shard_is_not_asked_before_the_time_it_named(talk) -> None:
    shard = Shard(full())
    conversation = talk(shard)
    assert conversation.refusal("k", "s") is None
    with pytest.raises(OverloadedError):
        submit(conversation, "k").outcome(5)
    refusal = conversation.refusal("k", "s")
    assert refusal is not None
    assert 59_000 < refusal.retry_after_ms <= 60_001


def test_it_is_asked_again_after_that_time(talk) -> None:
    shard = Shard(full(retry_after_ms=1))
    conversation = talk(shard)
    with pytest.raises(OverloadedError):
        submit(conversation, "k").outcome(5)
    time.sleep(0.002)
    assert conversation.refusal("k", "s") is None
    shard.answer = committed
    assert submit(conversation, "k").outcome(5).committed


def test_one_full_shard_does_not_close_the_others(talk) -> None:
    keys = {partition_of_key(f"k{n}") % 2: f"k{n}" for n in range(20)}
    conversation = talk(Shard(full()), Shard(committed))
    with pytest.raises(OverloadedError):
        submit(conversation, keys[0]).outcome(5)
    assert conversation.refusal(keys[0], "s") is not None
    assert conversation.refusal(keys[1], "s") is None
    assert submit(conversation, keys[1]).outcome(5).committed


def test_a_shard_that_is_full_for_one_saga_is_asked_for_another(talk) -> None:
    conversation = talk(Shard(full()))
    with pytest.raises(OverloadedError):
        submit(conversation, "k").outcome(5)
    assert conversation.refusal("k", "s") is not None
    assert conversation.refusal("k", "t") is None


def test_a_shard_where_a_service_is_down_is_left_alone_by_the_sagas_that_need_it(talk) -> None:
    shard = Shard(lambda submit: OutcomeMessage(
        submit.number, "", OutcomeStatus.REJECTED, [], "E_UNAVAILABLE", "pay does not answer", "pay", retry_after_ms=60_000))
    conversation = talk(shard)
    with pytest.raises(RefusedForNowError) as told:
        submit(conversation, "k").outcome(5)
    refusal = conversation.refusal("k2", "s")
    assert refusal is not None
    assert (refusal.code, refusal.message) == (told.value.code, told.value.message) == ("E_UNAVAILABLE", "pay does not answer")
    assert 59_000 < refusal.retry_after_ms <= 60_001
    assert conversation.refusal("k2", "t") is None


def test_a_shard_that_says_it_is_full_need_not_refuse_first(talk) -> None:
    shard = Shard(committed)
    conversation = talk(shard)
    shard.full_ms = {"s": 60_000}
    assert submit(conversation, "k").outcome(5).committed
    refusal = conversation.refusal("k2", "s")
    assert refusal is not None
    assert refusal.retry_after_ms > 59_000
    assert conversation.refusal("k2", "t") is None


def test_what_waits_is_bounded_and_questions_still_go_through(talk) -> None:
    conversation = talk(Shard(silent), waiting_max=3)
    for number in range(3):
        assert conversation.refusal(f"k{number}", "s") is None
        submit(conversation, f"k{number}")
    refusal = conversation.refusal("k3", "s")
    assert refusal is not None
    assert refusal.retry_after_ms > 0
    assert conversation.waiting == 3
    conversation.request("k1", lambda number: LookupRequest(number, "k1"), lambda handle: handle)
    assert conversation.waiting == 4


def test_what_was_given_up_is_not_sent_again(talk) -> None:
    shard = Shard(silent)
    shard.breaks = True
    conversation = talk(shard)
    handles = [submit(conversation, key) for key in ("given up", "kept")]
    while len(shard.submits) < len(handles):
        time.sleep(0.001)  # what is sent tells nobody
    conversation.abandon(handles[0].number)
    assert conversation.waiting == 1
    shard.answer = committed
    conversation._loop.call_soon_threadsafe(shard.gone.set)
    assert handles[1].outcome(10).committed
    assert [one.key for one in shard.submits].count("given up") == 1


def test_an_answer_that_nobody_can_read_leaves_nobody_waiting(talk) -> None:
    class Newer(Shard):
        async def call(self, payload: bytes) -> bytes:
            return b"\xc1"

    conversation = talk(Newer(silent))
    handle = submit(conversation, "k")
    with pytest.raises(IndefiniteError, match="this client has failed"):
        handle.outcome(10)
    with pytest.raises(IndefiniteError, match="this client has failed"):
        submit(conversation, "again")
