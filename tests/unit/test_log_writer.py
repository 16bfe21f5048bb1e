"""Group commit, and what becomes of callers when the disk is full or a turn fails."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import writer as writer_module
from orchestrator.errors import IndefiniteError
from orchestrator.log import store as store_module
from orchestrator.log.store import LogStore, create_log
from orchestrator.log.writer import LogWriter
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import AppendReply, AppendRequest, AppendStatus, Begun, EpochRecord, TakeRequest
from orchestrator.writer import SHORT_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class GatedStore:
    """Stands in for `LogStore`: every append waits until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.started = threading.Event()
        self.gate = threading.Semaphore(0)
        self.error: BaseException | None = None

    def append(self, requests: Sequence[AppendRequest], _now_ms: int) -> list[AppendReply]:
        self.groups.append([request.sequence for request in requests])
        self.started.set()
        assert self.gate.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        return [AppendReply(1, [], watermark_ms=request.sequence) for request in requests]

    def close(self) -> None:
        self.groups.append([])


def request(sequence: int) -> AppendRequest:
    return AppendRequest(1, 0, "first", sequence, [])


def records(count: int) -> AppendRequest:
    begun = Begun(make_id(10**12, 7, 1, 1), "k", b"a" * 16, "order", 1, b"", 10**12, 10**12, 1)
    return AppendRequest(1, 0, "first", 1, [EpochRecord(1, begun)] * count)


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk trouble")
    error.sqlite_errorcode = code
    return error


def full_store(path: Path) -> tuple[LogStore, AppendRequest]:
    """A log whose disk has no room for the append that comes with it."""
    create_log(path)
    store = LogStore(path, "run", 10**9, ballast_bytes=0)
    store.take(TakeRequest(1, 0, "first", [7], 1, "run"), 10**12)
    connection = store._database.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    begun = Begun(make_id(10**12, 7, 1, 1), "k", b"a" * 16, "order", 1, bytes(100_000), 10**12, 10**12, 1)
    return store, AppendRequest(1, 0, "first", 1, [EpochRecord(1, begun)])


def make(store: GatedStore | LogStore) -> tuple[LogWriter, list[BaseException], asyncio.Event]:
    failures: list[BaseException] = []
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail(error: BaseException) -> None:
        failures.append(error)
        loop.call_soon_threadsafe(failed.set)

    return LogWriter(store, fail), failures, failed  # type: ignore[arg-type]


async def test_who_arrives_during_a_commit_joins_the_next_one() -> None:
    store = GatedStore()
    writer, _, _ = make(store)
    assert writer.thread > 0
    waiting = [writer.append(request(1))]
    await asyncio.to_thread(store.started.wait, 10)
    waiting += [writer.append(request(number)) for number in (2, 3, 4)]
    store.gate.release(2)
    replies = await asyncio.gather(*waiting)
    assert [reply.watermark_ms for reply in replies] == [1, 2, 3, 4]
    assert store.groups == [[1], [2, 3, 4]]
    writer.close()
    assert store.groups[-1] == []


async def test_nobody_is_answered_before_the_commit() -> None:
    store = GatedStore()
    writer, _, _ = make(store)
    future = writer.append(request(1))
    await asyncio.to_thread(store.started.wait, 10)
    assert not future.done()
    store.gate.release()
    await future
    writer.close()


async def test_a_job_runs_in_its_turn_and_a_caller_that_left_is_no_trouble() -> None:
    store = GatedStore()
    writer, _, _ = make(store)
    left, stayed = writer.append(request(1)), writer.call(lambda found: found is store)
    left.cancel()
    store.gate.release()
    assert await stayed
    writer.close()


async def test_a_full_disk_is_told_and_the_next_append_is_tried() -> None:
    store = GatedStore()
    writer, failures, _ = make(store)
    store.error = sqlite_error(sqlite3.SQLITE_FULL)
    store.gate.release()
    with pytest.raises(IndefiniteError, match="disk is full"):
        await writer.append(request(1))
    store.error = None
    store.gate.release()
    assert (await writer.append(request(1))).watermark_ms == 1
    assert failures == []
    writer.close()


async def test_after_a_full_disk_memory_holds_what_is_durable(tmp_path: Path) -> None:
    store, append = full_store(tmp_path / "log.sqlite")
    writer, failures, _ = make(store)
    with pytest.raises(IndefiniteError, match="disk is full"):
        await writer.append(append)
    assert store.open_count == 0
    await writer.call(lambda found: found._database.connection.execute("PRAGMA max_page_count = 100000"))
    assert [result.status for result in (await writer.append(append)).results] == [AppendStatus.STORED]
    assert (store.open_count, failures) == (1, [])
    writer.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL])
async def test_nobody_is_answered_once_memory_cannot_be_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int,
) -> None:
    store, append = full_store(tmp_path / "log.sqlite")
    writer, failures, failed = make(store)

    def unreadable(_connection: sqlite3.Connection) -> None:
        raise sqlite_error(code)

    monkeypatch.setattr(store_module, "load_open", unreadable)
    future = writer.append(append)
    await asyncio.wait_for(failed.wait(), 10)
    assert not future.done()
    assert "cannot be read anew" in str(failures)
    writer.close()


async def test_an_error_while_answering_is_of_unknown_outcome_too(monkeypatch: pytest.MonkeyPatch) -> None:
    store = GatedStore()
    writer, failures, failed = make(store)
    future = writer.append(request(1))

    def broken() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(writer, "_go", broken)
    store.gate.release()
    await asyncio.wait_for(failed.wait(), 5)
    assert [repr(failure) for failure in failures] == ["KeyError('a bug')"]
    assert not future.done()
    writer.close()


@pytest.mark.parametrize("error", [sqlite_error(sqlite3.SQLITE_IOERR), OSError(5, "no mark"), ValueError("a bug")])
async def test_an_error_of_unknown_outcome_answers_nobody(error: BaseException, occurred) -> None:
    store = GatedStore()
    writer, failures, failed = make(store)
    store.error = error
    store.gate.release()
    future: asyncio.Future[Any] = writer.append(request(1))
    await asyncio.wait_for(failed.wait(), 10)
    assert failures == [error]
    assert not future.done()
    writer.close()
    occurred("67")


async def test_a_small_append_is_made_on_the_loop_where_turns_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "QUICK_S", 10.0)
    store = GatedStore()
    writer, _, _ = make(store)
    store.gate.release(100)
    where = []
    append = store.append

    def located(requests: Sequence[AppendRequest], now_ms: int) -> list[AppendReply]:
        where.append(threading.get_ident() == threading.main_thread().ident)
        return append(requests, now_ms)

    monkeypatch.setattr(store, "append", located)
    for number in range(writer_module.QUICK_TURNS):
        await writer.append(request(number))
    assert not any(where)
    where.clear()
    await writer.append(records(SHORT_MAX))
    await writer.append(records(SHORT_MAX + 1))
    assert not await writer.call(lambda _: threading.get_ident() == threading.main_thread().ident)
    await asyncio.gather(writer.append(records(1)), writer.append(records(SHORT_MAX)))
    assert where == [True, False, True, True]
    assert writer.turns.progress() is None
    writer.close()
