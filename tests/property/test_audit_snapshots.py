"""However a lawful run is cut into snapshots the audit finds nothing; whatever row is changed in an ended one it finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.app import StepState
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import State
from orchestrator.saga import Step
from orchestrator.verdict import Found, Plan, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Mapping

ID = make_id(1_700_000_000_000, 1, 1, 1)
STEPS = {"hold": "stock", "charge": "bank", "ship": "depot"}
PLAN = Plan("buy", [
    *(Step(name=name, service=service, request=dict, compensation="undo") for name, service in STEPS.items()),
    Step(name="tell", service="mail", request=dict, after_commit=True)])
ROW_STATES = ["", "PREPARED", "REFUSED", "COMMITTED", "ROLLED_BACK", "DONE"]


@dataclass
class World:
    """What is stored at some instant."""

    log: State | None = None
    rows: dict[str, str] = field(default_factory=dict)


class Run:
    """Every instant of one transaction, from before it began."""

    def __init__(self) -> None:
        self.instants = [World()]

    def log(self, state: State) -> None:
        self.instants.append(World(state, dict(self.instants[-1].rows)))

    def row(self, step: str, state: str) -> None:
        last = self.instants[-1]
        self.instants.append(World(last.log, {**last.rows, step: state}))

    def rows(self, states: Mapping[str, str]) -> None:
        for step, state in states.items():
            self.row(step, state)


@st.composite
def lawful_runs(draw: st.DrawFn) -> list[World]:
    """Every instant of one transaction from before it began to its end, as the protocol allows it."""
    run = Run()
    run.log(State.PREPARING)
    if draw(st.booleans()):
        run.rows(dict.fromkeys(draw(st.permutations(list(STEPS))), "PREPARED"))
        run.log(State.COMMITTING)
        run.rows({step: PLAN.committed[step] for step in draw(st.permutations([*STEPS, "tell"]))})
        run.log(State.COMMITTED)
        return run.instants
    sent = draw(st.lists(st.sampled_from(sorted(STEPS)), unique=True))
    votes = {step: draw(st.sampled_from(["PREPARED", "REFUSED", "lost"])) for step in sent}
    late = {step for step, vote in votes.items() if vote == "PREPARED" and draw(st.booleans())}
    run.rows({step: vote for step, vote in votes.items() if vote != "lost" and step not in late})
    run.log(State.ABORTING)
    run.rows(dict.fromkeys(sorted(late), "PREPARED"))  # after the decision, before its rollback
    run.rows(dict.fromkeys((step for step in draw(st.permutations(sent)) if votes[step] != "REFUSED"), "ROLLED_BACK"))
    run.log(State.ABORTED)
    return run.instants


def verdict(earlier: World, ledgers: dict[str, World], later: World) -> Verdict:
    assert later.log is not None
    rows = []
    for step, (service, operation) in PLAN.steps.items():
        state = ledgers[step].rows.get(step, "")
        if state:
            rows.append(Found(service, StepState(ID, step, operation, state)))
    return judge(ID, later.log, PLAN, rows, earlier=lambda: earlier.log, purged=False)


@given(lawful_runs(), st.data())
def test_snapshots_of_a_lawful_run_are_never_a_violation(run: list[World], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(run) - 1), min_size=6, max_size=6)))
    order = data.draw(st.permutations(list(PLAN.steps)))  # in which the ledgers were opened
    ledgers = {step: run[cut] for step, cut in zip(order, cuts[1:5], strict=True)}
    if run[cuts[5]].log is not None:
        assert not verdict(run[cuts[0]], ledgers, run[cuts[5]]).violations


@given(lawful_runs(), st.sampled_from(list(PLAN.steps)), st.sampled_from(ROW_STATES))
def test_a_changed_row_of_an_ended_transaction_is_found(run: list[World], step: str, state: str) -> None:
    end = run[-1]
    changed = World(end.log, {**end.rows, step: state})
    found = bool(verdict(end, dict.fromkeys(PLAN.steps, changed), end).violations)
    harmless = {"", "REFUSED", "ROLLED_BACK"} if end.log is State.ABORTED and step != "tell" else set()
    assert found == (state != end.rows.get(step, "") and state not in harmless)


@given(lawful_runs(), st.data())
def test_a_ledger_read_after_the_log_is_what_the_order_of_opening_prevents(run: list[World], data: st.DataObject) -> None:
    """Were the log read first, a lawful row could look like one without a decision: this is why it is read again."""
    decided = next(at for at, world in enumerate(run) if world.log in (State.COMMITTING, State.ABORTING))
    after = data.draw(st.integers(decided, len(run) - 1))
    rows = run[after].rows.values()
    acted = {"COMMITTED", "ROLLED_BACK", "DONE"} & set(rows)
    checks = {one.check for one in verdict(run[1], dict.fromkeys(PLAN.steps, run[after]), run[1]).violations}
    assert ("durability" in checks) == bool(acted)
