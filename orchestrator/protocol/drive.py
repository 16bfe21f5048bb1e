"""What one transaction does next: prepare in DAG order, decide once, finish until everybody has acknowledged."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import ErrorCode, InvariantViolation
from orchestrator.protocol.contents import build_request, finish_kind, kind_due, outcome_of, readable
from orchestrator.protocol.counts import Counts
from orchestrator.protocol.effects import Effects, Notice
from orchestrator.protocol.messages import Command, Kind, Reply, Status
from orchestrator.protocol.records import Decided, Decision, Ended, Parked, State
from orchestrator.protocol.table import OpenTable
from orchestrator.protocol.timers import Timers
from orchestrator.protocol.traffic import Traffic, TrafficPolicy
from orchestrator.protocol.transaction import NEVER_MS, Event, Phase, StepProgress, Transaction, durable_event
from orchestrator.saga import RollbackOrder

NOBODY = ""
PAUSED_LOOK_MS = 1_000  # what is held back is looked at so often, and when something is resumed


class Drive:
    """Moves transactions; `effects` and `now_ms` are those of the coordinator's call under way.

    Args:
        timers: where due times are kept.
        table: what is open.
        policy: how much may be sent to a service that is ill.
    """

    def __init__(self, timers: Timers, table: OpenTable, policy: TrafficPolicy) -> None:
        self.effects = Effects()
        self.now_ms = 0
        self.traffic = Traffic(policy, self._tell_operator)
        self.counts = Counts()
        self.paused: frozenset[str] = frozenset()  # services to which nothing new is sent
        self._timers = timers
        self._table = table

    def forget(self, txn: Transaction) -> None:
        """Drop a transaction: it has ended, or is another shard's."""
        for progress in txn.steps.values():
            self.traffic.left(progress)
        self._table.forget(txn)

    def start(self, txn: Transaction) -> None:
        """Begun is durable: send what can be prepared, or abort what was cancelled meanwhile."""
        txn.begun_durable = True
        if txn.cancelled:
            self.decide_abort(txn, ErrorCode.CANCELLED, "cancelled by the caller")
            return
        self._prepare_roots(txn)
        self.arm(txn, txn.deadline_ms)  # after the prepares: their attempts are mostly due earlier, and one entry is enough

    def _prepare_roots(self, txn: Transaction) -> None:
        """Send the prepares that wait for no other step."""
        assert txn.saga is not None
        for step in txn.saga.prepares:
            if not step.after and txn.deciding is None:
                self._send_prepare(txn, txn.steps[step.name])

    def _voted_yes(self, txn: Transaction, progress: StepProgress) -> None:
        """Send the prepares that waited for this vote; decide COMMIT when no vote is missing."""
        assert txn.saga is not None
        txn.votes_missing -= 1
        if not txn.votes_missing:
            self._decide(txn, Decided(txn.id, Decision.COMMIT, self.now_ms))
            return
        for step in txn.saga.dependents[progress.step.name]:
            ready = all(txn.steps[name].phase is Phase.YES for name in step.after)
            if ready and txn.deciding is None:
                self._send_prepare(txn, txn.steps[step.name])

    def decide_abort(self, txn: Transaction, code: str, message: str, progress: StepProgress | None = None) -> None:
        """Propose ABORT, unless a decision is taken or on its way to the log (then that one wins)."""
        if txn.deciding is not None or txn.decided is not None:
            return
        step = progress.step if progress else None
        attempts = progress.attempt if progress else 0
        self._decide(txn, Decided(
            txn.id, Decision.ABORT, self.now_ms, str(code), message,
            step.service if step else "", step.name if step else "", attempts))

    def decided(self, txn: Transaction, decided: Decided) -> None:
        """The log has this decision stored: obey it, tell the caller, finish."""
        if txn.decided is not None:
            if txn.decided.decision is not decided.decision:
                raise InvariantViolation(f"{txn!r}: the log answered two decisions")
            return
        if txn.deciding is not None:  # not one that an earlier incarnation has counted
            self.counts.decide(txn.begun.saga, decided.code, self.now_ms - txn.begun.began_ms)
        txn.deciding = None
        txn.decided = decided
        txn.move(durable_event(decided.decision))
        if decided.decision is Decision.ABORT:
            txn.unfinished -= txn.performs_waiting  # what is performed after a commit takes no part
            self._notice(txn, "aborted", "INFO", service=decided.service, step=decided.step, attempt=decided.attempts,
                         code=decided.code, message=decided.message)
        self.finish(txn)

    def finish(self, txn: Transaction) -> None:
        """Tell the outcome if it is known; send Commit or Rollback to all, and Perform where its reads are known."""
        self.tell(txn)
        commit = txn.state is State.COMMITTING
        for progress in list(txn.steps.values()):
            if progress.step.after_commit or progress.phase in (Phase.FINISHING, Phase.DONE):
                continue
            if commit:
                self._send_finish(txn, progress, Kind.COMMIT)
            elif progress.phase is not Phase.WAITING or txn.recovered:
                self._rollback_in_order(txn, progress)
            else:
                progress.phase = Phase.DONE  # never sent: there is nothing to undo
                txn.unfinished -= 1
        if commit:
            self.perform_ready(txn)
        self.end_if_done(txn)

    def tell(self, txn: Transaction) -> None:
        """Answer everybody who waits, as soon as the decision is durable and (for a commit) the results are known."""
        if txn.decided is None or not txn.waiters or (txn.state is State.COMMITTING and not txn.results_known):
            return
        for waiter in txn.waiters:
            self.effects.outcomes.append((waiter, outcome_of(txn, waiter.number)))
        txn.waiters.clear()

    def reply(self, txn: Transaction, reply: Reply) -> None:
        """A participant has answered."""
        progress = txn.steps.get(reply.step)
        if progress is None:
            self._notice(txn, "unknown_step", "ERROR", step=reply.step, code=reply.code, message=reply.message)
        elif reply.kind is Kind.PREPARE:
            self._vote(txn, progress, reply)
        else:
            self._acknowledge(txn, progress, reply)

    def due(self, txn: Transaction) -> None:
        """Some due time of the transaction has come: the deadline, or attempts to repeat."""
        if txn.state is State.PREPARING and txn.deciding is None and self.now_ms >= txn.deadline_ms:
            self._deadline(txn)
        for progress in txn.steps.values():
            if progress.due_ms <= self.now_ms:  # none is, once a decision is on its way
                self.again(txn, progress)
        self._rearm(txn)

    def arm(self, txn: Transaction, due_ms: int) -> None:
        """Have the transaction looked at no later than `due_ms`."""
        if due_ms < txn.armed_ms:
            txn.armed_ms = due_ms
            self._timers.arm(txn.id, due_ms)

    def wake(self, due_ms: int) -> None:
        """Have the coordinator's tick called at `due_ms`, for nobody in particular."""
        self._timers.arm(NOBODY, due_ms)

    def _rearm(self, txn: Transaction) -> None:
        txn.armed_ms = NEVER_MS
        due_ms = min((p.due_ms for p in txn.steps.values()), default=NEVER_MS)
        if txn.state is State.PREPARING and txn.deciding is None:
            due_ms = min(due_ms, txn.deadline_ms)
        if due_ms < NEVER_MS:
            self.arm(txn, due_ms)

    def _decide(self, txn: Transaction, decided: Decided) -> None:
        txn.deciding = decided
        for progress in txn.steps.values():
            progress.due_ms = NEVER_MS
        self.effects.records.append(decided)

    def _send_prepare(self, txn: Transaction, progress: StepProgress) -> None:
        if self.traffic.broken and self._held(txn, progress):
            return  # it stays unsent: if the transaction aborts meanwhile, there is nothing to undo
        try:
            progress.request = build_request(txn, progress.step)
        except Exception as error:  # noqa: BLE001 - user code
            self._builder_failed(txn, progress, error)
            return
        progress.phase = Phase.SENT
        self._send(txn, progress, Kind.PREPARE, progress.request)

    def _builder_failed(self, txn: Transaction, progress: StepProgress, error: Exception) -> None:
        message = f"step {progress.step.name!r}: its request builder raised {type(error).__name__}"
        if progress.step.after_commit:
            self._park(txn, progress, ErrorCode.BUILDER_FAILED, message)
            progress.due_ms = self.now_ms + progress.step.finish_retry.backoff_ms_max
            self.arm(txn, progress.due_ms)
        else:
            self.decide_abort(txn, ErrorCode.BUILDER_FAILED, message, progress)

    def _send(self, txn: Transaction, progress: StepProgress, kind: Kind, request: bytes = b"") -> None:
        if self.paused and self._held_back(txn, progress, kind):
            return
        progress.attempt += 1
        step = progress.step
        policy = step.prepare_retry if kind is Kind.PREPARE else step.finish_retry
        timeout_ms = policy.backoff_ms_max if progress.parked else self.traffic.timeout_ms(progress, policy)
        progress.due_ms = self.now_ms + timeout_ms
        self.arm(txn, progress.due_ms)
        self.traffic.sent(progress, self.now_ms)
        self.effects.command(
            step.service, Command(txn.id, step.name, kind, progress.attempt, txn.epoch, step.operation, request))

    def _held_back(self, txn: Transaction, progress: StepProgress, kind: Kind) -> bool:
        """Whether nothing is sent since the service is paused: what holds or performs waits, what ends a hold goes on."""
        if progress.step.service not in self.paused or kind not in (Kind.PREPARE, Kind.PERFORM):
            return False
        progress.failing, progress.message = ErrorCode.PAUSED, f"{progress.step.service} is paused by an operator"
        progress.due_ms = self.now_ms + PAUSED_LOOK_MS
        self.arm(txn, progress.due_ms)
        return True

    def _send_finish(self, txn: Transaction, progress: StepProgress, kind: Kind) -> None:
        progress.phase, progress.attempt, progress.answered = Phase.FINISHING, 0, 0
        if self.traffic.broken and self._held(txn, progress):
            return
        self._send(txn, progress, kind, progress.request if kind is Kind.PERFORM else b"")

    def _rollback_in_order(self, txn: Transaction, progress: StepProgress) -> None:
        """Parallel unless the saga asks for the reverse of the DAG; there a parked step gives up its place."""
        assert txn.saga is not None
        if txn.saga.rollback_order is RollbackOrder.REVERSED:
            for other in txn.steps.values():
                follows = progress.step.name in txn.saga.ancestors[other.step.name]
                if follows and not other.step.after_commit and other.phase is not Phase.DONE and not other.parked and (
                        other.phase is not Phase.WAITING or txn.recovered):
                    return
        self._send_finish(txn, progress, Kind.ROLLBACK)

    def perform_ready(self, txn: Transaction) -> None:
        """Send Perform where the results that it reads are known; park what waits for one that an operator resolved."""
        assert txn.saga is not None
        if not txn.performs_waiting:
            return
        for step in txn.saga.performs:
            progress = txn.steps[step.name]
            if progress.phase is not Phase.WAITING or (progress.parked and progress.due_ms != NEVER_MS):
                continue  # one parked by an earlier incarnation has no due time: it is taken up like any other
            unread = [name for name in txn.saga.ancestors[step.name] if not readable(txn.steps[name])]
            if not unread:
                self._perform(txn, progress)
            elif all(txn.steps[name].resolved for name in unread):
                self._park(txn, progress, ErrorCode.SERVICE_UNAVAILABLE, (
                    f"it reads the result of {', '.join(unread)}, resolved by an operator: its service has not told it"))

    def _perform(self, txn: Transaction, progress: StepProgress) -> None:
        if txn.quarantined:
            self._park(txn, progress, ErrorCode.QUARANTINED, "quarantined: no user code runs for this transaction")
            return
        try:
            progress.request = build_request(txn, progress.step)
        except Exception as error:  # noqa: BLE001 - user code
            self._builder_failed(txn, progress, error)
            return
        txn.performs_waiting -= 1
        self._send_finish(txn, progress, Kind.PERFORM)

    def _vote(self, txn: Transaction, progress: StepProgress, reply: Reply) -> None:
        if reply.status is Status.FENCED:
            self.effects.fenced.add(txn.partition)
            return
        if txn.state is not State.PREPARING or txn.deciding is not None or progress.phase is not Phase.SENT:
            return
        if reply.status in (Status.YES, Status.NO, Status.VIOLATION):
            self.traffic.answered(progress, reply.attempt, self.now_ms)
        if reply.status is Status.YES:
            progress.phase, progress.result, progress.due_ms = Phase.YES, reply.result, NEVER_MS
            self._voted_yes(txn, progress)
        elif reply.status in (Status.NO, Status.VIOLATION):
            progress.phase = Phase.REFUSED
            self.decide_abort(txn, reply.code or ErrorCode.VIOLATION, reply.message, progress)
        elif reply.attempt == progress.attempt:
            self._note_transient(txn, progress, reply)
            self._retry_prepare(txn, progress, reply)

    def _note_transient(self, txn: Transaction, progress: StepProgress, reply: Reply) -> None:
        progress.answered = progress.attempt
        if reply.status is Status.ERROR:
            self.traffic.failed(txn.id, progress, reply.code, self.now_ms)
        else:
            self.traffic.asked_again(progress, self.now_ms)

    def _retry_prepare(self, txn: Transaction, progress: StepProgress, reply: Reply) -> None:
        policy = progress.step.prepare_retry
        progress.failing = reply.code if reply.status is Status.ERROR else ""
        progress.message = reply.message
        self._step_notice(txn, "retry", "DEBUG", progress, reply)
        if reply.status is Status.ERROR and policy.exhausted(progress.attempt):
            self._unavailable(txn, progress)
            return
        progress.due_ms = self.now_ms + policy.delay_ms(progress.attempt, f"{txn.id}/{progress.step.name}")
        self.arm(txn, progress.due_ms)

    def _unavailable(self, txn: Transaction, progress: StepProgress) -> None:
        why = f"{progress.step.service} did not answer step {progress.step.name!r} after {progress.attempt} attempts"
        said = f"; last: {progress.failing}: {progress.message}" if progress.failing else ""
        self.decide_abort(txn, ErrorCode.SERVICE_UNAVAILABLE, why + said, progress)

    def _deadline(self, txn: Transaction) -> None:
        pending = [p for p in txn.steps.values() if p.due_ms < NEVER_MS]  # sent, or held
        failing = next((p for p in pending if p.failing), None)
        if failing is not None:
            self._unavailable(txn, failing)
            return
        first = pending[0] if pending else None  # nobody is asked where the saga is not deployed
        waits = f" while step {first.step.name!r} waited for {first.step.service}" if first else ""
        self.decide_abort(
            txn, ErrorCode.TIMEOUT, f"not decided within {txn.begun.duration_ms} ms{waits}", first)

    def again(self, txn: Transaction, progress: StepProgress, *, by_hand: bool = False) -> None:
        """Repeat what was not answered in time, or was answered transiently; send what was held.

        Nothing is given up because of a try by hand.
        """
        if self.paused and self._held_back(txn, progress, kind_due(txn, progress)):
            return
        silent = progress.attempt > progress.answered and not by_hand
        if silent:
            self.traffic.unanswered(txn.id, progress, self.now_ms)
        if progress.phase is Phase.SENT:
            if silent and progress.step.prepare_retry.exhausted(progress.attempt):
                self._unavailable(txn, progress)
            elif not self._postponed(txn, progress):
                self._repeat(txn, progress, Kind.PREPARE, silent=silent)
        elif progress.phase is Phase.FINISHING:
            kind = finish_kind(txn, progress.step)
            if not by_hand and not progress.parked and progress.step.finish_retry.exhausted(progress.attempt):
                self._park(txn, progress, progress.failing or ErrorCode.SERVICE_UNAVAILABLE,
                           progress.message or f"no answer after {progress.attempt} attempts")
            if not self._postponed(txn, progress):
                self._repeat(txn, progress, kind, silent=silent)
        else:  # a prepare that was held, or a perform whose request could not be built
            progress.due_ms = NEVER_MS
            (self._perform if progress.step.after_commit else self._send_prepare)(txn, progress)

    def _repeat(self, txn: Transaction, progress: StepProgress, kind: Kind, *, silent: bool) -> None:
        if silent:
            self._step_notice(txn, "attempt_timeout", "DEBUG", progress, None)
        self._send(txn, progress, kind, progress.request if kind in (Kind.PREPARE, Kind.PERFORM) else b"")

    def _postponed(self, txn: Transaction, progress: StepProgress) -> bool:
        """Whether the service has had as many repeats as it may: this one is looked at again later, each at another time."""
        if self.traffic.broken and self._held(txn, progress):
            return True
        if not progress.attempt or self.traffic.may_repeat(progress, self.now_ms):
            return False
        policy = progress.step.prepare_retry if progress.phase is Phase.SENT else progress.step.finish_retry
        progress.due_ms = self.now_ms + policy.postponed_ms(self.now_ms, f"{txn.id}/{progress.step.name}")
        self.arm(txn, progress.due_ms)
        return True

    def _held(self, txn: Transaction, progress: StepProgress) -> bool:
        """Whether the breaker of the step's service keeps this message back: it is looked at again soon."""
        wait_ms = self.traffic.held_ms(txn.id, progress, self.now_ms)
        if not wait_ms:
            return False
        if txn.state is State.PREPARING and not progress.failing:
            progress.failing, progress.message = ErrorCode.UNAVAILABLE, "its circuit breaker is open"
        progress.due_ms = self.now_ms + wait_ms
        self.arm(txn, progress.due_ms)
        return True

    def _acknowledge(self, txn: Transaction, progress: StepProgress, reply: Reply) -> None:
        if reply.status is Status.FENCED:
            self.effects.fenced.add(txn.partition)
        elif progress.phase is not Phase.FINISHING or reply.kind is not finish_kind(txn, progress.step):
            return
        elif reply.status is Status.ACK:
            self._acknowledged(txn, progress, reply)
        elif reply.status is Status.VIOLATION:
            progress.due_ms = NEVER_MS  # a violation is not retried
            self.traffic.asked_again(progress, self.now_ms)
            self._park(txn, progress, reply.code or ErrorCode.VIOLATION, reply.message)
        elif reply.attempt == progress.attempt:
            self._note_transient(txn, progress, reply)
            self._retry_finish(txn, progress, reply)

    def _acknowledged(self, txn: Transaction, progress: StepProgress, reply: Reply) -> None:
        progress.phase, progress.due_ms = Phase.DONE, NEVER_MS
        self.traffic.answered(progress, reply.attempt, self.now_ms)
        if progress.resolved:
            txn.unsettled -= 1  # it counted as ended before
        else:
            txn.unfinished -= 1
        if progress.result is None:
            progress.result = reply.result
        if progress.parked and (progress.resolved or not txn.ended):
            progress.parked = False
            self.effects.records.append(Parked(txn.id, progress.step.name, "", "", self.now_ms))
        if txn.state is State.COMMITTING:
            self.tell(txn)
            self.perform_ready(txn)
        elif txn.saga is not None and txn.saga.rollback_order is RollbackOrder.REVERSED:
            self.finish(txn)
            return
        self.end_if_done(txn)

    def _retry_finish(self, txn: Transaction, progress: StepProgress, reply: Reply) -> None:
        policy = progress.step.finish_retry
        progress.failing, progress.message = reply.code, reply.message
        self._step_notice(txn, "retry", "DEBUG", progress, reply)
        refused = reply.status is Status.NO  # only a perform can be refused: permanent, so an operator has to look
        if not progress.parked and (refused or policy.exhausted(progress.attempt)):
            self._park(txn, progress, reply.code, reply.message)
        delay_ms = policy.delay_ms(progress.attempt, f"{txn.id}/{progress.step.name}/finish")
        progress.due_ms = self.now_ms + (policy.backoff_ms_max if progress.parked else delay_ms)
        self.arm(txn, progress.due_ms)

    def _park(self, txn: Transaction, progress: StepProgress, code: str, message: str) -> None:
        if progress.parked or txn.ended:
            return
        progress.parked = txn.troubled = True
        self._table.weigh(txn)
        self.traffic.left(progress)  # somebody has to look: it must not keep new transactions out meanwhile
        self.effects.records.append(Parked(
            txn.id, progress.step.name, str(code), message, self.now_ms, progress.step.service))
        self._notice(txn, "parked", "ERROR", service=progress.step.service, step=progress.step.name,
                     attempt=progress.attempt, code=str(code), message=message)
        if txn.state is State.COMMITTING:
            self.tell(txn)
        elif txn.state is State.ABORTING and txn.saga is not None and txn.saga.rollback_order is RollbackOrder.REVERSED:
            self.finish(txn)

    def end_if_done(self, txn: Transaction) -> None:
        """End it if every step has been acknowledged, or counts as such."""
        if txn.troubled:
            self._table.weigh(txn)
        if txn.unfinished or txn.saga is None or txn.state not in (State.COMMITTING, State.ABORTING):
            return  # without its definition nobody knows what has to be acknowledged
        if not txn.ended:
            txn.ended = True
            assert txn.decided is not None
            self.effects.records.append(Ended(txn.id, self.now_ms))
            self.counts.end(txn.begun.saga, txn.decided.code, self.now_ms - txn.decided.at_ms)
        if txn.unsettled:  # it is held, and what was resolved is repeated, until its ledger agrees
            self._table.weigh(txn)
            return
        txn.move(Event.ALL_ACKNOWLEDGED)
        self.forget(txn)

    def _notice(self, txn: Transaction, event: str, level: str, **fields: Any) -> None:
        self.effects.notices.append(Notice(event, level, txn.id, **fields))

    def _tell_operator(self, notice: Notice) -> None:
        self.effects.notices.append(notice)  # of the call under way

    def _step_notice(self, txn: Transaction, event: str, level: str, progress: StepProgress, reply: Reply | None) -> None:
        code, message = (reply.code, reply.message) if reply else ("", "")
        self._notice(txn, event, level, service=progress.step.service, step=progress.step.name, attempt=progress.attempt,
                     code=code, message=message)
