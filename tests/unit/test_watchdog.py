"""A process that is alive and stuck ends: an endless turn of a thread, an event loop that does not turn, C code with the lock.

What ends the process is replaced here, but for the last tests, which run processes of their own.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from itertools import count

import msgspec
import pytest
from pydantic import BaseModel

from actors.host import ServiceHost, database_path
from actors.service import Service, State
from orchestrator import watchdog as watchdog_module
from orchestrator.app import App, ParticipantSpec
from orchestrator.config import Settings
from orchestrator.log.actor import LogSpec, TransactionLog
from orchestrator.log.store import create_log
from orchestrator.protocol.identifiers import make_id, partition_of_key
from orchestrator.protocol.messages import ClientBatch, Command, CommandBatch, Kind, ReplyBatch, Status, SubmitRequest
from orchestrator.protocol.records import (
    AppendReply,
    AppendRequest,
    AppendResult,
    AppendStatus,
    Decided,
    TakeReply,
    TakeRequest,
    encode,
)
from orchestrator.saga import Context, Saga, Step, encode_plain
from orchestrator.shard import Shard, ShardSpec
from orchestrator.watchdog import LOOKS, Turns, Watchdog

STUCK_MS = 60_000
PAUSE_S = STUCK_MS / 1_000 / LOOKS
SHORT = Settings(stuck_after_ms=1_000)
WAIT_S = 30


class Ends:
    """Takes the place of the end of the process."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, str]] = []
        self.ended = threading.Event()

    def __call__(self, what: str, stuck_ms: int, stack: str) -> None:
        self.told.append((what, stuck_ms, stack))
        self.ended.set()


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    made = Ends()
    monkeypatch.setattr(watchdog_module, "_end", made)
    return made


class Rig:
    """A watchdog that is told when to look."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.ends, self.turns = Ends(), Turns()
        self.watchdog = Watchdog(STUCK_MS, clock=lambda: self.now_s, end=self.ends)
        self.watchdog.watch("writer", self.turns.progress, threading.get_ident)

    async def look(self, times: int = 1, *, pause_s: float = PAUSE_S) -> None:
        for _ in range(times):
            self.now_s += pause_s
            self.watchdog.look()
            await asyncio.sleep(0)  # the event loop turns


async def test_one_turn_for_too_long_ends_the_process_and_says_where() -> None:
    rig = Rig()
    with rig.turns:
        await rig.look(LOOKS)
        assert not rig.ends.told
        await rig.look()
    ((what, stuck_ms, stack),) = rig.ends.told
    assert (what, stuck_ms) == ("writer", STUCK_MS)
    assert "test_one_turn_for_too_long_ends_the_process" in stack


async def test_turn_after_turn_is_no_standstill_and_neither_is_idleness() -> None:
    rig = Rig()
    for _ in range(5):
        with rig.turns:
            await rig.look(LOOKS)
    await rig.look(LOOKS * 5)
    assert not rig.ends.told


async def test_a_turn_that_ends_by_an_error_has_ended() -> None:
    turns = Turns()
    with pytest.raises(OSError, match="gone"), turns:
        raise OSError("gone")
    assert turns.progress() is None


async def test_a_turn_on_the_event_loop_that_gets_on_is_left_alone_and_one_that_does_not_is_called_the_writers() -> None:
    rig = Rig()

    def look() -> None:
        """Without the loop turning in between."""
        rig.now_s += PAUSE_S
        rig.watchdog.look()

    look()
    with rig.turns:
        for _ in range(5):
            for _ in range(LOOKS):
                look()
            rig.turns.step()
        assert not rig.ends.told
        for _ in range(LOOKS + 1):
            look()
    assert [what for what, _, _ in rig.ends.told] == ["writer", "event loop"]


async def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    """SIGSTOP for an hour, a suspended machine, a hundred short stops in one turn: each makes a look late."""
    rig = Rig()
    with rig.turns:
        await rig.look(LOOKS)
        await rig.look(pause_s=3_600)
        await rig.look(100, pause_s=PAUSE_S * 2)
        assert not rig.ends.told
        await rig.look()
    assert rig.ends.told


async def test_an_event_loop_that_does_not_turn_ends_the_process(ends: Ends) -> None:
    watchdog = Watchdog(SHORT.stuck_after_ms)
    watchdog.start()
    assert ends.ended.wait(WAIT_S)  # blocks the loop until it is found out
    watchdog.close()
    assert ends.told[0][0] == "event loop"
    assert "test_an_event_loop_that_does_not_turn" in ends.told[0][2]


async def test_an_event_loop_that_turns_is_left_alone(ends: Ends) -> None:
    watchdog = Watchdog(SHORT.stuck_after_ms)
    watchdog.start()
    await asyncio.sleep(1.5)  # what is shown is that nothing happens in the time in which it would
    watchdog.close()
    assert not ends.told


def test_a_loop_that_was_closed_is_nobodys_concern(ends: Ends) -> None:
    async def make() -> Watchdog:
        return Watchdog(STUCK_MS)

    watchdog = asyncio.run(make())
    for _ in range(LOOKS * 3):
        watchdog.look()
    assert not ends.told


# ---- log, service, shard --------------------------------------------------------------------------------------------


class Request(BaseModel):
    loops: bool = False


class Slow(Service):
    """Its prepare waits as it is told to: for ever, or in a long batch a little each."""

    name = "slow"
    each_s = 0.0
    gate = threading.Event()

    def prepare_hold(self, state: State, request: Request) -> Request:
        if request.loops:
            assert self.gate.wait(WAIT_S)
        if self.each_s:
            threading.Event().wait(self.each_s)
        state["held"] = 1
        return request

    def commit_hold(self, state: State, request: Request, result: Request) -> None: ...

    def rollback_hold(self, state: State, request: Request, result: Request) -> None: ...


def build(context: Context) -> Request:
    if context.input.loops:
        assert Slow.gate.wait(WAIT_S)
        raise RuntimeError("found out: there is no service to send it to")
    return context.input


order = Saga(name="order", input=Request, steps=[
    Step(name="hold", service="slow", request=build, compensation="rollback_hold", operation="hold")])
app = App([Slow()], [order])


@pytest.fixture
def gate(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What is stuck here goes on once it has been found out, so that the test can end."""
    monkeypatch.setattr(Slow, "gate", ends.ended)
    return ends.ended


async def found_out(ends: Ends) -> tuple[str, int, str]:
    await asyncio.to_thread(ends.ended.wait, WAIT_S)
    return ends.told[0]


def participant(path) -> ServiceHost:
    Slow().create(database_path(path, "slow"))
    return ServiceHost(ParticipantSpec("slow", f"{__name__}:app", str(path), "test", "run", SHORT.pack()), Owner())


class Owner:
    """A log that has nothing against it."""

    async def register(self, name: str, uuid: str, sequence: int) -> str:
        return ""

    async def ask(self, inquiries: list) -> list[Command]:
        return []


def prepares(*requests: Request) -> bytes:
    commands = [Command(make_id(1_000 + n, 3, 1, n), "hold", Kind.PREPARE, 1, 1, "hold", encode_plain(request))
                for n, request in enumerate(requests)]
    return encode(CommandBatch(1, "shard-0", "a", commands))


async def test_a_service_whose_handler_never_returns_ends(tmp_path, ends: Ends, gate: threading.Event, occurred) -> None:
    host = participant(tmp_path)
    asking = asyncio.ensure_future(host.exchange(prepares(Request(loops=True))))
    what, _, stack = await found_out(ends)
    assert what == "writer"
    assert "in prepare_hold" in stack
    await asking
    await host.close()
    occurred("71")


async def test_a_batch_that_takes_long_but_gets_on_is_left_alone(tmp_path, ends: Ends, monkeypatch) -> None:
    monkeypatch.setattr(Slow, "each_s", 0.2)
    host = participant(tmp_path)
    replies = []
    async with asyncio.timeout(WAIT_S):
        replies += msgspec.msgpack.decode(await host.exchange(prepares(*[Request()] * 10)), type=ReplyBatch).replies
        while len(replies) < 10:
            answer = await host.exchange(encode(CommandBatch(1, "shard-0", "a", [])))
            replies += msgspec.msgpack.decode(answer, type=ReplyBatch).replies
    assert {reply.status for reply in replies} == {Status.YES}
    assert not ends.told, "one turn of two seconds, each message a progress"
    await host.close()


async def test_a_log_whose_disk_never_answers_ends(tmp_path, ends: Ends, monkeypatch, occurred) -> None:
    create_log(tmp_path / "log" / "log.sqlite")
    log = TransactionLog(LogSpec(str(tmp_path), "test", "run", SHORT.pack()))
    await log.take(encode(TakeRequest(1, 0, "first", [7], 1, "run")))
    commit = log._store.append

    def never(requests, now_ms):
        assert ends.ended.wait(WAIT_S)
        return commit(requests, now_ms)

    monkeypatch.setattr(log._store, "append", never)
    asking = asyncio.ensure_future(log.append(encode(AppendRequest(1, 0, "first", 1, []))))
    what, _, stack = await found_out(ends)
    assert what == "writer"
    assert "in never" in stack
    await asking
    log._purging.cancel()
    log._writer.close()
    log._readers.shutdown()
    occurred("71")


class Log:
    """Stores whatever a shard appends."""

    def __init__(self) -> None:
        self.appended: list[str] = []

    async def take(self, request: TakeRequest) -> TakeReply:
        return TakeReply(1, [1] * len(request.partitions), [], 0, 0)

    async def load(self, keys: list[str], transactions: list[str]) -> list:
        return []

    async def append(self, request: AppendRequest) -> AppendReply:
        self.appended += [type(item.record).__name__ for item in request.records]
        records = [item.record for item in request.records]
        return AppendReply(1, [
            AppendResult(AppendStatus.STORED, record if isinstance(record, Decided) else None) for record in records])


async def test_a_shard_whose_request_builder_never_returns_ends(tmp_path, ends: Ends, gate: threading.Event, occurred) -> None:
    key = next(f"k{n}" for n in count() if partition_of_key(f"k{n}") % 2 == 0)
    shard = Shard(ShardSpec(0, 2, f"{__name__}:app", str(tmp_path), "test", "run", SHORT.pack()))
    shard._log = log = Log()  # type: ignore[assignment] # before its first task runs
    submit = SubmitRequest(1, key, "order", encode_plain(Request(loops=True)), 30_000)
    asking = asyncio.ensure_future(shard.exchange(encode(ClientBatch(1, "client", [submit]))))
    what, _, stack = await found_out(ends)
    assert what == "event loop"
    assert "in build" in stack
    await asking
    assert log.appended[:2] == ["Begun", "Decided"]
    shard._watchdog.close()
    occurred("71")


# ---- processes of their own -----------------------------------------------------------------------------------------

PROCESS = """
import asyncio, re, sys, threading
from orchestrator.config import LogLevel
from orchestrator.logs import configure_logging
from orchestrator.watchdog import Watchdog

def regular_expression():
    re.match(r"(a+)+$", "a" * 64 + "b")

def endless():
    while True:
        pass

async def main():
    configure_logging("stuck-one", None, LogLevel.INFO)
    Watchdog(1_000).start()
    {stuck}()

asyncio.run(main())
"""


@pytest.mark.parametrize(("stuck", "code", "says"), [
    ("endless", 1, "CRITICAL stuck-one stuck"),
    ("regular_expression", -signal.SIGPROF, "in regular_expression"),  # it keeps the interpreter's lock
])
def test_a_stuck_process_ends_and_says_where(stuck: str, code: int, says: str) -> None:
    program = [sys.executable, "-c", PROCESS.format(stuck=stuck)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == code, ended.stderr
    assert says in ended.stderr
    assert f"in {stuck}" in ended.stderr
