"""A log store as tests use it: requests, records and what to expect of the answers."""


from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from orchestrator.log.store import LogStore
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import (
    AppendReply,
    AppendRequest,
    AppendResult,
    AppendStatus,
    Begun,
    Decided,
    Decision,
    EpochRecord,
    Record,
    StoredTransaction,
    TakeReply,
    TakeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = 1_700_000_000_000
DAY = 24 * 3_600_000
COMMIT, ABORT = Decision.COMMIT, Decision.ABORT


class Log:
    """A store with one shard that numbers its appends."""

    def __init__(self, path: Path, retention_ms: int = 7 * DAY) -> None:
        self.path, self.retention_ms = path, retention_ms
        self.clock: Callable[[], int] = itertools.count(0, DAY).__next__  # days pass from one look to the next
        self.store = LogStore(path, "run", retention_ms, clock=self.clock)
        self.sequence = 0
        self.counter = 0
        self.epoch = 0

    def reopen(self, run: str = "run") -> None:
        self.store.close()
        self.store = LogStore(self.path, run, self.retention_ms, clock=self.clock)

    def take(self, incarnation: str = "first", shard: int = 0, run: str = "run", now_ms: int = NOW) -> TakeReply:
        reply = self.store.take(TakeRequest(1, shard, incarnation, [7, 8], 1, run), now_ms)
        self.epoch, self.sequence = reply.epochs[0], 0
        return reply

    def id(self, at_ms: int = NOW, epoch: int | None = None) -> str:
        self.counter += 1
        return make_id(at_ms, 7, self.epoch if epoch is None else epoch, self.counter)

    def request(self, *records: Record, incarnation: str = "first", epoch: int | None = None) -> AppendRequest:
        self.sequence += 1
        epoch = self.epoch if epoch is None else epoch
        return AppendRequest(1, 0, incarnation, self.sequence, [EpochRecord(epoch, record) for record in records])

    def append(self, *records: Record, now_ms: int = NOW, **where: object) -> list[AppendResult]:
        (reply,) = self.store.append([self.request(*records, **where)], now_ms)  # type: ignore[arg-type]
        return reply.results

    def begin(self, key: str, at_ms: int = NOW) -> str:
        txn = self.id(at_ms)
        assert self.append(begun(txn, key), now_ms=at_ms) == [AppendResult(AppendStatus.STORED)]
        return txn


def begun(txn: str, key: str, fingerprint: bytes = b"a" * 16) -> Begun:
    return Begun(txn, key, fingerprint, "order", 1, b"input", NOW, NOW + 30_000, 30_000, "order-1")


def decided(txn: str, decision: Decision, code: str = "") -> Decided:
    return Decided(txn, decision, NOW, code)


def statuses(results: list[AppendResult]) -> list[str]:
    return [result.status.name for result in results]


def only(results: list[AppendResult]) -> AppendResult:
    (result,) = results
    return result


def sole(replies: list[AppendReply]) -> AppendReply:
    (reply,) = replies
    return reply


def stored(reply: TakeReply, txn: str) -> StoredTransaction:
    return next(found for found in reply.open if found.begun.transaction == txn)
