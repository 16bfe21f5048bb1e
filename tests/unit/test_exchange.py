"""Caller and responder, wired to each other and to ports that fail."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from orchestrator import exchange
from orchestrator.errors import IndefiniteError
from orchestrator.exchange import Caller, Responder


class Op(NamedTuple):
    key: str
    attempt: int = 1


class Port:
    """Decodes to the ops themselves; answers through a responder, or fails while `down`."""

    def __init__(self) -> None:
        self.responder: Responder[Op] = Responder()
        self.calls: list[list[Op]] = []
        self.down = False
        self.arrived = asyncio.Event()

    async def call(self, payload: bytes) -> bytes:
        ops = [Op(*pair) for pair in eval(payload.decode())]
        if self.down:
            raise IndefiniteError("E_UNREACHABLE", "down")
        self.calls.append(ops)
        self.arrived.set()
        self.arrived = asyncio.Event()
        responder = self.responder
        results = await responder.collect("peer", empty=not ops)
        return repr((responder.conversation("peer"), [tuple(r) for r in results])).encode()


def decoded(answer: bytes) -> tuple[str, list[Op]]:
    conversation, results = eval(answer.decode())
    return conversation, [Op(*pair) for pair in results]


def caller_of(
    port: Port, delivered: list[Op], lost: list[IndefiniteError] | None = None, **more,
) -> Caller[Op, Op]:
    return Caller(
        port, encode=lambda ops: repr([tuple(o) for o in ops]).encode(),
        decode=decoded,
        deliver=delivered.extend, key=lambda o: o.key, settles=lambda r, o: r.attempt >= o.attempt,
        key_of_result=lambda r: r.key, lost=None if lost is None else lost.append, **more)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_operations_gather_behind_a_call_that_carries_others() -> None:
    port, delivered = Port(), []
    caller = caller_of(port, delivered)
    port.responder.busy = True
    for name in "abc":
        caller.send([Op(name)])
        await asyncio.sleep(0)
    assert port.calls == [[Op("a")]]
    port.responder.put("peer", [Op("a")])
    await until(lambda: len(port.calls) == 2)
    assert port.calls[1] == [Op("b"), Op("c")]
    port.responder.put("peer", [Op("b"), Op("c")])
    await until(lambda: not caller.outstanding)
    assert delivered == [Op("a"), Op("b"), Op("c")]
    await caller.close()


async def test_what_gathered_leaves_beside_a_call_that_takes_long() -> None:
    port, delivered = Port(), []
    caller = caller_of(port, delivered)
    port.responder.busy = True
    caller.send([Op("slow")])
    await until(lambda: len(port.calls) == 1)
    caller.send([Op("b")])
    caller.send([Op("c")])
    await until(lambda: len(port.calls) == 2)
    assert port.calls[1] == [Op("b"), Op("c")]
    await caller.close()


async def test_what_fills_a_call_leaves_beside_another_at_once(monkeypatch) -> None:
    monkeypatch.setattr(exchange, "BATCH_MAX", 2)
    monkeypatch.setattr(exchange, "GATHER_S_MIN", 60)
    port, delivered = Port(), []
    caller = caller_of(port, delivered, gather_s_max=60)
    port.responder.busy = True
    caller.send([Op("a"), Op("b"), Op("c")])
    await until(lambda: len(port.calls) == 1)
    caller.send([Op("d"), Op("e")])
    await until(lambda: len(port.calls) == 2)
    assert port.calls == [[Op("a"), Op("b")], [Op("c"), Op("d")]]
    port.responder.put("peer", [Op("a"), Op("b")])
    await asyncio.sleep(0.01)
    assert len(port.calls) == 2  # one operation fills nothing
    port.responder.put("peer", [Op("c"), Op("d")])
    await until(lambda: len(port.calls) == 3)
    assert port.calls[2] == [Op("e")]
    await caller.close()


async def test_what_fills_two_calls_leaves_in_both_at_once(monkeypatch) -> None:
    monkeypatch.setattr(exchange, "BATCH_MAX", 2)
    monkeypatch.setattr(exchange, "GATHER_S_MIN", 60)
    port = Port()
    caller = caller_of(port, [], gather_s_max=60)
    port.responder.busy = True
    caller.send([Op(name) for name in "abcdef"])
    await until(lambda: len(port.calls) == 2)
    assert port.calls == [[Op("a"), Op("b")], [Op("c"), Op("d")]]
    await caller.close()


async def test_what_nobody_waits_for_leaves_in_company_or_a_little_later() -> None:
    port, delivered = Port(), []
    caller = caller_of(port, delivered, patient=lambda op: op.key.startswith("patient"))
    caller.send([Op("patient-1")])
    await asyncio.sleep(0)
    assert port.calls == []
    caller.send([Op("urgent")])
    await until(lambda: port.calls)
    assert port.calls == [[Op("patient-1"), Op("urgent")]]
    port.responder.put("peer", [Op("patient-1"), Op("urgent")])
    await until(lambda: not caller.outstanding)
    caller.send([Op("patient-2")])
    await until(lambda: len(port.calls) == 2)
    assert port.calls[1] == [Op("patient-2")]
    await caller.close()


async def test_what_ends_work_leaves_before_what_begins_some(monkeypatch) -> None:
    monkeypatch.setattr(exchange, "BATCH_MAX", 3)
    port, delivered = Port(), []
    caller = caller_of(port, delivered, first=lambda op: op.key.startswith("commit"))
    port.responder.busy = True
    caller.send([Op("a")])
    await until(lambda: len(port.calls) == 1)
    caller.send([Op("b"), Op("c"), Op("commit-1"), Op("d"), Op("commit-2")])
    port.responder.put("peer", [Op("a")])
    await until(lambda: len(port.calls) == 2)
    assert port.calls[1] == [Op("commit-1"), Op("commit-2"), Op("b")]
    port.responder.put("peer", port.calls[1])
    await until(lambda: len(port.calls) == 3)
    assert port.calls[2] == [Op("c"), Op("d")]
    await caller.close()


async def test_what_is_long_leaves_in_several_calls(monkeypatch) -> None:
    monkeypatch.setattr(exchange, "BATCH_BYTES_MAX", 10)
    port, delivered = Port(), []
    caller = caller_of(port, delivered, weigh=lambda op: len(op.key))
    caller.send([Op("four"), Op("five5"), Op("x"), Op("longer than a call may be"), Op("y")])
    for carried in (["four", "five5", "x"], ["longer than a call may be"], ["y"]):
        await until(lambda carried=carried: port.calls and [op.key for op in port.calls[-1]] == carried)
        port.responder.put("peer", port.calls[-1])
    await until(lambda: not caller.outstanding)
    assert len(delivered) == 5
    await caller.close()


async def test_long_results_are_fetched_in_several_calls(monkeypatch) -> None:
    monkeypatch.setattr(exchange, "BATCH_BYTES_MAX", 10)
    responder: Responder[Op] = Responder(lambda op: len(op.key))
    waiting = asyncio.create_task(responder.collect("peer"))
    await asyncio.sleep(0)
    results = [Op("four"), Op("five5"), Op("x"), Op("longer than a call may be"), Op("y")]
    responder.put("peer", results)
    assert await waiting == results[:3]
    assert await responder.collect("peer") == results[3:4]
    responder.put("peer", [Op("z")])
    assert await responder.collect("peer") == [Op("y"), Op("z")]


async def test_a_newer_call_makes_the_older_answer_when_nothing_is_running() -> None:
    port, delivered = Port(), []
    caller = caller_of(port, delivered)
    caller.send([Op("slow")])
    await until(lambda: len(port.calls) == 1)
    caller.send([Op("next")])
    await until(lambda: len(port.calls) == 2)
    caller.send([Op("third")])  # the first call has come back empty: there is room
    await until(lambda: len(port.calls) == 3)
    assert not delivered
    await caller.close()


async def test_a_result_of_an_older_attempt_does_not_settle_a_newer_one() -> None:
    port, delivered = Port(), []
    caller = caller_of(port, delivered)
    caller.send([Op("a", 1)])
    await until(lambda: port.calls)
    caller.send([Op("a", 2)])
    port.responder.put("peer", [Op("a", 1)])
    await until(lambda: delivered)
    assert caller.outstanding == 1
    await caller.close()


async def test_after_an_outage_everything_outstanding_is_sent_again() -> None:
    port, delivered, lost = Port(), [], []
    caller = caller_of(port, delivered, lost)
    port.down = True
    caller.send([Op("a"), Op("b")])
    await until(lambda: lost)
    caller.send([Op("c")])
    port.down = False
    await until(lambda: {o.key for call in port.calls for o in call} >= {"a"})
    port.responder.put("peer", [Op("a")])
    await until(lambda: {o.key for call in port.calls for o in call} == {"a", "b", "c"})
    port.responder.put("peer", [Op("b"), Op("c")])
    await until(lambda: not caller.outstanding)
    assert len(lost) == 1
    await caller.close()


async def test_results_for_a_caller_nobody_knows_are_dropped() -> None:
    responder: Responder[Op] = Responder()
    responder.put("stranger", [Op("a")])
    responder.open("peer")
    responder.put("peer", [Op("b")])
    assert await responder.collect("peer") == [Op("b")]


async def test_a_fenced_caller_is_released() -> None:
    responder: Responder[Op] = Responder()
    waiting = asyncio.create_task(responder.collect("peer"))
    await asyncio.sleep(0)
    responder.drop("peer")
    assert await waiting == []


async def test_a_slow_operation_does_not_hold_the_others_back_after_an_outage() -> None:
    port, delivered, lost = Port(), [], []
    caller = caller_of(port, delivered, lost)
    caller.send([Op("slow")])
    await until(lambda: port.calls)
    port.down = True
    caller.send([Op("fast")])
    port.responder.drop("peer")  # the open call ends; what follows fails
    await until(lambda: lost)
    port.down = False
    await until(lambda: any(Op("fast") in call for call in port.calls))  # the held probe carries only the slow one
    port.responder.put("peer", [Op("fast")])
    await until(lambda: delivered == [Op("fast")])
    await caller.close()


async def test_callers_that_are_gone_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(exchange, "HOLD_S_MAX", 0.01)
    monkeypatch.setattr(exchange, "PEER_IDLE_S", 0.02)
    responder: Responder[Op] = Responder()
    for number in range(5):
        assert await responder.collect(f"client-{number}") == []
    await asyncio.sleep(0.05)
    responder.open("new")
    assert list(responder._peers) == ["new"]


async def test_a_successor_that_answers_is_sent_everything_again() -> None:
    """The predecessor answered the call that was open, and died: no call has failed."""
    port, delivered = Port(), []
    caller = caller_of(port, delivered)
    caller.send([Op("a"), Op("b")])
    await until(lambda: port.calls)
    predecessor, port.responder = port.responder, Responder()
    predecessor.put("peer", [Op("a")])
    await until(lambda: len(port.calls) == 3)
    assert port.calls == [[Op("a"), Op("b")], [], [Op("b")]]
    port.responder.put("peer", [Op("b")])
    await until(lambda: not caller.outstanding)
    assert delivered == [Op("a"), Op("b")]
    await caller.close()


async def test_a_successor_that_is_sent_something_new_is_sent_the_rest_once_it_answers() -> None:
    port, delivered = Port(), []
    caller = caller_of(port, delivered)
    caller.send([Op("a"), Op("b")])
    await until(lambda: port.calls)
    predecessor, port.responder = port.responder, Responder()
    caller.send([Op("c")])
    predecessor.put("peer", [Op("a")])
    await until(lambda: len(port.calls) == 2)
    port.responder.put("peer", [Op("c")])
    await until(lambda: len(port.calls) == 3)
    assert port.calls[1:] == [[Op("c")], [Op("b")]]
    await caller.close()


async def test_a_responder_that_has_forgotten_its_caller_is_sent_everything_again(monkeypatch) -> None:
    port, delivered = Port(), []
    caller = caller_of(port, delivered)
    caller.send([Op("a"), Op("b")])
    await until(lambda: port.calls)
    port.responder.put("peer", [Op("a")])
    await until(lambda: len(port.calls) == 2)
    port.responder.drop("peer")  # as somebody who was not heard of for too long
    await until(lambda: [Op("b")] in port.calls)
    await caller.close()
