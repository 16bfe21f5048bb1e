"""A transaction in memory: its states, the transition table, and how far each of its steps has come."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

from orchestrator.errors import InvariantViolation
from orchestrator.protocol.effects import Joiner, Waiter
from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.records import Begun, Decided, Decision, State
from orchestrator.saga import Saga, Step

NEVER_MS = 1 << 62
UNREAD = object()


class Event(Enum):
    """What moves a transaction; each is a fact that is already durable."""

    COMMIT_DURABLE = "COMMIT durable"
    ABORT_DURABLE = "ABORT durable"
    ALL_ACKNOWLEDGED = "all acknowledged"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PREPARING, Event.COMMIT_DURABLE): State.COMMITTING,
    (State.PREPARING, Event.ABORT_DURABLE): State.ABORTING,
    (State.COMMITTING, Event.COMMIT_DURABLE): State.COMMITTING,
    (State.COMMITTING, Event.ALL_ACKNOWLEDGED): State.COMMITTED,
    (State.ABORTING, Event.ABORT_DURABLE): State.ABORTING,
    (State.ABORTING, Event.ALL_ACKNOWLEDGED): State.ABORTED,
}


class Phase(IntEnum):
    """How far one step has come."""

    WAITING = 0  # not sent by this incarnation
    SENT = 1  # prepare sent, no vote yet
    YES = 2
    REFUSED = 3
    FINISHING = 4  # commit, rollback or perform sent
    DONE = 5  # acknowledged


class StepProgress:
    """One step of one transaction."""

    __slots__ = (
        "answered", "attempt", "due_ms", "failing", "message", "parked", "phase", "request", "resolved", "result", "sent_ms",
        "step", "value", "waits")

    def __init__(self, step: Step) -> None:
        self.step = step
        self.phase = Phase.WAITING
        self.attempt = 0
        self.answered = 0  # the newest attempt that was answered, though not for good
        self.due_ms = NEVER_MS  # when the current attempt is repeated
        self.request = b""  # built once: a repeat carries the same bytes
        self.result: bytes | None = None  # the stored vote
        self.value: Any = UNREAD  # the same, decoded for request builders
        self.failing = ""  # code of the last transient answer
        self.message = ""
        self.parked = False
        self.resolved = False  # counts as acknowledged: an operator says so, its ledger is still to agree
        self.sent_ms = 0  # the first attempt
        self.waits = False  # for an answer of its service; see `traffic`


class Transaction:
    """One open transaction.

    Invariants: `state` changes only through `move`; `deciding` is set from the moment a Decided record leaves until the
    log has answered, and no other decision is proposed meanwhile; no prepare is sent before `begun_durable`.
    The four counts say how many steps have not voted yes, have not ended (once decided), wait to be performed, and count
    as ended because an operator says so while their ledgers do not agree yet.
    """

    __slots__ = (
        "armed_ms", "begun", "begun_durable", "cancelled", "deadline_ms", "decided", "deciding", "ended", "epoch", "held", "id",
        "input", "joiners", "partition", "performs_waiting", "quarantined", "recovered", "saga", "state", "steps", "troubled",
        "unfinished", "unsettled", "votes_missing", "waiters",
    )

    def __init__(self, begun: Begun, saga: Saga | None, epoch: int) -> None:
        self.id = begun.transaction
        self.begun = begun
        self.saga = saga
        self.input: Any = None  # the validated model; builders read it
        self.epoch = epoch
        self.partition = partition_of(begun.transaction)
        self.state = State.PREPARING
        self.begun_durable = False
        self.decided: Decided | None = None
        self.deciding: Decided | None = None
        self.ended = False  # an Ended record is stored already: driven again only to collect results
        self.deadline_ms = 0  # on the process's clock
        self.armed_ms = NEVER_MS
        self.cancelled = False
        self.recovered = False
        self.held = False  # taken up after a restart and not driven yet: no decision is proposed for it
        self.quarantined = False
        self.troubled = saga is None  # a step was parked, or it has ended: it may wait aside
        self.waiters: list[Waiter] = []
        self.joiners: list[Joiner] = []  # while begun is not durable: the key may turn out to be another transaction's
        self.steps = {step.name: StepProgress(step) for step in saga.steps} if saga else {}
        self.votes_missing = len(saga.prepares) if saga else 0
        self.performs_waiting = len(saga.performs) if saga else 0
        self.unfinished = len(self.steps)
        self.unsettled = 0

    def __repr__(self) -> str:
        return f"Transaction({self.id}, {self.begun.saga}, {self.state.name})"

    def move(self, event: Event) -> None:
        """Take the transition of the table.

        Raises:
            InvariantViolation: the table has none; the state is unchanged.
        """
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise InvariantViolation(f"{self!r}: {event.value} is not possible in {self.state.name}")
        self.state = following

    def end_again(self) -> None:
        """It has ended before: its commits are sent once more to collect results, nothing is performed or recorded."""
        self.ended = self.troubled = True
        self.unfinished -= self.performs_waiting
        self.performs_waiting = 0

    def resolve(self, progress: StepProgress) -> None:
        """A parked step counts as acknowledged; one that is performed holds nothing: its ledger need not agree, no repeats."""
        progress.resolved = progress.parked = self.troubled = True
        self.unfinished -= 1
        if not progress.step.after_commit:
            self.unsettled += 1
            return
        self.performs_waiting -= progress.phase is Phase.WAITING
        progress.phase, progress.due_ms = Phase.DONE, NEVER_MS

    def may_settle(self, step: str) -> bool:
        """Whether nothing has to end before that step of a decided transaction: its commit or rollback has been sent."""
        progress = self.steps.get(step)
        return progress is None or progress.phase in (Phase.FINISHING, Phase.DONE)

    @property
    def waits_aside(self) -> bool:
        """Whether nothing of it gets on but by an operator, by another program, or by a ledger that is to agree with one."""
        if self.ended or self.saga is None:
            return True
        left = [p for p in self.steps.values() if p.phase is not Phase.DONE]
        return (self.decided is not None and any(p.parked for p in left)
                and all(p.parked or p.phase is Phase.WAITING for p in left))

    @property
    def results_known(self) -> bool:
        """Whether every vote is known (or parked, so that it may never be): the outcome of a commit can be told."""
        return all(p.result is not None or p.phase is Phase.DONE or p.parked
                   for p in self.steps.values() if not p.step.after_commit)


def durable_event(decision: Decision) -> Event:
    """The event that a durable decision is."""
    return Event.COMMIT_DURABLE if decision is Decision.COMMIT else Event.ABORT_DURABLE
