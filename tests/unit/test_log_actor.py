"""The log's actor class, driven in this process without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from orchestrator.config import Settings
from orchestrator.errors import DefiniteError, IndefiniteError
from orchestrator.log import actor as actor_module
from orchestrator.log.actor import LogSpec, TransactionLog
from orchestrator.log.reader import TransactionQuery, TransactionSummary
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import (
    AppendReply,
    AppendRequest,
    AppendStatus,
    Begun,
    EpochRecord,
    LoadRequest,
    StoredTransaction,
    TakeReply,
    TakeRequest,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOW = 1_700_000_000_000
TXN = make_id(NOW, 7, 1, 1)
BEGUN = Begun(TXN, "k", b"a" * 16, "order", 1, b"input", NOW, NOW + 30_000, 30_000)


def spec(data_dir: Path) -> LogSpec:
    return LogSpec(str(data_dir), "raytx-test", "run", Settings(retention_ms=10**9).pack())


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[TransactionLog]:
    create_log(tmp_path / "log" / "log.sqlite")
    actor = TransactionLog(spec(tmp_path))
    yield actor
    await asyncio.wait({actor._recovering})
    if actor._purging is not None:
        actor._purging.cancel()
        actor._writer.close()
    actor._readers.shutdown()


async def begin(log: TransactionLog) -> AppendReply:
    take = msgspec.msgpack.decode(await log.take(encode(TakeRequest(1, 0, "first", [7], 1, "run"))), type=TakeReply)
    assert take.epochs == [1]
    request = AppendRequest(1, 0, "first", 1, [EpochRecord(1, BEGUN)])
    return msgspec.msgpack.decode(await log.append(encode(request)), type=AppendReply)


async def status(log: TransactionLog) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(await log.status())
    return found


async def test_calls_wait_until_it_serves(log: TransactionLog) -> None:
    assert (await status(log))["state"] == "recovering"
    assert [result.status for result in (await begin(log)).results] == [AppendStatus.STORED]
    found = await status(log)
    assert (found["role"], found["name"], found["state"], found["epoch"], found["restarts"]) == (
        "log", "log", "serving", 1, 0)


async def test_what_is_stored_is_read(log: TransactionLog) -> None:
    await begin(log)
    (stored,) = msgspec.msgpack.decode(await log.load(encode(LoadRequest([], [TXN]))), type=list[StoredTransaction])
    assert stored.begun == BEGUN
    assert await log.load(encode(LoadRequest(["k"], []))) == await log.load(encode(LoadRequest([], [TXN])))
    assert msgspec.msgpack.decode(await log.load(encode(LoadRequest(["other"], ["f" * 32])))) == []
    found = msgspec.msgpack.decode(
        await log.find(msgspec.msgpack.encode(TransactionQuery(state="open"))), type=list[TransactionSummary])
    assert [summary.transaction for summary in found] == [TXN]
    assert len(msgspec.msgpack.decode(await log.history(TXN))) == 1
    described = msgspec.msgpack.decode(await log.describe())
    assert (described["records"], described["open"]) == (1, 1)


async def test_others_wait_for_one_turn_of_a_purge_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, gate, limits = threading.Event(), threading.Semaphore(0), []

    def purge(_store: LogStore, _now_ms: int, limit: int) -> int:
        limits.append(limit)
        started.set()
        gate.acquire(timeout=10)
        return limit if len(limits) < 4 else 0  # an end, should others have to wait for it

    monkeypatch.setattr(LogStore, "purge", purge)
    monkeypatch.setattr(actor_module, "PURGE_EVERY_S", 0.0)
    create_log(tmp_path / "log" / "log.sqlite")
    log = TransactionLog(spec(tmp_path))
    await asyncio.to_thread(started.wait, 10)
    report = asyncio.create_task(
        log.register_store(msgspec.msgpack.encode({"name": "payment", "uuid": "u", "sequence": 5})))
    await asyncio.sleep(0)
    gate.release()
    assert await report == b""
    assert limits == [actor_module.PURGE_LIMIT] * len(limits)
    assert len(limits) <= 2
    assert log._purging is not None
    log._purging.cancel()
    gate.release(2)
    log._writer.close()
    log._readers.shutdown()


async def test_owners(log: TransactionLog) -> None:
    await begin(log)
    assert msgspec.msgpack.decode(await log.owner(7)) == {"shard": 0, "epoch": 1, "incarnation": "first"}
    assert msgspec.msgpack.decode(await log.owner(8)) == {"shard": -1, "epoch": 0, "incarnation": ""}


async def test_services_report_their_databases(log: TransactionLog) -> None:
    def report(sequence: int) -> bytes:
        return msgspec.msgpack.encode({"name": "payment", "uuid": "u", "sequence": sequence})

    assert await log.register_store(report(5)) == b""
    assert b"older copy" in await log.register_store(report(4))


@pytest.mark.parametrize("payload", [
    encode(AppendRequest(99, 0, "first", 1, [])),
    encode(AppendRequest(1, 0, "first", 1, [EpochRecord(1, Begun("short", "k", b"", "", 0, b"", 0, 0, 0))])),
])
async def test_a_malformed_append_harms_nobody_else(log: TransactionLog, payload: bytes, occurred) -> None:
    with pytest.raises(DefiniteError, match="E_INVALID_INPUT"):
        await log.append(payload)
    with pytest.raises(msgspec.DecodeError):
        await log.append(b"\xc1")
    assert len((await begin(log)).results) == 1
    occurred("41")


async def test_a_refused_database_is_told_and_nothing_else_answered(tmp_path: Path) -> None:
    actor = TransactionLog(spec(tmp_path))
    with pytest.raises(IndefiniteError, match=r"E_STORE_REFUSED.*it is missing"):
        await actor.load(encode(LoadRequest([], [TXN])))
    found = await status(actor)
    assert found["state"] == "refused"
    assert "log.sqlite: it is missing" in found["detail"]
    actor._readers.shutdown()


async def test_a_log_that_cannot_begin_to_serve_ends(
    log: TransactionLog, monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = asyncio.get_running_loop().create_future()

    def broken() -> None:
        raise MemoryError

    monkeypatch.setattr(actor_module.os, "_exit", ended.set_result)
    monkeypatch.setattr(actor_module.garbage, "expect_little", broken)
    assert await asyncio.wait_for(ended, 5) == 1
    with contextlib.suppress(MemoryError):
        await log._recovering
    log._writer.close()


async def test_another_log_than_the_deployments_is_refused(tmp_path: Path) -> None:
    create_log(tmp_path / "log" / "log.sqlite")
    (tmp_path / "created.json").write_text('{"schema": 1, "log": "ffff", "services": {}}')
    actor = TransactionLog(spec(tmp_path))
    with pytest.raises(IndefiniteError, match="another database"):
        await actor.owner(7)
    actor._readers.shutdown()
