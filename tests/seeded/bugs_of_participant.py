"""Mistakes of a participant: ledger, fence, store, what waits and what is in doubt."""

from __future__ import annotations

from typing import Final

from actors.ledger import Action, RowState
from orchestrator.protocol.messages import Kind
from seeded.patching import Bug, Cell, Edit

_RUNNER, _FENCE = "actors.runner:BatchRunner", "actors.ledger:Fence"
_STORE, _LOCAL = "actors.memory:MemoryStore", "actors.local:LocalService"
_TO_STORE = "self._store.write(batch.changed, batch.loaded, batch.state.writes, epochs)"

LEDGER: Final = (
    Bug("no tombstone", "a rollback of an absent row leaves none: the late prepare holds for ever", "31 32",
        (Cell(None, Kind.ROLLBACK, Action.ACK),)),
    Bug("late prepare runs", "a prepare that comes after its rollback holds again", "32",
        (Cell(RowState.ROLLED_BACK, Kind.PREPARE, Action.RUN_PREPARE),)),
    Bug("tombstone deleted on a duplicate", "a late prepare takes the tombstone away: the next one holds", "31 32 33",
        (Edit(f"{_RUNNER}._handle", "if run is None:",
              "if action is Action.LATE_PREPARE:\n        self._store.rows.pop((command.transaction, command.step), None)\n"
              "    if run is None:"),)),
    Bug("duplicate prepare runs again", "a repeated prepare is not answered from the row", "28",
        (Cell(RowState.PREPARED, Kind.PREPARE, Action.RUN_PREPARE),)),
    Bug("a new attempt is a new prepare", "rows are looked up by attempt", "28 18",
        (Edit("actors.runner:_Batch.row", "return self.changed.get(key) or self.loaded.get(key)",
              "row = self.changed.get(key) or self.loaded.get(key)\n"
              "    return None if row and command.kind is Kind.PREPARE and row.attempts < command.attempt else row"),)),
    Bug("commit acknowledged without effect", "a commit of a prepared row is answered and not done", "20-21 29-30",
        (Cell(RowState.PREPARED, Kind.COMMIT, Action.ACK),)),
    Bug("rollback acknowledged without effect", "a rollback of a prepared row is answered and not done", "20-21 29-30",
        (Cell(RowState.PREPARED, Kind.ROLLBACK, Action.ACK),)),
    Bug("commit runs again", "a repeated commit is done once more", "29-30",
        (Cell(RowState.COMMITTED, Kind.COMMIT, Action.RUN_COMMIT),
         Edit(f"{_RUNNER}._finish", "assert row.state is RowState.PREPARED, row.state", ""))),
    Bug("rollback runs again", "a repeated rollback is done once more", "29-30",
        (Cell(RowState.ROLLED_BACK, Kind.ROLLBACK, Action.RUN_ROLLBACK),
         Edit(f"{_RUNNER}._finish", "assert row.state is RowState.PREPARED, row.state", ""))),
    Bug("perform runs again", "a repeated perform is done once more", "18 77",
        (Cell(RowState.DONE, Kind.PERFORM, Action.RUN_PERFORM),)),
    Bug("refusals and their rollbacks forgotten", "a no leaves no row, and a step that refused is not rolled back", "33",
        (Edit(f"{_RUNNER}._prepare", "return batch.vote(command, ledger.refused(command, result.code, result.message, "
              "batch.now_ms))", "return ledger.answer(command, Status.NO, result.code, result.message)"),
         Edit("orchestrator.protocol.drive:Drive.finish", "elif progress.phase is not Phase.WAITING or txn.recovered:",
              "elif progress.phase not in (Phase.WAITING, Phase.REFUSED) or txn.recovered:"))),
    Bug("NotYet recorded as a refusal", "what should be asked again is a durable no", "33",
        (Edit(f"{_RUNNER}._prepare", 'return ledger.answer(command, Status.NOT_YET, "", result.reason)',
              'return batch.vote(command, ledger.refused(command, "NOT_YET", result.reason, batch.now_ms))'),), "trip"),
    Bug("a refusal keeps what it wrote", "the write-set of a handler that refused is applied", "23",
        (Edit(f"{_RUNNER}._prepare", "if isinstance(result, Refused):",
              "if isinstance(result, Refused):\n        state.merge()"),),
        "trip"),
)

FENCES: Final = (
    Bug("no fence at a service", "a service answers whatever epoch asks", "14",
        (Edit(f"{_FENCE}.admits", "epoch >= self.epochs.get(partition, 0)", "True"),)),
    Bug("fence lowered by an older sender", "a service remembers the last epoch, not the highest", "14 12",
        (Edit(f"{_FENCE}.see", "if epoch > self.epochs.get(partition, 0):", "if epoch != self.epochs.get(partition, 0):"),)),
    Bug("fence in memory only", "a restarted service has forgotten which epochs it has seen", "14",
        (Edit(f"{_RUNNER}.run", _TO_STORE, _TO_STORE.replace("epochs)", "{})")),)),
    Bug("two lives write one store", "a service does not look whether a successor has opened its store", "66",
        (Edit(f"{_STORE}.begin", "if self._journal.owner != self._owner:", "if False:"),)),
)

DISKS: Final = (
    Bug("a service replies before its sync", "rows are written, and told before they are synced", "19 61-62",
        (Edit(f"{_STORE}.commit", "self._journal.commit(self._staged)", "self._journal.entries.append(self._staged)"),)),
    Bug("a service opens without a sync", "what an earlier life wrote and did not sync is answered from", "56b",
        (Edit(f"{_STORE}.__init__", "journal.commit(self._staged)", "pass"),), "blackout"),
    Bug("state without its rows", "the state of a batch is durable, its ledger rows are not", "19",
        (Edit(f"{_STORE}.write", "Entry(dict(rows), ", "Entry({}, "),)),
)

WAITING: Final = (
    Bug("a hold expires by itself", "what is in doubt for too long is rolled back instead of asked about", "51",
        (Edit(f"{_LOCAL}.inquiries", "epochs = self._runner.fence.epochs",
              "epochs = self._runner.fence.epochs\n"
              "    from orchestrator.protocol.messages import Command\n"
              '    self._pending.extend(Work(Command(txn, step, Kind.ROLLBACK, 0, epochs.get(partition_of(txn), 0), ""), "")\n'
              "                         for txn, step in held)"),)),
    Bug("an answer is used after the rollback", "the row is not looked at again when the asynchronous part has answered", "50c",
        (Edit(f"{_RUNNER}._handle", "run = runs.get(action)",
              "if work.answer is not UNASKED:\n        action = Action.RUN_PREPARE if command.kind is Kind.PREPARE "
              "else Action.RUN_PERFORM\n    run = runs.get(action)"),), "trip"),
    Bug("everybody asks for himself", "a repeat does not join the asynchronous part under way, and runs again", "50b 50c",
        (Edit(f"{_LOCAL}._ask", "if key in self._waiting:", "if False:"),
         Edit(f"{_RUNNER}._handle", "run = runs.get(action)",
              "if work.answer is not UNASKED and action is Action.STORED_VOTE:\n        action = Action.RUN_PREPARE\n"
              "    run = runs.get(action)")), "trip"),
)

RETENTION: Final = (
    Bug("the exempt are purged", "rows of transactions that are open below the watermark are purged", "90",
        (Edit(f"{_STORE}.retain", " and key[0] not in joined.exempt", ""),), "trip"),
    Bug("the exempt are expired", "a prepare of an exempt transaction is refused as expired, its commit acknowledged", "90",
        (Edit("actors.ledger:decide", " and command.transaction not in exempt", ""),), "trip"),
    Bug("a late duplicate after retention runs", "no row is no row, however old the transaction is", "90",
        (Edit("actors.ledger:decide", "if began_ms_of(command.transaction) < watermark_ms and", "if False and"),)),
    Bug("the watermark is the sender's clock", "a service purges below the newest transaction it has heard of", "90",
        (Edit(f"{_STORE}.retain", "end = oldest_id(joined.watermark_ms)",
              "joined = joined if not self.rows else joined.joined(int(max(self.rows)[0][:12], 16), ())\n"
              "    end = oldest_id(joined.watermark_ms)"),)),
)
