"""The journal's store and the SQLite store cannot be told apart: what the simulator runs on is what is deployed."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from loguru import logger
from pydantic import BaseModel

from actors.local import JournalReader
from actors.memory import MemoryStore
from actors.runner import UNASKED, BatchRunner, Work
from actors.service import NotYet, Refused, Service, State
from actors.store import PURGED, Retention, Store
from orchestrator.app import ServiceAudit
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind
from orchestrator.saga import encode_plain

TRANSACTIONS = 8
POISON, LATER, REFUSE = 7, 6, 5


class Take(BaseModel):
    quantity: int


class Taken(BaseModel):
    left: int


class Shelf(Service):
    """Writes and deletes keys, lists them, waits, refuses, fails after it has written."""

    name = "shelf"

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        state[f"held/{request.quantity}"] = state.get(f"held/{request.quantity}", 0) + 1
        if request.quantity == POISON:
            raise RuntimeError("poison")
        if request.quantity == LATER:
            return NotYet("later")
        if request.quantity == REFUSE:
            return Refused("NO", "never")
        return Taken(left=len(state))

    def commit_take(self, state: State, request: Take, result: Taken) -> None:
        self._release(state, request)
        state["sold"] = state.get("sold", 0) + request.quantity
        if state["sold"] > 9:
            raise RuntimeError("the shelf is empty")

    def rollback_take(self, state: State, request: Take, result: Taken) -> None:
        self._release(state, request)
        state["keys"] = list(state)

    def perform_tell(self, state: State, request: Take) -> Taken | Refused | NotYet:
        if request.quantity == REFUSE:
            return Refused("NOBODY")
        state.pop("sold", None)
        return Taken(left=request.quantity)

    async def ask_slow(self, request: Take) -> int:
        return request.quantity

    def prepare_slow(self, state: State, request: Take, answer: int) -> Taken:
        state["answer"] = answer
        return Taken(left=answer)

    def commit_slow(self, state: State, request: Take, result: Taken) -> None: ...

    def rollback_slow(self, state: State, request: Take, result: Taken) -> None:
        del state["answer"]

    def audit(self, state, rows, *, purged=False) -> ServiceAudit:
        return ServiceAudit({"values": len(state), "rows": sum(1 for _ in rows), "purged": int(purged)}, sorted(state))

    @staticmethod
    def _release(state: State, request: Take) -> None:
        key = f"held/{request.quantity}"
        if state[key] == 1:
            del state[key]
        else:
            state[key] -= 1


class Journal:
    def __init__(self) -> None:
        self.entries, self.beginning, self.owner = [], (), 0

    def commit(self, entry) -> None:
        self.entries.append(entry)


def txn(number: int) -> str:
    return make_id(1_000 + number, number % 3, 1, number)


PAYLOADS = [encode_plain({"quantity": n}) for n in range(1, 8)] + [encode_plain({"quantity": "no"}), b"\xc1"]
commands = st.builds(
    Command,
    transaction=st.one_of(st.integers(0, TRANSACTIONS - 1).map(txn), st.sampled_from([txn(0), "nonsense"])),
    step=st.sampled_from(["a", "b"]), kind=st.sampled_from(Kind), attempt=st.integers(1, 3), epoch=st.integers(1, 2),
    operation=st.sampled_from(["take", "take", "slow", "tell", "gone"]), request=st.sampled_from(PAYLOADS))
works = st.builds(Work, command=commands, peer=st.just("peer"), answer=st.sampled_from([UNASKED, 3]))
watermarks = st.tuples(
    st.one_of(st.just(0), st.just(0), st.just(0), st.integers(1_000, 1_000 + TRANSACTIONS)),  # it only rises: seldom
    st.frozensets(st.integers(0, TRANSACTIONS - 1).map(txn), max_size=3)).map(lambda found: Retention(*found))


class Life:
    """One store open under a runner."""

    def __init__(self, store) -> None:
        self.store = store
        self.runner = BatchRunner("shelf", Shelf().bound, store)


class TwoStores(RuleBasedStateMachine):
    memory_store = MemoryStore

    def __init__(self) -> None:
        super().__init__()
        logger.disable("orchestrator.logs")
        self.directory = tempfile.TemporaryDirectory(prefix="raytx-stores-")
        self.path = Path(self.directory.name) / "shelf.sqlite"
        Shelf().create(self.path)
        self.journal = Journal()
        self.sqlite = Life(Store(self.path, "shelf", "run"))
        self.memory = Life(self.memory_store(self.journal))

    def teardown(self) -> None:
        with contextlib.closing(self.sqlite.store):
            logger.enable("orchestrator.logs")
        self.directory.cleanup()

    @rule(batch=st.lists(works, min_size=1, max_size=12), retention=watermarks)
    def batch(self, batch, retention) -> None:
        self.run(batch, retention)

    @rule(
        number=st.integers(0, TRANSACTIONS - 1), quantity=st.integers(1, 4),
        end=st.sampled_from([None, Kind.COMMIT, Kind.ROLLBACK]))
    def one_alone(self, number, quantity, end) -> None:
        """Random messages seldom get so far."""
        prepare = Command(txn(number), "c", Kind.PREPARE, 1, 2, "take", encode_plain({"quantity": quantity}))
        self.run([Work(prepare, "peer")], self.memory.store.retention)
        if end is not None:
            self.run([Work(Command(txn(number), "c", end, 1, 2, "take"), "peer")], self.memory.store.retention)

    @rule(retention=watermarks)
    def nothing_but_a_watermark(self, retention) -> None:
        self.run([], retention)

    @rule()
    def reopen(self) -> None:
        before = self.sqlite.store.database.sequence, len(self.journal.entries)
        self.sqlite.store.close()
        self.sqlite = Life(Store(self.path, "shelf", "run"))
        self.memory = Life(self.memory_store(self.journal))
        assert (self.sqlite.store.database.sequence - before[0], len(self.journal.entries) - before[1]) == (1, 1)

    def run(self, batch, retention) -> None:
        before = self.sqlite.store.database.sequence, len(self.journal.entries)
        told = self.sqlite.runner.run(batch, retention, 50), self.memory.runner.run(batch, retention, 50)
        assert told[0] == told[1]
        commits = self.sqlite.store.database.sequence - before[0]
        assert commits == len(self.journal.entries) - before[1], "one of them had nothing to make durable"

    @invariant()
    def they_hold_the_same(self) -> None:
        real, fake = self.sqlite.store, self.memory.store
        reader, journal_reader = Shelf().reader(self.path), JournalReader(Shelf(), self.journal)
        try:
            assert list(reader.rows()) == list(journal_reader.rows())
            assert list(reader.rows(txn(1))) == list(journal_reader.rows(txn(1)))
            assert list(reader.states()) == list(journal_reader.states())
            assert reader.audit() == journal_reader.audit()
            assert {key: encode_plain(value) for key, value in reader.state().items()} == fake.values
        finally:
            reader.close()
        assert real.epochs() == fake.epochs()
        assert self.sqlite.runner.fence.epochs == self.memory.runner.fence.epochs
        assert sorted(real.prepared_keys()) == fake.prepared_keys()
        keys = [(txn(number), step) for number in range(TRANSACTIONS) for step in "abc"]
        assert real.load(keys) == fake.load(keys)
        assert set(real.still_prepared(keys)) == set(fake.still_prepared(keys))
        assert real.retention == fake.retention
        assert (real.database.meta(PURGED) is not None) == fake.was_purged
        assert sorted(real.keys()) == sorted(fake.keys())
        for key in [*real.keys(), "none"]:
            assert real.value(key) == fake.value(key)


TwoStores.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestMemoryStore = TwoStores.TestCase


class KeepsDeleted(MemoryStore):
    def apply(self, entry) -> None:
        super().apply(entry._replace(values={key: value for key, value in entry.values.items() if value is not None}))


class ForgetsEpochs(MemoryStore):
    def apply(self, entry) -> None:
        super().apply(entry._replace(epochs={}))


class PurgesHeld(MemoryStore):
    def retain(self, retention) -> bool:
        changed = super().retain(retention)
        held = tuple(key for key in self.prepared_keys() if key[0] < f"{self.retention.watermark_ms:012x}")
        self._purged += held
        return changed or bool(held)


class CommitsNothingNew(MemoryStore):
    def rollback(self) -> None:
        self._journal.commit(self._staged)
        super().rollback()


@pytest.mark.parametrize("broken", [KeepsDeleted, ForgetsEpochs, CommitsNothingNew])
def test_a_store_that_differs_is_found(broken) -> None:
    machine = type(broken.__name__, (TwoStores,), {"memory_store": broken})
    quickly = settings(max_examples=100, stateful_step_count=20, deadline=None, derandomize=True, database=None,
                       phases=[Phase.generate], print_blob=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=quickly)


def test_a_store_that_lets_go_of_a_hold_is_found() -> None:
    """The shortest way to it; the machine finds it as well, after a hundred runs."""
    machine = type("Purging", (TwoStores,), {"memory_store": PurgesHeld})()
    try:
        prepare = Command(txn(0), "c", Kind.PREPARE, 1, 2, "take", encode_plain({"quantity": 1}))
        machine.run([Work(prepare, "peer")], Retention())
        machine.they_hold_the_same()
        machine.run([], Retention(1_001))
        with pytest.raises(AssertionError):
            machine.they_hold_the_same()
    finally:
        machine.teardown()
