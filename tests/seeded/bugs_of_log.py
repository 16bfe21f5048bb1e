"""Mistakes of the transaction log; in the simulator they are made in the model that a property test holds the real log to."""

from __future__ import annotations

from typing import Final

from seeded.patching import Bug, Edit

_MODEL, _LOG = "orchestrator.testing.simulation.log_model:LogModel", "orchestrator.testing.simulation.log_model:MemoryLog"
_OWNED = 'if self.owners.get(partition_of(record.transaction), (0, 0, ""))[1:] != (epoch, incarnation):'

LOG: Final = (
    Bug("no epoch check at the log", "appends of a fenced shard are stored", "12 13",
        (Edit(f"{_MODEL}._record", _OWNED, "if False:"),)),
    Bug("epoch not raised at takeover", "a successor gets the epoch of the one it follows", "12",
        (Edit(f"{_MODEL}.take", "[1] + 1, incarnation)", "[1] or 1, incarnation)"),)),
    Bug("the second decision wins", "a shard proposes ABORT over a COMMIT in flight, and the log takes the last one", "50 65",
        (Edit("orchestrator.protocol.drive:Drive.decide_abort", "if txn.deciding is not None or txn.decided is not None:",
              "if txn.decided is not None:"),
         Edit(f"{_MODEL}._progress", "if entry.decided is None:", "if True:"))),
    Bug("fingerprint ignored at the log", "another payload under a bound key is told the outcome of the first", "42-43",
        (Edit(f"{_MODEL}._begun", 'fits = not record.fingerprint or stored.begun.fingerprint in {b"", record.fingerprint}',
              "fits = True"),
         Edit("orchestrator.protocol.recovery:Recovery._fitting", "if joiner.fits(stored.begun.fingerprint):", "if True:"))),
    Bug("an aborted key begins anew", "a key whose transaction was aborted is bound to a new one", "6 42-43",
        (Edit(f"{_MODEL}._begun", "if bound is not None:",
              "if bound is not None and self._state(self.transactions[bound]) is not State.ABORTED:"),)),
    Bug("a cancel does not bind its key", "a submit that was overtaken by its cancel runs", "47b",
        (Edit(f"{_MODEL}._cancelled", "entry = self.transactions[record.transaction]",
              "entry = self.transactions.pop(record.transaction)\n    self.keys.pop(record.key)"),)),
    Bug("an old append is taken", "an append that a later one has overtaken is looked at", "10d 36-37",
        (Edit(f"{_MODEL}.append", "if request.sequence <= sequence:", "if False:"),)),
    Bug("Begun of an old epoch", "an id may be of any epoch, and ids are numbered anew by every life", "10d",
        (Edit(f"{_MODEL}._begun", "if epoch_of(record.transaction) != self.owners[partition_of(record.transaction)][1]:",
              "if False:"),
         Edit("orchestrator.protocol.coordinator:Coordinator._allocate",
              "return make_id(self._last_ms, partition, self._table.epochs[partition], self._counter)",
              "return make_id(1, partition, 1, self._counter)"))),
    Bug("compaction loses a decision", "what is decided is forgotten before it has ended", "63 90",
        (Edit(f"{_MODEL}.retain", "if t < oldest and e.ended and e.ended < self.watermark_ms\n",
              "if t < oldest and e.decided\n"),), "trip"),
    Bug("the watermark passes what is open", "transactions that have not ended do not hold the watermark back", "90",
        (Edit(f"{_MODEL}.retain", "candidate = min([candidate, *(began_ms_of(txn) for txn in holding)])", ""),
         Edit(f"{_MODEL}.exempt", "return sorted(", "return [] and sorted("))),
    Bug("nobody is exempt", "the list of what is open below the watermark is not published", "90",
        (Edit(f"{_MODEL}.exempt", "return sorted(", "return [] and sorted("),), "trip"),
    Bug("the log answers before its sync", "appends are written, and answered before they are synced", "5 61-62",
        (Edit(f"{_LOG}._commit", "self._journal.commit((operation, argument, now_ms))",
              "self._journal.entries.append((operation, argument, now_ms))"),)),
    Bug("two lives write one log", "the log does not look whether a successor has opened its file", "66",
        (Edit(f"{_LOG}.superseded", "return self._journal.owner != self._owner", "return False"),)),
)

_BATCH, _STORE = "orchestrator.log.batch:Batch", "orchestrator.log.store:LogStore"

# the same mistakes and a few more in the real log: caught by the test that holds it to the model
REAL_LOG: Final = (
    Bug("real log: no epoch check", "appends of a fenced shard are stored", "12 13",
        (Edit(f"{_BATCH}.apply", "if owner is None or owner.epoch != epoch or owner.incarnation != incarnation:",
              "if owner is None:"),), "log"),
    Bug("real log: epoch not raised", "a successor gets the epoch of the one it follows", "12",
        (Edit(f"{_STORE}._new_owners", "owner.epoch + 1", "owner.epoch or 1"),), "log"),
    Bug("real log: the second decision wins", "a later decision replaces the first", "50 65",
        (Edit(f"{_BATCH}._decided", "if transaction.decided is None:", "if True:"),), "log"),
    Bug("real log: fingerprint ignored", "another payload under a bound key is joined", "42-43",
        (Edit(f"{_BATCH}._bound_elsewhere", "BOUND if fits else", "BOUND if True else"),), "log"),
    Bug("real log: a cancel does not bind its key", "the key of a cancel is free again once its batch is written", "47b",
        (Edit(f"{_BATCH}._store_begun", "self._rows[_INSERT_KEY].append((digest_of_key(record.key), sequence))",
              "if record.saga:\n        self._rows[_INSERT_KEY].append((digest_of_key(record.key), sequence))"),), "log"),
    Bug("real log: an old append is taken", "an append that a later one has overtaken is looked at", "10d 36-37",
        (Edit(f"{_STORE}._is_fresh", "if request.sequence <= last:", "if False:"),), "log"),
    Bug("real log: sequences in memory only", "after a restart the log takes an append that it has processed", "10d 65",
        (Edit(f"{_STORE}._append", "self._save_sequences(requests)", "pass"),), "log"),
    Bug("real log: Begun of an old epoch", "an id may be of any epoch", "10d",
        (Edit(f"{_BATCH}._begins_now", "return epoch_of(transaction) ==", "return True or epoch_of(transaction) =="),), "log"),
    Bug("real log: Ended without a decision", "a transaction may end undecided", "35",
        (Edit(f"{_BATCH}._end", "return UNKNOWN  # it cannot", "return STORED  # it cannot"),), "log"),
    Bug("real log: a decision is not read back", "a restarted log has forgotten what was decided and has not ended", "6 63",
        (Edit(f"{_STORE}._load", "self._open, self._unsettled = load_open(connection)",
              "self._open, self._unsettled = load_open(connection)\n    for transaction in self._open.values():\n"
              "        transaction.decided = None"),), "log"),
)
