"""The log against a naive model of it: dictionaries, one record at a time, nothing batched, nothing cached."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id, partition_of
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import (
    Act,
    AppendRequest,
    Begun,
    CancelledKey,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Parked,
    Record,
    Resolved,
    TakeRequest,
)
from orchestrator.testing.simulation.log_model import LogModel

NOW = 1_700_000_000_000
PARTITIONS = (3, 4)
KEYS = st.sampled_from([f"key-{number}" for number in range(12)])
FINGERPRINTS = st.sampled_from([b"", b"x" * 16, b"y" * 16])
STEPS = st.sampled_from(["pay", "ship"])
ONE_IN_FIVE = st.sampled_from([False, False, False, False, True])
SHARDS = st.sampled_from([0, 1])


class LogAgainstModel(RuleBasedStateMachine):
    """Shards take and lose partitions, append, repeat and send late; the log dies and is opened again."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "log.sqlite"
        create_log(self.path)
        self.store = LogStore(self.path, "run", 10**12)
        self.model = LogModel()
        self.counter = 0
        self.now_ms = NOW
        self.sequences: dict[str, int] = {}  # by incarnation
        self.ids: list[str] = []
        self.sent: list[AppendRequest] = []
        self.pending: list[AppendRequest] = []

    @initialize()
    def start(self) -> None:
        self.take(0, list(PARTITIONS), fresh=True)

    @rule(shard=SHARDS, partitions=st.lists(st.sampled_from(PARTITIONS), min_size=1, unique=True), fresh=st.booleans())
    def take(self, shard: int, partitions: list[int], fresh: bool) -> None:
        self.flush()
        self.counter += fresh
        current = self.model.newest.get(shard, ("", 0))[0]
        incarnation = f"{shard}-{self.counter}" if fresh or not current else current
        reply = self.store.take(TakeRequest(1, shard, incarnation, partitions, 1, "run"), self.now_ms)
        assert reply.open == self.model.take(shard, incarnation, partitions)
        assert reply.epochs == [self.model.owners[partition][1] for partition in partitions]

    @rule(data=st.data(), count=st.integers(1, 8), stale=ONE_IN_FIVE)
    def send(self, data: st.DataObject, count: int, stale: bool) -> None:
        """Mostly from the shard that owns the partition, mostly about it."""
        home = data.draw(st.sampled_from(PARTITIONS))
        self.send_records([self.draw_record(data, home) for _ in range(count)], home, stale)

    def send_records(self, drawn: list[Record], home: int, stale: bool) -> None:
        shard, _, incarnation = self.model.owners.get(home, (0, 0, "nobody"))
        records = []
        for record in drawn:
            epoch = self.model.owners.get(partition_of(record.transaction), (0, 0, ""))[1] - stale
            records.append(EpochRecord(epoch, record))
        self.sequences[incarnation] = self.sequences.get(incarnation, 0) + 1
        self.pending.append(AppendRequest(1, shard, incarnation, self.sequences[incarnation], records))

    @rule(data=st.data(), decision=st.sampled_from(Decision), asserted=st.sampled_from(Decision), length=st.integers(3, 6))
    def park_and_resolve(self, data: st.DataObject, decision: Decision, asserted: Decision, length: int) -> None:
        """What chance alone seldom puts together: the whole way of one step, or the beginning of it."""
        home = data.draw(st.sampled_from(PARTITIONS))
        txn, step = self.new_id(data, home), data.draw(STEPS)
        way = [
            Begun(txn, data.draw(KEYS), b"x" * 16, "order", 1, b"", NOW, NOW, 1), Decided(txn, decision, self.now_ms, "E_X"),
            Parked(txn, step, "E_X", "", self.now_ms),
            Resolved(txn, step, asserted, "who", "why", self.now_ms, awaited=step == "pay"),
            Ended(txn, self.now_ms), Parked(txn, step, "", "", self.now_ms)]
        self.send_records(way[:length], home, stale=False)
        self.flush()

    @rule(data=st.data(), count=st.integers(1, 8))
    def send_and_flush(self, data: st.DataObject, count: int) -> None:
        self.send(data, count, stale=False)
        self.flush()

    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        if self.sent:
            newest_or_any = st.just(self.sent[-1]) | st.sampled_from(self.sent)
            self.pending.append(data.draw(newest_or_any))

    @rule()
    def flush(self) -> None:
        """Everything that waits becomes one group."""
        if not self.pending:
            return
        requests, self.pending = self.pending, []
        self.now_ms += 700
        replies = self.store.append(requests, self.now_ms)
        for request, reply in zip(requests, replies, strict=True):
            expected = self.model.append(request)
            assert (reply.dropped, reply.results) == (expected is None, expected or [])
        self.sent = (self.sent + requests)[-10:]

    @rule(kind=st.sampled_from([ActKind.PAUSE, ActKind.RESUME]), what=st.sampled_from([("order", ""), ("", "pay")]))
    def pause(self, kind: ActKind, what: tuple[str, str]) -> None:
        self.flush()
        act = Act("", kind, "who", "why", self.now_ms, "", *what)
        changed = self.store.pause(act, self.now_ms)
        version = self.model.pauses.version
        self.model.pause(act)
        assert changed is (self.model.pauses.version > version)
        assert self.store.pauses.version == self.model.pauses.version
        assert {(p.saga, p.service) for p in self.store.pauses.paused} == {
            (p.saga, p.service) for p in self.model.pauses.paused}

    @rule()
    def crash(self) -> None:
        """What was not answered is lost; what was answered is there."""
        self.pending = []
        assert self.store.purge(self.now_ms, 100) == 0  # nothing is old enough
        self.store.close()
        self.store = LogStore(self.path, "run", 10**12)
        assert self.store.pauses.version == self.model.pauses.version

    @invariant()
    def open_transactions_are_known(self) -> None:
        if not self.pending:
            assert self.store.open_count == sum(not entry.ended for entry in self.model.transactions.values())

    def teardown(self) -> None:
        self.flush()
        self.store.close()
        reader = LogReader(self.path)
        assert reader.verify() == []
        found = {summary.transaction: (summary.state, summary.parked) for summary in reader.iterate()}
        assert found == {
            txn: (self.model.stored(txn).state.name.lower(), bool(entry.parked))
            for txn, entry in self.model.transactions.items()}
        for txn in found:
            assert reader.stored(txn) == self.model.stored(txn)
            assert reader.by_key(self.model.transactions[txn].begun.key) == self.model.stored(txn)
        assert [one.act for one in reader.acts(limit=-1)] == self.model.acts[::-1]
        assert reader.resolved() == {
            txn: list(entry.resolved.values()) for txn, entry in self.model.transactions.items() if entry.resolved}
        reader.close()
        self.directory.cleanup()

    def draw_record(self, data: st.DataObject, home: int) -> Record:
        kind = data.draw(st.sampled_from([
            "begun", "begun", "decided", "decided", "ended", "parked", "parked", "resolved", "resolved", "act", "cancel"]))
        if kind == "begun":
            return Begun(self.new_id(data, home), data.draw(KEYS), data.draw(FINGERPRINTS), "order", 1, b"", NOW, NOW, 1)
        if kind == "cancel":
            return CancelledKey(self.new_id(data, home), data.draw(KEYS), self.now_ms)
        txn = self.finishing_id(data, home) if kind in ("parked", "resolved") else self.old_id(data, home)
        if kind == "decided":
            decision = data.draw(st.sampled_from(Decision))
            return Decided(txn, decision, self.now_ms, "" if decision is Decision.COMMIT else "E_TIMEOUT")
        if kind == "ended":
            return Ended(txn, self.now_ms)
        if kind in ("resolved", "act"):
            return self.draw_act(data, txn, kind)
        return Parked(txn, data.draw(STEPS), data.draw(st.sampled_from(["", "E_X", "E_Y"])), "", self.now_ms)

    def draw_act(self, data: st.DataObject, txn: str, kind: str) -> Resolved | Act:
        if kind == "act":
            return Act(txn, data.draw(st.sampled_from([ActKind.RETRY, ActKind.CANCEL])), "who", "why", self.now_ms)
        step, decision = data.draw(STEPS), data.draw(st.sampled_from(Decision))
        entry = self.model.transactions.get(txn)
        if entry is not None and entry.decided is not None and not data.draw(ONE_IN_FIVE):  # mostly what may be resolved
            step, decision = next(iter(entry.parked or entry.resolved), step), entry.decided.decision
        return Resolved(txn, step, decision, "who", "why", self.now_ms, awaited=step == "pay")

    def finishing_id(self, data: st.DataObject, home: int) -> str:
        """Mostly one that is decided and not done with: what is parked and resolved."""
        candidates = [
            txn for txn, entry in self.model.transactions.items()
            if partition_of(txn) == home and entry.decided and (not entry.ended or entry.unsettled)][-2:]
        return data.draw(st.sampled_from(candidates)) if candidates else self.old_id(data, home)

    def old_id(self, data: st.DataObject, home: int) -> str:
        candidates = [txn for txn in self.ids if partition_of(txn) == home][-6:]
        if not candidates or data.draw(ONE_IN_FIVE):
            candidates = self.ids or [self.new_id(data, home)]
        return data.draw(st.sampled_from(candidates))

    def new_id(self, data: st.DataObject, home: int) -> str:
        epoch = self.model.owners.get(home, (0, 1, ""))[1] - data.draw(ONE_IN_FIVE)
        self.counter += 1
        self.ids.append(make_id(self.now_ms, home, epoch, self.counter))
        return self.ids[-1]


LogAgainstModel.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestLogAgainstModel = LogAgainstModel.TestCase
