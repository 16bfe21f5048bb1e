"""Mistakes of recovery, of identity and epochs on the shard's side, and of what is answered to whom."""

from __future__ import annotations

from typing import Final

from seeded.patching import Bug, Edit

_CORE, _DRIVE = "orchestrator.protocol.coordinator:Coordinator", "orchestrator.protocol.drive:Drive"
_RECOVERY, _SHARD = "orchestrator.protocol.recovery:Recovery", "orchestrator.testing.simulation.shard_life:ShardLife"
_PRESUMED_ABORT = Edit(
    f"{_CORE}.inquire", "absent.append(inquiry)", "commands.append(self.settling(inquiry, Decision.ABORT))")
_SETTLED = (
    "elif txn.decided is not None and txn.may_settle(inquiry.step):\n"
    "            commands.append(self.settling(inquiry, txn.decided.decision))")

RECOVERY: Final = (
    Bug("driven again under a new id", "what is undecided at a restart is run anew, under an id of the new epoch", "2 9",
        (Edit(f"{_RECOVERY}._restored", "begun, now_ms = stored.begun, self._drive.now_ms",
              "begun, now_ms = stored.begun, self._drive.now_ms\n    if stored.decided is None:\n"
              "        epoch = self._table.epochs[partition_of(begun.transaction)]\n"
              "        begun = type(begun)(f'{begun.transaction[:14]}{epoch:08x}{begun.transaction[22:]}', begun.key, "
              "begun.fingerprint, begun.saga, begun.version, begun.input, begun.began_ms, begun.deadline_ms, "
              "begun.duration_ms)"),)),
    Bug("decided work is not taken up", "recovery looks for undecided transactions only", "7",
        (Edit("orchestrator.testing.simulation.log_model:LogModel.take", "if (entry.ended and not entry.unsettled) or",
              "if entry.decided or"),)),
    Bug("performs lost at a restart", "what waits to be performed is taken for done when COMMIT was found stored", "7 9",
        (Edit(f"{_RECOVERY}._restored", "if stored.state in (State.COMMITTED, State.ABORTED):\n        txn.end_again()",
              "if stored.decided is not None:\n        txn.end_again(); txn.ended = stored.ended_ms > 0"),)),
    Bug("undecided is aborted in memory", "recovery takes an undecided transaction for aborted without asking the log", "9 4",
        (Edit(f"{_RECOVERY}._drive_on", "elif txn.quarantined:",
              "elif stored.recoveries > 1:\n        from orchestrator.protocol.records import Decision\n"
              "        self._drive.decided(txn, Decided(txn.id, Decision.ABORT, 0))\n    elif txn.quarantined:"),)),
    Bug("the deadline begins anew", "every recovery grants the whole duration once more", "2 52",
        (Edit(f"{_RECOVERY}._restored", "now_ms + min(max(begun.deadline_ms - now_ms, 0), begun.duration_ms)",
              "now_ms + begun.duration_ms"),)),
    Bug("the deadline before the decision", "after a restart the deadline is looked at before the stored decision", "2 7",
        (Edit(f"{_RECOVERY}._drive_on", "if stored.decided is not None:",
              "if stored.decided is not None and self._drive.now_ms < txn.deadline_ms:"),)),
    Bug("other input after a restart", "a re-drive builds its requests from a default, not from the pinned input", "87",
        (Edit(f"{_RECOVERY}._load_input", "txn.input = saga.decode_input(txn.begun.input)",
              "txn.input = saga.sample(0)"),)),
    Bug("ids without the epoch", "ids carry the number of the shard instead of the epoch of the partition", "11 10d",
        (Edit(f"{_CORE}._allocate", "self._table.epochs[partition]", "1"),)),
)

DOUBT: Final = (
    Bug("undecided, so rolled back", "a participant in doubt about an undecided transaction is told Rollback", "16 51",
        (Edit(f"{_CORE}.inquire", _SETTLED, "else:\n            commands.append(self.settling(inquiry, "
              "txn.decided.decision if txn.decided else Decision.ABORT))"),)),
    Bug("in doubt, told what is not durable", "in doubt, a participant is told the decision that is on its way", "51 5",
        (Edit(f"{_CORE}.inquire", _SETTLED,
              "elif txn.decided or txn.deciding:\n            commands.append("
              "self.settling(inquiry, (txn.decided or txn.deciding).decision))"),)),
    Bug("unknown, so rolled back", "who does not hold a transaction (yet) says Rollback when asked about it", "10b 10c 15 16",
        (_PRESUMED_ABORT,
         Edit(f"{_CORE}.settling", "self._table.epochs.get(partition_of(inquiry.transaction), 0)", "inquiry.epoch"),
         Edit(f"{_SHARD}.on_inquire", "if not self.serving:", "if False:"),
         Edit(f"{_SHARD}.on_inquire", "i for i in inquiries if i.epoch <= ", "i for i in inquiries if True or i.epoch <= "))),
)

ANSWERS: Final = (
    Bug("a cancel is told ABORTED though committed", "a cancel that finds the key bound is told ABORTED", "47 47b",
        (Edit(f"{_CORE}._key_cancelled", "if result.status is AppendStatus.BOUND and result.stored is not None:",
              "if False:"),)),
    Bug("a key conflict is told as success", "another payload under a key is told the outcome of the first", "42-43",
        (Edit(f"{_CORE}._begun", "mine = [Joiner(waiter, record.fingerprint) for waiter in txn.waiters]",
              "mine = [Joiner(waiter, None) for waiter in txn.waiters]"),)),
    Bug("whoever joins is told", "a joiner's payload is not compared with that of the transaction it joins", "42-43 44",
        (Edit(f"{_CORE}._join", "elif joiner.fits(txn.begun.fingerprint):", "elif True:"),)),
    Bug("outcome without results", "who asks after a recovery is told COMMITTED before the votes are known", "6",
        (Edit(f"{_DRIVE}.tell", " or (txn.state is State.COMMITTING and not txn.results_known)", ""),)),
)

APPENDS: Final = (
    Bug("a repeated append takes more along", "a repeat takes along what waits, and any attempt's answer counts", "65",
        (Edit(f"{_SHARD}._append_now", "self._sequence += 1",
              "self._sequence += 1\n        batch.extend(self._queue)\n        records.extend(EpochRecord(self.core.epochs["
              "partition_of(r.transaction)], r) for r in self._queue)\n        self._queue.clear()"),
         Edit(f"{_SHARD}._append_until_answered", "self.forget_call(number)", "pass"))),
    Bug("any attempt's answer counts", "the answer of an append that was repeated since is taken for its own", "65 36-37",
        (Edit(f"{_SHARD}._append_until_answered", "self.forget_call(number)", "pass"),)),
    Bug("an unanswered append counts as stored", "an append that is not answered in time is obeyed as if it were", "65 5",
        (Edit(f"{_SHARD}._append_now", "        self._append()\n\n    self._append_until",
              "        self._append()\n\n    self.after(700, lambda: self._appending and self._apply(self.core.appended("
              "[(r, AppendResult(AppendStatus.STORED, r if hasattr(r, 'decision') else None)) for r in batch], self.now_ms)))\n"
              "    self._append_until"),)),
)
