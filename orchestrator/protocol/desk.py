"""What an operator asks of one transaction: made durable first, so that there is no act without its record, then done.

Retry and cancel change nothing but the time at which something is tried, or propose what anybody may propose. Resolve
asserts that a parked step has come to what the durable decision requires. Two look at that: here, and in the log inside
the append's transaction, against the decision and the parked steps that it has stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import ErrorCode
from orchestrator.protocol import answers
from orchestrator.protocol.bounds import has_control_characters, is_encodable
from orchestrator.protocol.effects import Joiner, Lookup, Waiter
from orchestrator.protocol.identifiers import is_id, partition_of
from orchestrator.protocol.messages import ActKind, ActRequest, OutcomeMessage, OutcomeStatus
from orchestrator.protocol.records import Act, AppendResult, AppendStatus, Resolved, State
from orchestrator.protocol.transaction import NEVER_MS, Phase

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.protocol.drive import Drive
    from orchestrator.protocol.recovery import Recovery
    from orchestrator.protocol.table import OpenTable
    from orchestrator.protocol.transaction import StepProgress, Transaction

WHO_CHARS_MAX = 256
STEP_CHARS_MAX = 64
REASON_CHARS_MAX = 1_000


class Desk:
    """Takes acts; shares the table, the drive and the recovery with the coordinator.

    Args:
        table: open transactions.
        drive: moves them.
        recovery: has callers told an outcome.
    """

    def __init__(self, table: OpenTable, drive: Drive, recovery: Recovery) -> None:
        self._table, self._drive, self._recovery = table, drive, recovery
        self._waiting: dict[Act | Resolved, list[Waiter]] = {}  # by the record that is on its way to the log

    def act(self, waiter: Waiter, request: ActRequest) -> None:
        """Take an act: its record goes to the log, and what it asks for is done once that is durable."""
        txn = self._table.by_id.get(request.transaction)
        if (problem := _problem_of(request)) is not None:
            answers.reject(self._drive.effects, waiter, ErrorCode.INVALID_INPUT, problem)
        elif not self._table.holds(request.transaction) or (txn is not None and not txn.begun_durable):
            answers.not_ready(self._drive.effects, waiter)
        elif txn is None:  # it has ended, or nobody knows it: the log says which
            self._drive.effects.lookups.append(Lookup(Joiner(waiter, None), "", request.transaction))
        elif request.kind is ActKind.CANCEL and txn.decided is not None:
            self._recovery.join(txn, [Joiner(waiter, None)])
        elif request.kind is ActKind.RESOLVE:
            self._ask_to_resolve(waiter, txn, request)
        elif request.kind in (ActKind.RETRY, ActKind.CANCEL):
            self._append(waiter, Act(txn.id, request.kind, request.who, request.reason, request.at_ms))
        else:
            answers.reject(self._drive.effects, waiter, ErrorCode.INVALID_INPUT, f"kind: {request.kind.name} is no act on one")

    def appended(self, record: Act | Resolved, result: AppendResult) -> None:
        """The log has answered: do what the record says, once, and tell whoever asked."""
        waiters = self._waiting.pop(record, [])
        txn = self._table.by_id.get(record.transaction)
        if result.status is AppendStatus.REFUSED and isinstance(record, Resolved):
            for waiter in waiters:
                self._refuse(waiter, f"step {record.step!r} is not parked any more")
        elif result.status is not AppendStatus.STORED or txn is None:
            self._look_up(waiters, record.transaction)
        elif isinstance(record, Resolved):
            self._resolve(txn, txn.steps[record.step])
            self._tell(waiters, txn, 0, f"step {record.step!r} counts as {_REQUIRED[record.decision]}")
        elif record.kind is ActKind.CANCEL:
            self._recovery.join(txn, [Joiner(waiter, None, cancel=True) for waiter in waiters])
        else:
            count = self._retry(txn)
            self._tell(waiters, txn, count, f"{count} messages were sent again")

    def send_away(self, partitions: Collection[int]) -> None:
        """These partitions are another's: whoever asked something of them asks there."""
        for record in [one for one in self._waiting if partition_of(one.transaction) in partitions]:
            for waiter in self._waiting.pop(record):
                answers.not_ready(self._drive.effects, waiter)

    def _ask_to_resolve(self, waiter: Waiter, txn: Transaction, request: ActRequest) -> None:
        progress = txn.steps.get(request.step)
        if txn.held:
            answers.not_ready(self._drive.effects, waiter)
        elif txn.decided is None:
            self._refuse(waiter, "it is not decided yet, so there is nothing to assert: cancel it, or wait")
        elif progress is None:
            known = ", ".join(txn.steps) or "none: its saga is not in the deployed app"
            answers.reject(
                self._drive.effects, waiter, ErrorCode.INVALID_INPUT, f"step: no {request.step!r}; its steps are {known}")
        elif progress.resolved:
            self._tell([waiter], txn, 0, f"step {request.step!r} was resolved before")
        elif not progress.parked:
            self._refuse(waiter, f"step {request.step!r} is {_standing(progress)}, not parked")
        else:
            self._append(waiter, Resolved(
                txn.id, request.step, txn.decided.decision, request.who, request.reason, request.at_ms,
                not progress.step.after_commit))

    def _retry(self, txn: Transaction) -> int:
        """Try at once what waits or is parked, as far as the retry budgets go; returns how many messages left."""
        drive = self._drive
        before = sum(map(len, drive.effects.commands.values()))
        for progress in txn.steps.values():
            if progress.parked and progress.phase is Phase.WAITING:
                progress.due_ms = NEVER_MS  # taken up like one that was never tried
            elif progress.phase in (Phase.SENT, Phase.FINISHING) and (progress.parked or progress.due_ms != NEVER_MS):
                drive.again(txn, progress, by_hand=True)
        if txn.state is State.COMMITTING:
            drive.perform_ready(txn)
        return sum(map(len, drive.effects.commands.values())) - before

    def _resolve(self, txn: Transaction, progress: StepProgress) -> None:
        """The log has it stored: the step counts as acknowledged."""
        if progress.resolved or progress.phase is Phase.DONE:  # the service was quicker
            return
        if progress.step.after_commit:  # it may lie at the shell still, to be sent again with the next connection
            self._drive.effects.withdrawn.append((progress.step.service, txn.id, progress.step.name))
        txn.resolve(progress)
        if txn.state is State.COMMITTING:
            self._drive.perform_ready(txn)
        self._drive.end_if_done(txn)

    def _append(self, waiter: Waiter, record: Act | Resolved) -> None:
        waiters = self._waiting.setdefault(record, [])
        if not waiters:
            self._drive.effects.records.append(record)
        waiters.append(waiter)

    def _look_up(self, waiters: Collection[Waiter], transaction: str) -> None:
        for waiter in waiters:
            self._drive.effects.lookups.append(Lookup(Joiner(waiter, None), "", transaction))

    def _refuse(self, waiter: Waiter, why: str) -> None:
        answers.reject(self._drive.effects, waiter, ErrorCode.NOT_RESOLVABLE, why)

    def _tell(self, waiters: Collection[Waiter], txn: Transaction, count: int, what: str) -> None:
        for waiter in waiters:
            self._drive.effects.outcomes.append((waiter, OutcomeMessage(
                waiter.number, txn.id, OutcomeStatus.ACTED, message=what, attempts=count)))


_REQUIRED = ("committed", "rolled back")  # by decision


def check_act(who: object, reason: object, step: object = "") -> str | None:
    """What is wrong with who acts, why, and on which step, for a person; None if nothing is."""
    if not isinstance(who, str) or not 1 <= len(who) <= WHO_CHARS_MAX:
        return f"who: must be text of 1 to {WHO_CHARS_MAX} characters"
    if not isinstance(reason, str) or len(reason) > REASON_CHARS_MAX:
        return f"reason: must be text of at most {REASON_CHARS_MAX} characters"
    if not isinstance(step, str) or len(step) > STEP_CHARS_MAX:
        return f"step: must be the name of one, of at most {STEP_CHARS_MAX} characters"
    for name, text in (("who", who), ("reason", reason.replace("\n", "")), ("step", step)):
        if has_control_characters(text):
            return f"{name}: must be without control characters"
        if not is_encodable(text):
            return f"{name}: must be valid UTF-8"
    return None


def _problem_of(request: ActRequest) -> str | None:
    """What is wrong with a request, whoever has sent it."""
    if not is_id(request.transaction):
        return "transaction: an id is 32 lower-case hexadecimal digits"
    return check_act(request.who, request.reason, request.step)


def _standing(progress: StepProgress) -> str:
    return "acknowledged" if progress.phase.name == "DONE" else "still being tried"
