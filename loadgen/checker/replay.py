"""R: a service's state is what its handlers make of its ledger, replayed cold from nothing.

Rows have the milliseconds of their two transitions, no number: among those of one millisecond an order is looked for
that the handlers accept. None is a violation, and so is any difference at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

from actors.service import NotYet, Operation, Refused, Service, State
from actors.state import BatchState, OperationState
from loadgen.checker.report import CheckReport, Invariant
from loadgen.checker.stores import LedgerView
from orchestrator.app import App, LedgerRow
from orchestrator.saga import decode_plain


class _Transition(NamedTuple):
    """One step of a row: its first (prepare or perform) or its last (commit or rollback)."""

    ms: int
    last: bool
    transaction: str
    step: str


def check_replay(app: App, ledgers: Mapping[str, LedgerView], rows_max: int, report: CheckReport) -> None:
    """Replay every ledger that can be and compare.

    Args:
        app: its services' handlers run.
        ledgers: by service.
        rows_max: a ledger with more rows is left out.
        report: told of every difference.
    """
    for name, ledger in ledgers.items():
        service = app.by_service[name]
        if not isinstance(service, Service) or any(operation.asks for operation in service.bound.values()):
            report.left_out.append(f"replay of {name}: what it asked outside is in no ledger")
        elif ledger.purged():
            report.left_out.append(f"replay of {name}: rows were purged")
        else:
            _replay(name, service.bound, ledger, rows_max, report)


def _replay(
    name: str, operations: Mapping[str, Operation], ledger: LedgerView, rows_max: int, report: CheckReport,
) -> None:
    transitions: list[_Transition] = []
    for row in ledger.rows():
        transitions += _transitions(row)
        if len(transitions) > 2 * rows_max:
            report.left_out.append(f"replay of {name}: it has more than {rows_max:,} rows")
            return
    replay = _Replay(operations, ledger)
    for ms, group in groupby(sorted(transitions), key=lambda transition: transition.ms):
        for stuck in replay.run(list(group)):
            text = f"{name} cannot have let step {stuck.step!r} {'finish' if stuck.last else 'begin'} at {ms} ms"
            report.add(Invariant.REPLAYED, stuck.transaction, text)
    report.counts["transitions_replayed"] += len(transitions)
    _compare(name, replay.state, ledger.state(), report)


def _transitions(row: LedgerRow) -> list[_Transition]:
    if row.state == "REFUSED" or not isinstance(row.request, dict):  # neither changed anything
        return []
    first = _Transition(row.prepared_ms, False, row.transaction, row.step)
    if row.state in ("PREPARED", "DONE"):
        return [first]
    return [first, _Transition(row.finished_ms, True, row.transaction, row.step)]


class _Replay:
    def __init__(self, operations: Mapping[str, Operation], ledger: LedgerView) -> None:
        self._state = BatchState(_nothing, tuple)
        self._operations, self._ledger = operations, ledger
        self._begun: set[tuple[str, str]] = set()

    def run(self, group: list[_Transition]) -> list[_Transition]:
        """Apply transitions of one millisecond in an order that works; those that none lets in are returned."""
        # finishing first, as a batch does; a finish whose beginning is in the same group waits for it
        waiting = sorted(group, key=lambda transition: not transition.last)
        while waiting:
            rest = [transition for transition in waiting if not self._apply(transition)]
            if len(rest) == len(waiting):
                return rest
            waiting = rest
        return []

    @property
    def state(self) -> dict[str, Any]:
        """What the ledger makes of nothing, by key."""
        return {key: decode_plain(value) for key, value in self._state.writes.items() if value is not None}

    def _apply(self, transition: _Transition) -> bool:
        key = (transition.transaction, transition.step)
        if transition.last and key not in self._begun:
            return False
        row = next(row for row in self._ledger.rows(transition.transaction) if row.step == transition.step)
        operation = self._operations.get(row.operation)
        state = OperationState(self._state)
        try:
            done = operation is not None and _run(operation, state, row, last=transition.last)
        except Exception:  # noqa: BLE001 - a handler that stumbles over this order: another one, or none, may do
            return False
        if done:
            state.merge()
            self._begun.add(key)
        return done


def _run(operation: Operation, state: State, row: LedgerRow, *, last: bool) -> bool:
    request = operation.request.model_validate(row.request)
    if not last:
        return not isinstance(operation.run(state, request), Refused | NotYet)
    finish = operation.commit if row.state == "COMMITTED" else operation.rollback
    assert finish is not None
    finish(state, request, operation.result.model_validate(row.result))
    return True


def _nothing(_key: str) -> bytes | None:
    """A replay begins with nothing."""
    return None


def _compare(name: str, replayed: Mapping[str, Any], live: Mapping[str, Any], report: CheckReport) -> None:
    missing = set(replayed)
    for key, value in live.items():
        missing.discard(key)
        expected = replayed.get(key)
        if expected is None:
            report.add(Invariant.REPLAYED, key, f"{name} has {value}, its ledger explains nothing of the kind")
        elif not _same(value, expected):
            report.add(Invariant.REPLAYED, key, f"{name} has {value}, its ledger makes it {expected}")
    for key in sorted(missing):
        report.add(Invariant.REPLAYED, key, f"{name} has it no more, its ledger makes it {replayed[key]}")


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same but for the order of texts in a list: entries of one millisecond have none."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list) and all(isinstance(text, str) for text in one):
        return sorted(one) == sorted(map(str, other))
    return bool(one == other)
