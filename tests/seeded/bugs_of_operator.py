"""Mistakes of what operators may do: resolutions against the decision, lost, forgotten or never settled."""

from __future__ import annotations

from typing import Final

from seeded.patching import Bug, Edit

_DESK, _RECOVERY = "orchestrator.protocol.desk:Desk", "orchestrator.protocol.recovery:Recovery"
_MODEL, _BATCH = "orchestrator.testing.simulation.log_model:LogModel", "orchestrator.log.batch:Batch"
_ABORT = '__import__("orchestrator.protocol.records").protocol.records.Decision.ABORT'
_ANY_DECISION = Edit(
    f"{_MODEL}._resolved", "entry.decided is not None and entry.decided.decision is record.decision", "True")

OPERATOR: Final = (
    Bug("what is undecided is resolved", "a step of an undecided transaction is resolved as rolled back, and the log takes it",
        "76",
        (Edit(f"{_DESK}._ask_to_resolve", "elif txn.decided is None:", "elif txn.saga is None:"),
         Edit(f"{_DESK}._ask_to_resolve", "elif not progress.parked:", "elif False:"),
         Edit(f"{_DESK}._ask_to_resolve", "txn.decided.decision", f"(txn.decided.decision if txn.decided else {_ABORT})"),
         _ANY_DECISION,
         Edit(f"{_MODEL}._resolved", " or not record.step or record.step not in entry.parked", ""),
         Edit(f"{_MODEL}._resolved", "del entry.parked[record.step]", "entry.parked.pop(record.step, None)")), "trip"),
    Bug("resolved against the decision", "a resolved step always counts as rolled back, and the log does not compare", "76",
        (Edit(f"{_DESK}._ask_to_resolve", "txn.decided.decision", _ABORT), _ANY_DECISION), "trip"),
    Bug("a resolution is lost at a recovery", "a shard that takes a transaction up again knows nothing of what was resolved",
        "76", (Edit(f"{_RECOVERY}._restored", "txn.resolve(txn.steps[resolved.step])", "pass"),), "trip"),
    Bug("what was resolved is not taken up", "what has ended is not taken up, though a ledger is still to agree", "76",
        (Edit(f"{_MODEL}.take", "if (entry.ended and not entry.unsettled) or", "if entry.ended or"),), "trip"),
    Bug("what was resolved is not repeated", "a resolved step is done with, whatever its ledger says", "76",
        (Edit("orchestrator.protocol.transaction:Transaction.resolve", "self.unsettled += 1\n        return",
              "self.unsettled += 1"),), "trip"),
)
REAL_LOG_OPERATOR: Final = (
    Bug("real log: resolved against the decision", "the log does not compare a resolution with its decision", "76",
        (Edit(f"{_BATCH}._resolve", "transaction.decided.decision is record.decision)", "True)"),), "log"),
    Bug("real log: a resolution is not read back", "a restarted log has forgotten what was resolved", "76",
        (Edit("orchestrator.log.store:LogStore._load", "self._open, self._unsettled = load_open(connection)",
              "self._open, self._unsettled = load_open(connection)\n    for transaction in self._open.values():\n"
              "        transaction.resolved = None"),), "log"),
)
