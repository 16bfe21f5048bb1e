"""The host without Ray: exchanges, asynchronous parts, in doubt, registration, refusal; the owner is a fake port."""

import asyncio
import sqlite3
import threading

import msgspec
import pytest
from pydantic import BaseModel

from actors import host as host_module
from actors.host import ServiceHost, database_path
from actors.service import Refused, Service, State
from actors.store import Store
from orchestrator import writer as writer_module
from orchestrator.app import App, LedgerRow, ParticipantSpec
from orchestrator.config import FaultSettings, LogLevel, make_settings
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.exchange import HOLD_S_MAX
from orchestrator.logs import configure_logging
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, CommandBatch, Kind, Reply, ReplyBatch, Status
from orchestrator.protocol.records import encode
from orchestrator.saga import encode_plain

P, C, R = Kind.PREPARE, Kind.COMMIT, Kind.ROLLBACK


class Hold(BaseModel):
    amount: int


class Held(BaseModel):
    left: int


class Purse(Service):
    """Holds amounts; the slow operation waits for a gate first."""

    name = "purse"

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.gate = asyncio.Event()

    def prepare_hold(self, state: State, request: Hold) -> Held | Refused:
        state["held"] = state.get("held", 0) + request.amount
        return Held(left=100 - state["held"])

    def commit_hold(self, state: State, request: Hold, result: Held) -> None:
        assert result.left <= 100
        state["held"] -= request.amount
        state["spent"] = state.get("spent", 0) + request.amount

    def rollback_hold(self, state: State, request: Hold, result: Held) -> None:
        assert result.left <= 100
        state["held"] -= request.amount

    async def ask_slow(self, request: Hold) -> int:
        self.asked += 1
        await self.gate.wait()
        if request.amount == 13:
            raise ConnectionError("nobody there")
        if request.amount == 14:
            raise asyncio.CancelledError
        return request.amount

    def prepare_slow(self, state: State, request: Hold, answer: int) -> Held:
        assert request.amount == answer
        state["slow"] = state.get("slow", 0) + 1
        return Held(left=answer)

    def commit_slow(self, state: State, request: Hold, result: Held) -> None: ...

    def rollback_slow(self, state: State, request: Hold, result: Held) -> None: ...


purse = Purse()
app = App([purse], [])


class Owner:
    """Log and shards: knows decisions, and remembers who registered."""

    def __init__(self) -> None:
        self.registered: list[tuple[str, int]] = []
        self.refusal = ""
        self.silent = 0
        self.decisions: dict[str, Kind] = {}
        self.asked: list[str] = []
        self.answered = asyncio.Event()

    async def register(self, name, uuid, sequence):
        assert name == "purse"
        if self.silent:
            self.silent -= 1
            raise IndefiniteError(ErrorCode.UNREACHABLE, "no log")
        self.registered.append((uuid, sequence))
        return self.refusal

    async def ask(self, inquiries):
        self.asked += [inquiry.transaction for inquiry in inquiries]
        known = [i for i in inquiries if i.transaction in self.decisions]
        if known:
            self.answered.set()
        return [Command(i.transaction, i.step, self.decisions[i.transaction], 1, i.epoch, "hold") for i in known]


class Rig:
    def __init__(self, data_dir, **settings):
        self.data_dir, self.owner = data_dir, Owner()
        purse.gate, purse.asked = asyncio.Event(), 0
        if not database_path(data_dir, "purse").exists():
            purse.create(database_path(data_dir, "purse"))
        spec = ParticipantSpec("purse", f"{__name__}:app", str(data_dir), "test", "run", make_settings(**settings).pack())
        self.host = ServiceHost(spec, self.owner)

    async def exchange(self, *commands, sender="shard-0", incarnation="a", **more):
        payload = encode(CommandBatch(1, sender, incarnation, list(commands), **more))
        return msgspec.msgpack.decode(await self.host.exchange(payload), type=ReplyBatch).replies

    async def one(self, command, **more) -> Reply:
        (reply,) = await self.exchange(command, **more)
        return reply

    async def status(self):
        return msgspec.msgpack.decode(await self.host.status())


@pytest.fixture
async def rig_of(tmp_path):
    made = []

    def make(**settings):
        made.append(Rig(tmp_path, **settings))
        return made[-1]

    yield make
    for rig in made:
        await rig.host.close()
    configure_logging("test", None, LogLevel.ERROR, stderr=False)


def txn(number):
    return make_id(1_000 + number, 3, 1, number)


def message(kind, number=1, *, amount=10, operation="hold", epoch=1, attempt=1):
    request = encode_plain({"amount": amount}) if kind is P else b""
    return Command(txn(number), "pay", kind, attempt, epoch, operation, request)


async def until(condition):
    """Waits for what other tasks of this loop are about to do."""
    async with asyncio.timeout(10):
        while not condition():  # what is waited for has no event, and no hook is put in for a test
            await asyncio.sleep(0.005)


async def test_a_transaction_and_the_status(rig_of):
    rig = rig_of()
    vote = await rig.one(message(P))
    assert (vote.status, vote.result) == (Status.YES, encode_plain({"left": 90}))
    assert (await rig.one(message(C))).status is Status.ACK
    status = await rig.status()
    assert (status["role"], status["name"], status["state"]) == ("purse", "service-purse", "serving")
    assert (status["restarts"], status["epoch"], status["detail"]) == (0, 1, "")
    rows = msgspec.msgpack.decode(await rig.host.describe(txn(1)), type=list[LedgerRow])
    assert [(row.step, row.state) for row in rows] == [("pay", "COMMITTED")]


async def test_many_callers_get_their_own_replies(rig_of):
    rig = rig_of()
    numbers = range(1, 2_200)
    replies = await asyncio.gather(*(
        rig.exchange(message(P, number, amount=0), sender=f"shard-{number}") for number in numbers))
    assert [batch[0].transaction for batch in replies] == [txn(number) for number in numbers]


async def test_nothing_is_served_before_the_log_knows_the_database(rig_of):
    rig = rig_of()
    rig.owner.silent = 3
    exchange = asyncio.create_task(rig.one(message(P)))
    await until(lambda: rig.owner.silent < 3)
    assert (await rig.status())["state"] == "recovering"
    assert not exchange.done()
    assert (await exchange).status is Status.YES
    assert len(rig.owner.registered) == 1


async def test_a_store_the_log_refuses_stays_refused(rig_of):
    rig = rig_of()
    rig.owner.refusal = "the log has seen commit 9 of it"
    reply = await rig.one(message(P))
    assert (reply.status, reply.code) == (Status.ERROR, "E_STORE_REFUSED")
    status = await rig.status()
    assert status["state"] == "refused"
    assert "commit 9" in status["detail"]
    assert len(rig.owner.registered) == 1


async def test_a_missing_database_is_never_made(rig_of, tmp_path):
    rig = rig_of()
    await rig.one(message(P))
    await rig.host.close()
    database_path(tmp_path, "purse").unlink()
    spec = ParticipantSpec("purse", f"{__name__}:app", str(tmp_path), "test", "run", make_settings().pack())
    again = ServiceHost(spec, rig.owner)
    payload = encode(CommandBatch(1, "shard-0", "a", [message(P)]))
    (reply,) = msgspec.msgpack.decode(await again.exchange(payload), type=ReplyBatch).replies
    assert reply.code == "E_STORE_REFUSED"
    assert not database_path(tmp_path, "purse").exists()
    await again.close()


async def test_a_damaged_manifest_refuses(rig_of, tmp_path):
    (tmp_path / "created.json").write_text('{"schema": 1}')
    rig = rig_of()
    reply = await rig.one(message(P))
    assert reply.code == "E_STORE_REFUSED"
    assert "created.json" in reply.message


async def test_a_failing_disk_is_waited_for(rig_of, monkeypatch):
    failures = [sqlite3.OperationalError("database or disk is full")]

    def opening(*args, **more):
        if failures:
            raise failures.pop()
        return Store(*args, **more)

    monkeypatch.setattr(host_module, "OPEN_RETRY_S", 0.01)
    monkeypatch.setattr(host_module, "Store", opening)
    assert (await rig_of().one(message(P))).status is Status.YES
    assert not failures


async def test_damage_found_while_serving_refuses(rig_of, tmp_path):
    rig = rig_of()
    await rig.one(message(R))
    with sqlite3.connect(database_path(tmp_path, "purse")) as connection:
        connection.execute("UPDATE ledger SET attempts = 77")
    connection.close()
    pending = asyncio.create_task(rig.exchange(message(R)))
    await until(lambda: rig.host._state == "refused")
    reply = await rig.one(message(R), sender="shard-1")
    assert reply.code == "E_STORE_REFUSED"
    pending.cancel()


async def test_an_error_while_answering_ends_the_process(rig_of, monkeypatch):
    rig = rig_of()
    await rig.one(message(P, 1))
    ended = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(host_module.os, "_exit", ended.set_result)

    def broken(_peer, _replies):
        raise KeyError("a bug")

    monkeypatch.setattr(rig.host._responder, "put", broken)
    pending = asyncio.create_task(rig.exchange(message(P, 2)))
    assert await asyncio.wait_for(ended, 5) == 1
    pending.cancel()


async def test_an_error_after_an_asynchronous_part_ends_the_process(rig_of, monkeypatch):
    rig = rig_of()
    await rig.one(message(P, 1))
    ended = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(host_module.os, "_exit", ended.set_result)

    def broken(_works):
        raise KeyError("a bug")

    monkeypatch.setattr(rig.host._asking, "_resume", broken)
    purse.gate.set()
    pending = asyncio.create_task(rig.exchange(message(P, 2, operation="slow")))
    assert await asyncio.wait_for(ended, 5) == 1
    pending.cancel()


async def test_in_doubt_asks_until_told(rig_of):
    rig = rig_of(in_doubt_after_ms=100)
    await rig.exchange(message(P, 1), message(P, 2), message(P, 3))
    await rig.one(message(C, 3))
    await until(lambda: len(set(rig.owner.asked)) == 2)
    rig.owner.decisions = {txn(1): C, txn(2): R}
    await rig.owner.answered.wait()
    await until(lambda: len(rig.host._doubts) == 0)
    assert txn(3) not in rig.owner.asked
    rows = [msgspec.msgpack.decode(await rig.host.describe(txn(n)), type=list[LedgerRow])[0].state for n in (1, 2)]
    assert rows == ["COMMITTED", "ROLLED_BACK"]


async def test_in_doubt_after_a_restart_too(rig_of):
    rig = rig_of()
    await rig.one(message(P))
    await rig.host.close()
    again = rig_of(in_doubt_after_ms=100)
    again.owner.decisions = {txn(1): C}
    await until(lambda: again.owner.asked)
    await until(lambda: len(again.host._doubts) == 0)
    assert (await again.one(message(C))).status is Status.ACK
    assert (await again.status())["restarts"] == 1


async def test_a_repeat_joins_the_asynchronous_part(rig_of):
    rig = rig_of()
    await rig.one(message(R, 9))
    first = asyncio.create_task(rig.exchange(message(P, operation="slow"), sender="s0"))
    second = asyncio.create_task(rig.exchange(message(P, operation="slow", attempt=2), sender="s1"))
    await until(lambda: len(rig.host._asking._waiting.get((txn(1), "pay"), ())) == 2)
    purse.gate.set()
    replies = [*await first, *await second]
    assert [(r.status, r.attempt) for r in replies] == [(Status.YES, 1), (Status.YES, 2)]
    assert purse.asked == 1
    assert (await rig.one(message(P, operation="slow", attempt=3))).status is Status.YES
    assert purse.asked == 1


async def test_a_rollback_does_not_wait_for_it(rig_of, occurred):
    rig = rig_of()
    waiting = asyncio.create_task(rig.exchange(message(P, operation="slow"), sender="s0"))
    await until(lambda: purse.asked == 1)
    assert (await rig.one(message(R, operation="slow"), sender="s1")).status is Status.ACK
    (late,) = await waiting
    assert late.code == "E_LATE_PREPARE"
    occurred("50c")


@pytest.mark.parametrize("amount", [13, 14])
async def test_a_failed_asynchronous_part_is_transient(rig_of, amount):
    rig = rig_of()
    purse.gate.set()
    reply = await asyncio.wait_for(rig.one(message(P, amount=amount, operation="slow")), 5)
    assert (reply.status, reply.code) == (Status.ERROR, "E_SERVICE_ERROR")
    assert rig.host._asking._waiting == {}
    assert msgspec.msgpack.decode(await rig.host.describe(txn(1))) == []


async def test_others_do_not_wait_for_a_slow_one(rig_of, occurred):
    rig = rig_of()
    slow = asyncio.create_task(rig.exchange(message(P, 1, operation="slow")))
    await until(lambda: purse.asked == 1)
    quick = asyncio.create_task(rig.exchange(message(P, 2)))
    done, _ = await asyncio.wait([slow, quick], return_when=asyncio.FIRST_COMPLETED, timeout=5)
    assert [r.transaction for call in done for r in call.result()] == [txn(2)]
    purse.gate.set()
    await asyncio.wait([slow, quick], timeout=5, return_when=asyncio.FIRST_COMPLETED)
    occurred("71")


async def test_a_payload_that_is_no_batch_is_refused(rig_of, occurred):
    rig = rig_of()
    for payload in (b"\xc1", b"", encode(CommandBatch(99, "s", "a", []))):
        with pytest.raises(DefiniteError, match="E_INVALID_INPUT"):
            await rig.host.exchange(payload)
    occurred("41")


async def test_simulated_faults_are_applied(rig_of):
    rig = rig_of(faults={"purse": FaultSettings(decline=1.0)})
    assert (await rig.one(message(P))).code == "SIMULATED_DECLINE"


async def test_an_old_prepare_is_never_run(rig_of, occurred):
    rig = rig_of()
    await rig.one(message(P, 1), watermark_ms=500)
    reply = await rig.one(message(P, 2), watermark_ms=5_000)
    assert (reply.status, reply.code) == (Status.NO, "E_EXPIRED")
    exempt = await rig.one(message(P, 3), watermark_ms=6_000, exempt=[txn(3)])
    assert exempt.status is Status.YES
    told_later = await rig.one(message(P, 4), sender="shard-1", watermark_ms=6_000, exempt=[txn(4)])
    assert told_later.status is Status.YES
    occurred("90")


async def test_the_sequence_is_reported_again_once_it_changed(rig_of, monkeypatch):
    monkeypatch.setattr(host_module, "REGISTER_S", 0.02)
    rig = rig_of()
    await rig.one(message(P))
    await until(lambda: len(rig.owner.registered) == 2)
    (first, before), (second, after) = rig.owner.registered
    assert first == second
    assert after == before + 1


async def test_few_messages_are_run_on_the_loop_where_turns_are_quick_and_answered(rig_of, monkeypatch) -> None:
    monkeypatch.setattr(writer_module, "QUICK_S", 10.0)
    rig = rig_of()
    where = []
    run = host_module.run_batch

    def located(*args):
        where.append(threading.get_ident() == threading.main_thread().ident)
        return run(*args)

    monkeypatch.setattr(host_module, "run_batch", located)
    async with asyncio.timeout(HOLD_S_MAX / 2):  # a call without its answer is held for longer
        for number in range(writer_module.QUICK_TURNS + 5):
            assert (await rig.one(message(P, number, amount=1))).status is Status.YES
            assert (await rig.one(message(C, number))).status is Status.ACK
    assert not where[0]
    assert all(where[writer_module.QUICK_TURNS:])
