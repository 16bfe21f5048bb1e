"""More submits at once than fit, by far: bounded memory, typed refusals, and each of them cheap."""

from __future__ import annotations

import time
import tracemalloc

from pydantic import BaseModel

from orchestrator.conversation import Conversation
from orchestrator.errors import OverloadedError
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Waiter
from orchestrator.protocol.messages import OutcomeStatus, SubmitRequest
from orchestrator.saga import Saga, Step, encode_plain

FLOOD = 50_000
OPEN_MAX = 4_096
BATCH = 1_000
GROWTH_BYTES_MAX = 32 * 2**20


class Input(BaseModel):
    text: str


SAGA = Saga(name="s", input=Input, steps=[Step(name="a", service="x", request=lambda _: {}, compensation="undo")])
INPUT = encode_plain({"text": "x" * 1_000})


class Silent:
    async def call(self, payload: bytes) -> bytes:
        import asyncio  # noqa: PLC0415 - the conversation's loop, not this one's

        await asyncio.Event().wait()
        return b""


def test_a_client_holds_no_more_than_it_may(occurred) -> None:
    conversation = Conversation(1, lambda _: Silent(), waiting_max=OPEN_MAX)
    tracemalloc.start()
    refused = 0
    for number in range(FLOOD):
        refusal = conversation.refusal(f"k{number}", "s")
        if refusal is None:
            conversation.request(
                f"k{number}", lambda n, k=number: SubmitRequest(n, f"k{k}", "s", INPUT, 0), lambda handle: handle)
        else:
            assert isinstance(refusal, OverloadedError)
            assert refusal.retry_after_ms > 0
            refused += 1
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    conversation.close()
    assert refused == FLOOD - OPEN_MAX
    assert grown < GROWTH_BYTES_MAX
    occurred("73")


def test_a_shard_takes_as_many_as_it_may_and_refuses_the_rest_for_a_fraction_of_the_cost(occurred) -> None:
    core = Coordinator({("s", 1): SAGA}, open_max=OPEN_MAX)
    core.adopt(dict.fromkeys(range(256), 1), [], 0)
    spent_s = {True: 0.0, False: 0.0}
    refused = 0
    for first in range(0, FLOOD, BATCH):
        requests = [(Waiter("c", n), SubmitRequest(n, f"k{n}", "s", INPUT, 0)) for n in range(first, first + BATCH)]
        began_s = time.process_time()
        effects = core.submit(requests, 1_000)
        for lookup in effects.lookups:
            ((_, outcome),) = core.loaded(lookup, None, 1_000).outcomes
            assert (outcome.status, outcome.code) == (OutcomeStatus.REJECTED, "E_OVERLOADED")
            assert outcome.retry_after_ms > 0
            refused += 1
        spent_s[not effects.records] += time.process_time() - began_s
        assert core.open_count <= OPEN_MAX
    assert core.open_count + refused == FLOOD
    per_refusal_us = spent_s[True] / (refused - BATCH) * 1e6
    assert per_refusal_us < 200  # 15 where nothing else runs; begun, prepared, decided and finished it is 400 and more
    occurred("73")
