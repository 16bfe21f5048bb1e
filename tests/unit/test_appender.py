"""The shard's side of the log."""

from __future__ import annotations

import asyncio

from orchestrator import appender
from orchestrator.appender import Appender
from orchestrator.errors import IndefiniteError
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import (
    AppendReply,
    AppendRequest,
    AppendResult,
    AppendStatus,
    Begun,
    Decided,
    Decision,
    Ended,
)


class Log:
    def __init__(self) -> None:
        self.requests: list[AppendRequest] = []
        self.fail = 0
        self.drop = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, request: AppendRequest) -> AppendReply:
        self.requests.append(request)
        await self.gate.wait()
        if self.fail:
            self.fail -= 1
            raise IndefiniteError("E_UNREACHABLE", "lost")
        if self.drop:
            self.drop -= 1
            return AppendReply(1, [], dropped=True)
        return AppendReply(1, [AppendResult(AppendStatus.STORED)] * len(request.records))


def txn(number: int, partition: int = 3) -> str:
    return make_id(1, partition, 1, number)


def decided(number: int) -> Decided:
    return Decided(txn(number), Decision.COMMIT, 5)


def begun(number: int, payload: bytes = b"") -> Begun:
    return Begun(txn(number), f"k{number}", b"", "s", 1, payload, 1, 2, 3)


def appender_of(log: Log, told: list) -> Appender:
    return Appender(log, shard=0, incarnation="i", epochs={3: 7}, deliver=lambda results, _: told.extend(results))


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_decisions_leave_before_new_transactions_where_not_all_fit(monkeypatch) -> None:
    monkeypatch.setattr(appender, "BATCH_MAX", 3)
    log, told = Log(), []
    log.gate.clear()
    writer = appender_of(log, told)
    writer.add([begun(1)])
    await until(lambda: log.requests)
    writer.add([begun(2), begun(3), decided(8), begun(4), decided(9)])
    log.gate.set()
    await until(lambda: len(told) == 6)
    assert [[item.record for item in request.records] for request in log.requests] == [
        [begun(1)], [decided(8), decided(9), begun(2)], [begun(3), begun(4)]]


async def test_what_arrives_during_an_append_leaves_together() -> None:
    log, told = Log(), []
    appender = appender_of(log, told)
    log.gate.clear()
    for number in range(4):
        appender.add([decided(number)])
        await asyncio.sleep(0)
    log.gate.set()
    await until(lambda: len(told) == 4)
    assert [len(r.records) for r in log.requests] == [1, 3]
    assert [r.sequence for r in log.requests] == [1, 2]
    assert {item.epoch for r in log.requests for item in r.records} == {7}


async def test_an_unknown_outcome_repeats_the_same_records_under_a_new_sequence() -> None:
    log, told = Log(), []
    log.fail, log.drop = 2, 1
    appender = appender_of(log, told)
    appender.add([decided(1)])
    appender.add([decided(2)])
    await until(lambda: len(told) == 2)
    first = log.requests[0]
    assert [r.records for r in log.requests[:4]] == [first.records] * 4
    assert [r.sequence for r in log.requests] == [1, 2, 3, 4]


async def test_a_lazy_record_waits_for_company_but_not_for_ever() -> None:
    log, told = Log(), []
    appender = appender_of(log, told)
    appender.add([Ended(txn(1), 5)])
    await asyncio.sleep(0)
    assert not log.requests
    appender.add([decided(2)])
    await until(lambda: len(told) == 2)
    assert len(log.requests) == 1
    appender.add([Ended(txn(2), 5)])
    await until(lambda: len(told) == 3)


async def test_records_of_a_partition_that_was_dropped_come_back_fenced() -> None:
    log, told = Log(), []
    appender = appender_of(log, told)
    gone = Decided(txn(1, partition=4), Decision.COMMIT, 5)
    appender.add([gone, decided(2)])
    await until(lambda: len(told) == 2)
    assert {record.transaction: result.status for record, result in told} == {
        gone.transaction: AppendStatus.FENCED, txn(2): AppendStatus.STORED}


async def test_long_inputs_are_appended_a_few_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(appender, "BATCH_BYTES_MAX", 10)
    log, told = Log(), []
    records = [begun(1, b"four"), decided(9), begun(2, b"five5"), begun(3, b"longer than an append may be"), begun(4, b"y")]
    appender_of(log, told).add(records)
    await until(lambda: len(told) == len(records))
    first = [records[1], records[0], records[2]]  # what ends work before what begins some
    assert [[item.record for item in request.records] for request in log.requests] == [first, records[3:4], records[4:]]
    assert [record for record, _ in told] == first + records[3:]
