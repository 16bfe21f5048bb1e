"""Mistakes that break no guarantee, because another part of the protocol answers for the same thing; and which one that is.

Hunting them is how it is known: `python -m tests.seeded.hunt --survivors`. Pairs of them that do harm are seeded bugs.
"""

from __future__ import annotations

from typing import Final

from actors.ledger import Action, RowState
from orchestrator.protocol.messages import Kind
from seeded.patching import Bug, Cell, Edit

_CORE, _DRIVE = "orchestrator.protocol.coordinator:Coordinator", "orchestrator.protocol.drive:Drive"
_RECOVERY, _SHARD = "orchestrator.protocol.recovery:Recovery", "orchestrator.testing.simulation.shard_life:ShardLife"

# (the mistake, why it breaks nothing)
SURVIVORS: Final[tuple[tuple[Bug, str], ...]] = (
    (Bug("a second decision is proposed", "ABORT by deadline or cancel over a COMMIT in flight", "50",
         (Edit(f"{_DRIVE}.decide_abort", "if txn.deciding is not None or txn.decided is not None:",
               "if txn.decided is not None:"),)),
     "the log keeps the first decision and answers with it; see 'own proposal obeyed' and 'the second decision wins'"),
    (Bug("the own decision is obeyed", "the shard obeys what it proposed instead of what the log has stored", "65",
         (Edit(f"{_CORE}._decided", "self._drive.decided(txn, result.decided)", "self._drive.decided(txn, record)"),)),
     "while a decision is in flight no other is proposed, and fenced predecessors store nothing: the two are the same"),
    (Bug("live work adopted", "a transaction that runs here is taken up a second time", "11",
         (Edit(f"{_RECOVERY}.answer", "self.join(txn or self._take_up(stored), fitting)",
               "self.join(self._take_up(stored), fitting)"),)),
     "all messages are idempotent and the log decides once; callers who are forgotten ask again"),
    (Bug("two ids for one key", "a submit does not join the one whose Begun is on its way", "44",
         (Edit(f"{_CORE}._submit", "if running is not None:", "if running is not None and running.begun_durable:"),)),
     "keys are unique in the log: the second Begun is answered with the first, and nothing was sent for it"),
    (Bug("the first in line is told", "of those who wait for one transaction, one is told", "44",
         (Edit(f"{_DRIVE}.tell", "for waiter in txn.waiters:", "for waiter in txn.waiters[:1]:"),)),
     "callers ask until they are told, and the log knows the outcome"),
    (Bug("appends overtake each other", "a second append leaves while the outcome of the first is unknown", "65",
         (Edit(f"{_SHARD}._append_now", "if self._appending or not self._queue:", "if not self._queue:"),
          Edit(f"{_SHARD}._append", "if self._appending or not self._queue:", "if not self._queue:"))),
     ("the core asks for a record only when what it follows is durable, so records in flight do not depend on each other; "
     "an append that was overtaken is dropped and repeated")),
    (Bug("an answer of an earlier attempt counts", "transient answers are not matched by attempt", "38",
         (Edit(f"{_DRIVE}._vote", "elif reply.attempt == progress.attempt:", "else:"),)),
     "it only hastens or delays a repeat; votes and acks count whatever their attempt"),
    (Bug("a refusal leaves no row", "a repeated prepare asks the handler again", "33",
         (Edit("actors.runner:BatchRunner._prepare",
               "return batch.vote(command, ledger.refused(command, result.code, result.message, batch.now_ms))",
               "return ledger.answer(command, Status.NO, result.code, result.message)"),)),
     ("a step that refused is rolled back as well: what a late duplicate holds is released; see 'refusals and their "
     "rollbacks forgotten'")),
    (Bug("a committed row is rolled back", "the ledger undoes what is committed if a rollback comes", "35",
         (Cell(RowState.COMMITTED, Kind.ROLLBACK, Action.RUN_ROLLBACK),
          Edit("actors.runner:BatchRunner._finish", "assert row.state is RowState.PREPARED, row.state", ""))),
     "no rollback of a committed transaction is ever sent: any that is sent is a violation by itself (A)"),
    (Bug("another request is answered from the row", "the ledger does not compare fingerprints", "42-43",
         (Edit("actors.ledger:decide", "if action is Action.STORED_VOTE and row.fingerprint != "
               "fingerprint_of(command.operation, command.request):", "if False:"),)),
     "requests are pure functions of the pinned input and the stored votes, so they do not differ; unit tests cover the rest"),
    (Bug("what is held is purged", "the purge takes prepared rows along", "90",
         (Edit("actors.memory:MemoryStore.retain", " and row.state is not RowState.PREPARED", ""),), "trip"),
     "what holds something is open, so it holds the watermark back or is exempt; see 'the exempt are purged'"),
    (Bug("another payload fits at the log", "the log does not compare fingerprints", "42-43",
         (Edit("orchestrator.testing.simulation.log_model:LogModel._begun",
               'fits = not record.fingerprint or stored.begun.fingerprint in {b"", record.fingerprint}', "fits = True"),)),
     "the shard compares once more before it tells anybody; see 'fingerprint ignored at the log'"),
    (Bug("the log opens without a sync", "what an earlier life wrote and did not sync is answered from", "56b",
         (Edit("orchestrator.testing.simulation.log_model:MemoryLog.__init__",
               'journal.commit(("_opened", None, 0))', "pass"),)),
     ("every append and every taking syncs what was written before it; only reads are answered without, and callers of the "
      "simulator look nothing up: for the real log the tests of the simulated disk answer for it")),
    (Bug("a superseded log answers reads", "a zombie tells what it remembers, not what the file holds", "66 15",
         (Edit("orchestrator.testing.simulation.log_life:LogLife.on_load", "if self._log.superseded else", "if False else"),)),
     "a shard reads the log only about what it does not hold, and what is open is held; an older state is driven on again"),
    (Bug("in doubt only once", "a participant asks once about what it holds", "51",
         (Edit("actors.doubt:Doubts.due", "self._asked[key] = (times, now_ms", "self._asked[key] = (times, (1 << 60)"),)),
     "the shard repeats commits and rollbacks for ever and takes up all that is open: asking only hastens it"),
)
