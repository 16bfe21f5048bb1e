"""Whatever is lost, repeated, reordered or cut off by a crash: one effect per step, nothing leaks."""

import contextlib
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import BaseModel

from actors.runner import BatchRunner, Work
from actors.service import NotYet, Refused, Service, State
from actors.state import BatchState, OperationState
from actors.store import Retention, Store
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind, Status
from orchestrator.saga import encode_plain

STOCK = 30
TRANSACTIONS = 6
KINDS = (Kind.PREPARE, Kind.COMMIT, Kind.ROLLBACK)


class Take(BaseModel):
    quantity: int


class Taken(BaseModel):
    quantity: int


class Shelf(Service):
    """Stock of one article; every seventh quantity makes a handler fail after it has written."""

    name = "shelf"

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        reserved = state.get("reserved", 0) + request.quantity
        state["reserved"] = reserved
        if request.quantity == 7:
            raise RuntimeError("poison")
        if reserved + state.get("sold", 0) > STOCK:
            return Refused("OUT_OF_STOCK")
        return Taken(quantity=request.quantity)

    def commit_take(self, state: State, request: Take, result: Taken) -> None:
        state["reserved"] -= request.quantity
        state["sold"] = state.get("sold", 0) + result.quantity

    def rollback_take(self, state: State, request: Take, result: Taken) -> None:
        assert request.quantity == result.quantity
        state["reserved"] -= result.quantity


def txn(number):
    return make_id(1_000 + number, number, 1, number)


def quantity(number):
    return (5, 7, 9, 12, 8, 11)[number]


def message(number, kind, attempt):
    request = encode_plain({"quantity": quantity(number)}) if kind is Kind.PREPARE else b""
    return Command(txn(number), "take", kind, attempt, 1, "take", request)


MESSAGES = st.tuples(st.integers(0, TRANSACTIONS - 1), st.sampled_from(KINDS), st.integers(1, 3))


class Interleavings(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "shelf.sqlite"
        self.service = Shelf()
        self.service.create(self.path)
        self.final: dict[str, Kind] = {}
        self.votes: dict[str, Status] = {}
        self.open()

    def open(self):
        self.store = Store(self.path, "shelf", "run")
        self.runner = BatchRunner("shelf", self.service.bound, self.store)

    @rule(batch=st.lists(MESSAGES, min_size=1, max_size=8))
    def messages(self, batch):
        works = [Work(message(*one), "peer") for one in batch]
        outcomes = self.runner.run(works, Retention(), 1)
        assert len(outcomes) == len(works)
        for outcome in outcomes:
            self.check(outcome.reply)

    @rule(batch=st.lists(MESSAGES, min_size=1, max_size=4))
    def crash_before_the_commit(self, batch):
        """All of the batch was run, the process died before its commit."""
        self.store.commit = lambda *_: (_ for _ in ()).throw(InterruptedError)
        with contextlib.suppress(InterruptedError):
            self.runner.run([Work(message(*one), "peer") for one in batch], Retention(), 1)
        self.store.close()
        self.open()

    @rule()
    def reopen(self):
        self.store.close()
        self.open()

    def check(self, reply):
        """A vote never changes into the other, a step that ended one way never ends the other way."""
        if reply.kind is Kind.PREPARE and reply.status is Status.YES:
            assert self.votes.setdefault(reply.transaction, Status.YES) is Status.YES
        if reply.kind is Kind.PREPARE and reply.status is Status.NO and reply.code != "E_LATE_PREPARE":
            assert self.votes.setdefault(reply.transaction, Status.NO) is Status.NO
        if reply.kind is not Kind.PREPARE and reply.status is Status.ACK:
            assert self.final.setdefault(reply.transaction, reply.kind) is reply.kind

    @invariant()
    def state_is_the_fold_of_the_ledger(self):
        reader = self.service.reader(self.path)
        states = {row.transaction: row.state for row in reader.rows()}
        reader.close()
        state = OperationState(BatchState(self.store.value, self.store.keys))
        held = sum(quantity(n) for n in range(TRANSACTIONS) if states.get(txn(n)) == "PREPARED")
        sold = sum(quantity(n) for n in range(TRANSACTIONS) if states.get(txn(n)) == "COMMITTED")
        assert (state.get("reserved", 0), state.get("sold", 0)) == (held, sold)
        assert held + sold <= STOCK
        for transaction, kind in self.final.items():
            assert states[transaction] == ("COMMITTED" if kind is Kind.COMMIT else states[transaction])
            assert states[transaction] in ("COMMITTED", "ROLLED_BACK", "REFUSED")

    def teardown(self):
        self.store.close()
        self.directory.cleanup()


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
