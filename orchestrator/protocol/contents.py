"""What a transaction asks of a step and tells its callers: kinds of messages, requests, outcomes."""

from __future__ import annotations

from typing import Any

from orchestrator.protocol.bounds import REQUEST_BYTES_MAX
from orchestrator.protocol.messages import Kind, OutcomeMessage, OutcomeStatus, StepResult
from orchestrator.protocol.records import Decision, State
from orchestrator.protocol.transaction import UNREAD, Phase, StepProgress, Transaction
from orchestrator.saga import Context, Step, decode_plain, encode_plain


def outcome_of(txn: Transaction, number: int) -> OutcomeMessage:
    """The outcome of a decided transaction, as one client's numbered request is told it."""
    decided = txn.decided
    assert decided is not None
    if decided.decision is Decision.ABORT:
        return OutcomeMessage(number, txn.id, OutcomeStatus.ABORTED, [], decided.code, decided.message,
                              decided.service, decided.step, decided.attempts)
    results = [StepResult(name, p.result) for name, p in txn.steps.items() if p.result and not p.step.after_commit]
    return OutcomeMessage(number, txn.id, OutcomeStatus.COMMITTED, results)


def build_request(txn: Transaction, step: Step) -> bytes:
    """The step's request from the input and from the results of the steps it follows."""
    assert txn.saga is not None
    results: dict[str, Any] = {name: _value(txn.steps[name]) for name in txn.saga.ancestors[step.name]}
    request = encode_plain(step.request(Context(txn.id, txn.input, results)))
    if len(request) > REQUEST_BYTES_MAX:
        raise ValueError(f"a request of {len(request)} bytes, at most {REQUEST_BYTES_MAX}")
    return request


def finish_kind(txn: Transaction, step: Step) -> Kind:
    """Which message ends a step of a decided transaction."""
    if step.after_commit:
        return Kind.PERFORM
    return Kind.COMMIT if txn.state is State.COMMITTING else Kind.ROLLBACK


def kind_due(txn: Transaction, progress: StepProgress) -> Kind:
    """Which message a step waits to be sent, or to be answered."""
    return Kind.PREPARE if progress.phase is Phase.SENT else finish_kind(txn, progress.step)


def readable(progress: StepProgress) -> bool:
    """Whether what the step has answered is known."""
    if progress.step.after_commit:
        return progress.phase is Phase.DONE and not progress.resolved  # of one that was resolved, nobody will ever tell it
    return progress.phase is Phase.DONE or progress.result is not None


def _value(progress: StepProgress) -> Any:
    if progress.value is UNREAD:
        progress.value = decode_plain(progress.result or b"")
    return progress.value
