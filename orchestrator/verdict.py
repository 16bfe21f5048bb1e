"""The judgement of one transaction, pure: what the log says of it against what every ledger says.

The ledgers' snapshots are older than the log's. So a transaction is judged by two readings of the log, one from before
the ledgers were opened and one from after: a row is right if it fits some state that the transaction had in between.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from orchestrator.protocol.records import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from orchestrator.app import StepState
    from orchestrator.saga import Step

ABSENT: Final = ""


class Check(StrEnum):
    """What the audit checks, the worst first."""

    ATOMICITY = "atomicity"  # rows and decision agree, in every service
    DURABILITY = "durability"  # nobody acted on a decision that the log does not hold
    EXACTLY_ONCE = "exactly_once"  # one row per (transaction, step)
    CONSERVATION = "conservation"  # the services' own sums
    ONE_DECISION = "one_decision"  # what is decided has its decision, what is not has none
    TRANSACTION_LOG = "transaction_log"  # no hole, no damaged record, no rival decision, index = records
    UNKNOWN_TRANSACTION = "unknown_transaction"  # no row without its Begun
    ORPHAN_HOLD = "orphan_hold"  # nothing is held by a transaction that is no longer there
    UNIQUE_KEY = "unique_key"  # one transaction per idempotency key
    DEFINITION = "definition"  # a row belongs to a step of its saga
    ORDER = "order"  # every store reads in id order, so that none was skipped


class Violation(msgspec.Struct, frozen=True):
    """One finding; `transaction` is empty where it concerns a whole store."""

    check: Check
    transaction: str
    text: str


class Found(NamedTuple):
    """What a ledger row says, and the service whose ledger holds it."""

    service: str
    row: StepState


class Plan:
    """What a saga's definition says of the rows that its transactions leave.

    Attributes:
        saga: its name.
        steps: service and operation by step.
        performs: names of the steps that are performed after the commit.
        committed: the final row state of every step of a committed transaction.
    """

    __slots__ = ("committed", "performs", "saga", "steps")

    def __init__(self, saga: str, steps: Sequence[Step]) -> None:
        self.saga = saga
        self.steps = {step.name: (step.service, step.operation) for step in steps}
        self.performs = frozenset(step.name for step in steps if step.after_commit)
        self.committed = {step.name: "DONE" if step.after_commit else "COMMITTED" for step in steps}


_PREPARED_STEP: Final[Mapping[State, frozenset[str]]] = {
    State.PREPARING: frozenset({ABSENT, "PREPARED", "REFUSED"}),
    State.COMMITTING: frozenset({"PREPARED", "COMMITTED"}),
    State.COMMITTED: frozenset({"COMMITTED"}),
    State.ABORTING: frozenset({ABSENT, "PREPARED", "REFUSED", "ROLLED_BACK"}),
    State.ABORTED: frozenset({ABSENT, "REFUSED", "ROLLED_BACK"}),
}
_PERFORMED_STEP: Final[Mapping[State, frozenset[str]]] = {
    State.PREPARING: frozenset({ABSENT}),
    State.COMMITTING: frozenset({ABSENT, "DONE"}),
    State.COMMITTED: frozenset({"DONE"}),
    State.ABORTING: frozenset({ABSENT}),
    State.ABORTED: frozenset({ABSENT}),
}
_PATHS: Final[Mapping[State, tuple[State, ...]]] = {
    State.PREPARING: (State.PREPARING,),
    State.COMMITTING: (State.PREPARING, State.COMMITTING),
    State.COMMITTED: (State.PREPARING, State.COMMITTING, State.COMMITTED),
    State.ABORTING: (State.PREPARING, State.ABORTING),
    State.ABORTED: (State.PREPARING, State.ABORTING, State.ABORTED),
}
_ENDED: Final = frozenset({State.COMMITTED, State.ABORTED})
_UNFINISHED: Final[Mapping[State, State]] = {
    state: State.COMMITTING if State.COMMITTING in path else State.ABORTING if State.ABORTING in path else State.PREPARING
    for state, path in _PATHS.items()}
_DECIDED_ROWS: Final = frozenset({"COMMITTED", "ROLLED_BACK", "DONE"})


class Verdict(NamedTuple):
    """What was found; `moved` says that the transaction was judged by an earlier state than the log's last one."""

    violations: Sequence[Violation]
    moved: bool = False


_CLEAN: Final = Verdict(())


def judge(
    transaction: str,
    state: State,
    plan: Plan | None,
    rows: Sequence[Found],
    *,
    earlier: Callable[[], State | None],
    purged: bool,
    asserted: Collection[str] = (),
) -> Verdict:
    """Judge one transaction that the log knows.

    Args:
        transaction: its id.
        state: what the log says now.
        plan: its saga's; None where the app does not have that version, and then absent rows go unnoticed.
        rows: its rows in all ledgers.
        earlier: asks the log as it was before the ledgers were opened; None = not begun then. Asked only in doubt.
        purged: it is older than the watermark, so that rows may be gone.
        asserted: steps that an operator resolved: their rows may still be as they are before everybody has acknowledged;
            what contradicts the decision is a violation all the same.
    """
    by_step = {found.row.step: found for found in rows}
    observed = {step: found.row.state for step, found in by_step.items()}
    strays = list(_strays(transaction, plan, rows)) if rows else []
    if state is State.COMMITTED and plan is not None and observed == plan.committed and not strays:
        return _CLEAN
    suspects = [step for step in _steps(plan, by_step) if not _fits(step, state, plan, observed, purged=purged)]
    if not suspects:
        return Verdict(strays)
    between = states_between(earlier(), state)
    wrong = [
        step for step in suspects
        if not any(_fits(step, one, plan, observed, purged=purged) for one in between)
        and not (step in asserted and _fits(step, _UNFINISHED[state], plan, observed, purged=purged))
    ]
    moved = len(wrong) < len([step for step in suspects if step not in asserted])
    return Verdict([*strays, *(_wrong(transaction, state, step, by_step.get(step), plan) for step in wrong)], moved)


def judge_stranger(transaction: str, rows: Sequence[Found], *, purged: bool) -> list[Violation]:
    """Judge rows whose transaction the log does not know.

    Args:
        transaction: its id.
        rows: its rows in all ledgers.
        purged: it is older than the watermark, so that the log may have let it go; what is held it never lets go.
    """
    violations = []
    for service, row in rows:
        if row.state == "PREPARED":
            text = f"{service} holds {row.operation!r} for step {row.step!r} of a transaction that the log does not know"
            violations.append(Violation(Check.ORPHAN_HOLD, transaction, text))
        elif not purged:
            text = f"{service} has a row {row.state} of step {row.step!r}, but the log has no such transaction"
            violations.append(Violation(Check.UNKNOWN_TRANSACTION, transaction, text))
    return violations


def states_between(earlier: State | None, now: State) -> tuple[State, ...]:
    """Every state the transaction had from `earlier` (None: before it began) to `now`, both included."""
    path = _PATHS[now]
    return path[path.index(earlier) :] if earlier in path else path if earlier is None else (now,)


def _steps(plan: Plan | None, by_step: Mapping[str, Found]) -> Iterable[str]:
    if plan is None:
        return by_step
    return [*plan.steps, *(step for step in by_step if step not in plan.steps)]


def _fits(step: str, state: State, plan: Plan | None, observed: Mapping[str, str], *, purged: bool) -> bool:
    row_state = observed.get(step, ABSENT)
    if row_state == ABSENT and purged:
        return True
    performs = row_state == "DONE" if plan is None or step not in plan.steps else step in plan.performs
    return row_state in (_PERFORMED_STEP if performs else _PREPARED_STEP)[state]


def _wrong(transaction: str, state: State, step: str, found: Found | None, plan: Plan | None) -> Violation:
    service, row_state = (found.service, found.row.state) if found is not None else (_service_of(plan, step), ABSENT)
    told = f"step {step!r} at {service} is {row_state or 'without a row'}, but the log says {state.name}"
    if row_state == "PREPARED" and state in _ENDED:
        return Violation(Check.ORPHAN_HOLD, transaction, f"{told}: what it holds is never released")
    if row_state in _DECIDED_ROWS and state is State.PREPARING:
        return Violation(Check.DURABILITY, transaction, f"{told}: it acted on a decision that is not stored")
    return Violation(Check.ATOMICITY, transaction, told)


def _service_of(plan: Plan | None, step: str) -> str:
    return plan.steps[step][0] if plan is not None else "?"


def _strays(transaction: str, plan: Plan | None, rows: Sequence[Found]) -> Iterator[Violation]:
    """Rows that stand twice, and rows that no step of the definition leaves."""
    seen: dict[str, str] = {}
    for service, row in rows:
        if row.step in seen:
            text = f"step {row.step!r} has two rows, at {seen[row.step]} and at {service}"
            yield Violation(Check.EXACTLY_ONCE, transaction, text)
        seen[row.step] = service
        if plan is None or plan.steps.get(row.step) == (service, row.operation):
            continue
        expected = plan.steps.get(row.step)
        is_not = f"which has no such step (saga {plan.saga!r})" if expected is None else f"not {expected[1]!r} at {expected[0]}"
        text = f"step {row.step!r} ran {row.operation!r} at {service}, {is_not}"
        yield Violation(Check.DEFINITION, transaction, text)
