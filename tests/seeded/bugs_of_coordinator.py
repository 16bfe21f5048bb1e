"""Mistakes of the shard: core, recovery, and the shell that appends for it."""

from __future__ import annotations

from typing import Final

from seeded.patching import Bug, Edit

_DRIVE, _CORE = "orchestrator.protocol.drive:Drive", "orchestrator.protocol.coordinator:Coordinator"
_RECOVERY = "orchestrator.protocol.recovery:Recovery"

_DECIDE_COMMIT = "self._decide(txn, Decided(txn.id, Decision.COMMIT, self.now_ms))"
_SECOND_DECISION = Edit(
    f"{_DRIVE}.decide_abort", "if txn.deciding is not None or txn.decided is not None:", "if txn.decided is not None:")

BEFORE_THE_DECISION: Final = (
    Bug("prepares leave with their Begun", "the first prepares leave while Begun is on its way to the log", "1 10d",
        (Edit(f"{_CORE}._submit", "self._drive.effects.records.append(admitted.begun)",
              "self._drive.effects.records.append(admitted.begun)\n        self._drive.start(admitted)"),)),
    Bug("commands leave with their decision", "commits leave while COMMIT is on its way to the log", "5",
        (Edit(f"{_DRIVE}._voted_yes", _DECIDE_COMMIT,
              f"{_DECIDE_COMMIT}\n        for each in txn.saga.prepares:\n"
              "            self._send(txn, txn.steps[each.name], Kind.COMMIT)"),)),
    Bug("outcome told before it is durable", "the caller hears COMMITTED while COMMIT is on its way to the log", "5",
        (Edit(f"{_DRIVE}._voted_yes", _DECIDE_COMMIT,
              "from orchestrator.protocol.messages import OutcomeMessage, OutcomeStatus\n        "
              f"{_DECIDE_COMMIT}\n        for waiter in txn.waiters:\n            self.effects.outcomes.append(("
              "waiter, OutcomeMessage(waiter.number, txn.id, OutcomeStatus.COMMITTED)))"),)),
    Bug("performed before the commit", "what is never undone is performed as soon as all votes are in", "77",
        (Edit(f"{_DRIVE}._voted_yes", _DECIDE_COMMIT, f"{_DECIDE_COMMIT}\n        self.perform_ready(txn)"),)),
    Bug("decided with a vote missing", "COMMIT is decided one vote too early", "4",
        (Edit(f"{_DRIVE}._voted_yes", "if not txn.votes_missing:", "if txn.votes_missing <= 1:"),)),
    Bug("a vote that comes twice counts twice", "a doubled yes stands for the one that is missing", "26",
        (Edit(f"{_DRIVE}._vote", " or progress.phase is not Phase.SENT", ""),)),
    Bug("an error counts as a yes", "a transient error is taken for a vote", "38",
        (Edit(f"{_DRIVE}._vote", "if reply.status is Status.YES:", "if reply.status in (Status.YES, Status.ERROR):"),)),
    Bug("a reply finds the newest transaction", "replies are matched by the conversation, not by the transaction", "39",
        (Edit(f"{_CORE}.receive", "txn = self._table.by_id.get(reply.transaction)",
              "txn = self._table.by_id.get(reply.transaction) or next(reversed(self._table.by_id.values()), None)"),)),
    Bug("the deadline aborts over a COMMIT in flight", "whoever waits for the log too long takes the transaction for aborted",
        "50", (Edit(f"{_DRIVE}.due", "txn.deciding is None and ", ""),
               Edit(f"{_DRIVE}._deadline", "failing = next(",
                    "if txn.deciding is not None:\n        self.decided(txn, Decided(txn.id, Decision.ABORT, self.now_ms))\n"
                    "        return\n    failing = next("))),
    Bug("own proposal obeyed", "ABORT is proposed over a COMMIT in flight, and obeyed though the log answers COMMIT", "50 65",
        (_SECOND_DECISION, Edit(f"{_CORE}._decided", "self._drive.decided(txn, result.decided)",
                                "self._drive.decided(txn, record)"))),
    Bug("cancelled at once", "a cancel is told ABORTED without waiting for which decision the log has", "47",
        (Edit(f"{_RECOVERY}.join", "if joiner.cancel:",
              "if joiner.cancel:\n            txn.waiters.remove(joiner.waiter)\n"
              "            self._drive.effects.outcomes.append((joiner.waiter, "
              "answers.OutcomeMessage(joiner.waiter.number, txn.id, answers.OutcomeStatus.ABORTED)))"),)),
)

AFTER_THE_DECISION: Final = (
    Bug("ended before the last ack", "Ended is written while one acknowledgement is missing", "8",
        (Edit(f"{_DRIVE}.end_if_done", "if txn.unfinished or", "if txn.unfinished > 1 or"),)),
    Bug("ended when parked", "a parked step counts as acknowledged", "76",
        (Edit(f"{_DRIVE}._park", "progress.parked = txn.troubled = True",
              "progress.parked = txn.troubled = True\n    txn.unfinished -= 1"),), "trip"),
    Bug("parked for ever", "a parked step is never tried again", "76",
        (Edit(f"{_DRIVE}.again", "self._park(txn, progress, progress.failing or ErrorCode.SERVICE_UNAVAILABLE,\n",
              "progress.due_ms = NEVER_MS\n            return self._park(txn, progress, progress.failing or "
              "ErrorCode.SERVICE_UNAVAILABLE,\n"),), "trip"),
    Bug("only the contacted are rolled back", "after a recovery, steps not sent by this life are left alone", "3",
        (Edit(f"{_DRIVE}.finish", " or txn.recovered:", ":"),)),
    Bug("only votes are rolled back", "a prepare that was sent and not answered is not rolled back", "26 31",
        (Edit(f"{_DRIVE}.finish", "progress.phase is not Phase.WAITING or txn.recovered",
              "progress.phase is Phase.YES or txn.recovered"),)),
    Bug("rollbacks in any order", "a saga that asks for the reversed order does not get it", "76",
        (Edit(f"{_DRIVE}._rollback_in_order", "if txn.saga.rollback_order is RollbackOrder.REVERSED:",
              "if txn.saga.rollback_order is RollbackOrder.PARALLEL:"),), "trip"),
    Bug("results lost at recovery", "the votes that acks of commits carry are not kept: Perform is built from nothing", "7",
        (Edit(f"{_DRIVE}._acknowledged", "progress.result = reply.result", "progress.result = b'\\xc0'"),), "trip"),
    Bug("performed without its reads", "Perform does not wait for the acks of the steps it reads", "7",
        (Edit("orchestrator.protocol.contents:readable", "progress.phase is Phase.DONE or ",
              "progress.phase is not Phase.WAITING or "),), "trip"),
    Bug("an old ack counts", "an ack of anything is an ack of what is asked for now", "38",
        (Edit(f"{_DRIVE}.reply", "elif reply.kind is Kind.PREPARE:",
              "elif reply.kind is Kind.PREPARE and txn.state is State.PREPARING:"),
         Edit(f"{_DRIVE}._acknowledge", " or reply.kind is not finish_kind(txn, progress.step)", ""),
         Edit(f"{_DRIVE}._acknowledge", "elif reply.status is Status.ACK:", "elif reply.status in (Status.ACK, Status.YES):"))),
    Bug("told that a fenced transaction aborted", "who is fenced tells the callers ABORTED instead of asking again", "12",
        (Edit(f"{_CORE}._send_away", "answers.not_ready(self._drive.effects, waiter)",
              "self._drive.effects.outcomes.append((waiter, OutcomeMessage(waiter.number, txn.id, OutcomeStatus.ABORTED)))"),)),
)
