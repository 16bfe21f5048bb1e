"""Compaction in small steps: whatever stays open or parked, the log verifies, and holds what it must and no more."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import began_ms_of, make_id
from orchestrator.protocol.records import (
    AppendRequest,
    Begun,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Parked,
    Record,
    TakeRequest,
)

NOW = 1_700_000_000_000
RETENTION_MS = 10_000
PICK = st.integers(0, 5)


class Compaction(RuleBasedStateMachine):
    """Transactions begin, park and end while time passes, the log purges and is opened again."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "log.sqlite"
        create_log(self.path)
        self.now_ms, self.sequence, self.counter = NOW, 0, 0
        self.records: dict[str, int] = {}  # how many each transaction has
        self.parked: set[str] = set()
        self.open: list[str] = []
        self.ended: dict[str, int] = {}
        self.store = LogStore(self.path, "run", RETENTION_MS, clock=lambda: self.now_ms)

    @initialize()
    def take(self) -> None:
        self.store.take(TakeRequest(1, 0, "first", [7], 1, "run"), self.now_ms)

    @rule(count=st.integers(1, 6), late_ms=st.sampled_from([0, 0, 3_000, 40_000]))
    def begin(self, count: int, late_ms: int) -> None:
        """Some of a shard whose clock is behind."""
        for _ in range(count):
            self.counter += 1
            txn = make_id(self.now_ms - late_ms, 7, 1, self.counter)
            self.open.append(txn)
            self.records[txn] = 2
            self.append(Begun(txn, txn, b"", "order", 1, b"", began_ms_of(txn), NOW, 1),
                        Decided(txn, Decision.COMMIT, self.now_ms))

    @rule(pick=PICK)
    def park(self, pick: int) -> None:
        if self.open:
            txn = self.open[pick % len(self.open)]
            code = "" if txn in self.parked else "E_X"
            self.parked ^= {txn}
            self.records[txn] += 1
            self.append(Parked(txn, "a", code, "", self.now_ms))

    @rule(pick=PICK, count=st.integers(1, 6))
    def end(self, pick: int, count: int) -> None:
        for txn in self.open[pick : pick + count]:
            self.open.remove(txn)
            self.records[txn] += 1
            self.ended[txn] = self.now_ms
            self.append(Ended(txn, self.now_ms))

    @rule(ms=st.integers(1, 15_000))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule(limit=st.integers(1, 8))
    def purge(self, limit: int) -> None:
        self.store.purge(self.now_ms, limit)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = LogStore(self.path, "run", RETENTION_MS, clock=lambda: self.now_ms)

    @invariant()
    def it_verifies(self) -> None:
        reader = LogReader(self.path)
        assert reader.verify() == []
        known = {summary.transaction for summary in reader.iterate()}
        assert known >= set(self.open) | {txn for txn, ms in self.ended.items() if ms >= self.store.watermark_ms}
        for txn in known:
            assert len(reader.history(txn)) == self.records[txn]
        reader.close()

    def teardown(self) -> None:
        """Once all that may go is gone, there is not one record too many before the first young one."""
        for _ in range(len(self.records) + 5):
            self.now_ms += 1_000
            self.store.purge(self.now_ms, 50)
        self.store.close()
        with sqlite3.connect(self.path) as connection:
            known = {txn for (txn,) in connection.execute("SELECT txn FROM transactions")}
            young = {txn for txn in known if began_ms_of(txn) >= self.store.watermark_ms}
            (count,) = connection.execute("SELECT COUNT(*) FROM records").fetchone()
        connection.close()
        if not young:
            assert count == sum(self.records[txn] for txn in known)
        self.directory.cleanup()

    def append(self, *records: Record) -> None:
        self.sequence += 1
        request = AppendRequest(1, 0, "first", self.sequence, [EpochRecord(1, record) for record in records])
        self.store.append([request], self.now_ms)


Compaction.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCompaction = Compaction.TestCase
