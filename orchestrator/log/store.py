"""The transaction log on disk, as its one writer sees it: append, take, purge; every call is one SQLite transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from itertools import takewhile
from typing import TYPE_CHECKING, TypeVar

from orchestrator.ballast import BALLAST_BYTES
from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, reading
from orchestrator.files import REAL_FILES
from orchestrator.log.acts import KEPT_MS, change_pause, forget_acts, load_pauses
from orchestrator.log.batch import Batch, OpenTransaction, Owner
from orchestrator.log.facets import Facets
from orchestrator.log.opening import check_tail, load_open
from orchestrator.log.rows import bound_to, load_stored, select_in
from orchestrator.log.schema import LOG_KIND, LOG_MIGRATIONS, LOG_SCHEMA, decode_record, digest_of_key
from orchestrator.ownership import boot_ms
from orchestrator.protocol.counts import Histogram
from orchestrator.protocol.identifiers import began_ms_of, oldest_id
from orchestrator.protocol.messages import SCHEMA_VERSION, ActKind
from orchestrator.protocol.records import (
    NOTHING_PAUSED,
    Act,
    AppendReply,
    AppendRequest,
    Begun,
    CancelledKey,
    Pauses,
    TakeReply,
    TakeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from orchestrator.files import Files

WATERMARK_EVERY_MS = 1_000
CATCH_UP = 8  # the watermark may rise faster than real time by one part in so many: it makes up for time spent down

T = TypeVar("T")


def create_log(path: Path, files: Files = REAL_FILES) -> str:
    """Create the transaction log's database durably and resumably; returns its uuid. See `create_database`."""
    return create_database(path, LOG_SCHEMA, LOG_KIND, files, LOG_MIGRATIONS)


class UnreadableError(Exception):
    """Memory may hold what is not durable: this process must end and answer nobody, whatever the first error was."""


class LogStore:
    """The transaction log, open for its one writer; use it from one thread.

    Args:
        path: of an existing database.
        run: the deployment's run.
        retention_ms: how long an ended transaction and its key are remembered.
        expected_uuid: refuse another database than this; "" = any.
        clock: elapsed real time in ms, from any beginning.
        files: the disk.
        ballast_bytes: see `OwnedDatabase`.

    Raises:
        DefiniteError: E_STORE_REFUSED, saying which file and why; also where a record of the tail is damaged or missing.
        sqlite3.Error, OSError: the disk is full or fails; open it again.
    """

    def __init__(
        self, path: Path, run: str, retention_ms: int, *, expected_uuid: str = "", clock: Callable[[], int] = boot_ms,
        files: Files = REAL_FILES, ballast_bytes: int = BALLAST_BYTES,
    ) -> None:
        self._path, self._run = path, run
        self._retention_ms = retention_ms
        self._clock, self._risen_ms = clock, clock()  # the latter: when the watermark rose last, or the log was opened
        self._database = OwnedDatabase(
            path, LOG_KIND, run, expected_uuid=expected_uuid, files=files, ballast_bytes=ballast_bytes,
            migrations=LOG_MIGRATIONS)
        self._last_record = self._watermark_ms = self._watermark_due_ms = 0
        self._owners: dict[int, Owner] = {}
        self._sequences: dict[int, tuple[str, int]] = {}  # by shard: incarnation, newest append processed
        self._open: dict[str, OpenTransaction] = {}
        self._unsettled: dict[str, OpenTransaction] = {}  # ended, while a ledger is still to agree with an operator
        self._pauses = NOTHING_PAUSED
        self._exempt: list[str] = []
        try:
            with reading(path):
                check_tail(self._database, path)
                self._load()
        except BaseException:
            self._database.close()
            raise

    @property
    def uuid(self) -> str:
        """Of the database."""
        return self._database.uuid

    @property
    def epoch(self) -> int:
        """Of this ownership of the file."""
        return self._database.epoch

    @property
    def restarts(self) -> int:
        """Openings in this run before this one."""
        return self._database.restarts

    @property
    def last_record(self) -> int:
        """Sequence of the newest record."""
        return self._last_record

    @property
    def open_count(self) -> int:
        """Transactions that have not ended."""
        return len(self._open)

    @property
    def commit_ms(self) -> Histogram:
        """How long commits took."""
        return self._database.commit_ms

    @property
    def watermark_ms(self) -> int:
        """The retention watermark, durable, Unix ms: services may forget what began before it."""
        return self._watermark_ms

    def parked_codes(self) -> list[list[str]]:
        """Of every open transaction with parked steps, their codes; safe to call from any thread."""
        parked = [list(transaction.parked.values()) for transaction in list(self._open.values()) if transaction.parked]
        return [[record.code for record in records] for records in parked]

    @property
    def pauses(self) -> Pauses:
        """What is paused; safe to read from any thread."""
        return self._pauses

    def owner(self, partition: int) -> Owner | None:
        """Who owns a partition; safe to call from any thread."""
        return self._owners.get(partition)

    def append(self, requests: Sequence[AppendRequest], now_ms: int) -> list[AppendReply]:
        """Store the records of several requests with one fsync; when it returns they are durable.

        Args:
            requests: in order of arrival.
            now_ms: Unix ms.

        Returns:
            One reply for each request.

        Raises:
            sqlite3.Error, OSError, UnreadableError: of unknown outcome; the process must end and answer nobody.
            DefiniteError: E_STORE_REFUSED; a successor owns the log, nothing was stored.
        """
        admitting = self._database.has_room(now_ms)
        try:
            return self._append(requests, now_ms, admitting=admitting)
        except sqlite3.OperationalError as error:
            if not self._database.make_room(error):
                raise
            return self._append(requests, now_ms, admitting=False)

    def take(self, request: TakeRequest, now_ms: int) -> TakeReply:
        """Give partitions to a shard's incarnation: raise their epochs and return what is open in them.

        A repeat by the incarnation that owns a partition already changes nothing there. A shard of another run than the
        log's takes nothing and gets no epochs: it belongs to an earlier `up`, perhaps with another number of shards.

        Raises:
            sqlite3.Error, OSError, UnreadableError: of unknown outcome; the process must end and answer nobody.
            DefiniteError: E_STORE_REFUSED; a successor owns the log, nothing was stored.
        """
        if request.deployment_run != self._run:
            return TakeReply(SCHEMA_VERSION, [], [], self._watermark_ms, 0, self._exempt)
        return self._finishing(lambda: self._take(request, now_ms))

    def register_store(self, name: str, uuid: str, sequence: int) -> str:
        """Note how far a service's database has come.

        Returns:
            "", or why that database must be refused: it is another one, or an older copy.
        """
        row = self._database.connection.execute("SELECT uuid, sequence FROM stores WHERE name = ?", (name,)).fetchone()
        if row is not None and row[0] != uuid:
            return f"the database of service {name!r} is another one ({uuid}) than the log knows ({row[0]})"
        if row is not None and sequence < row[1]:
            return f"the database of service {name!r} is an older copy: it ends at commit {sequence}, it had {row[1]}"
        self._finishing(lambda: self._save_store(name, uuid, sequence))
        return ""

    def pause(self, act: Act, now_ms: int) -> bool:
        """Pause or resume a saga or a service, durably; returns whether that changed anything.

        Args:
            act: of kind PAUSE or RESUME, naming one of the two.
            now_ms: Unix ms.
        """
        return self._finishing(lambda: self._change_pause(act, now_ms))

    def purge(self, now_ms: int, limit: int) -> int:
        """Forget up to `limit` transactions that ended before the watermark, and records of such.

        Returns:
            How many transactions were forgotten.
        """
        with self._transaction():
            watermark_ms = self._raise_watermark(now_ms)
            forgotten = self._forget_transactions(limit)
            self._compact(4 * limit)
            forget_acts(self._database.connection, min(watermark_ms, now_ms - KEPT_MS), limit)
        self._publish(watermark_ms)
        return forgotten

    def close(self) -> None:
        """Give the log up."""
        self._database.close()

    def _append(self, requests: Sequence[AppendRequest], now_ms: int, *, admitting: bool) -> list[AppendReply]:
        with self._transaction():
            watermark_ms = self._raise_watermark(now_ms)
            fresh = [self._is_fresh(request) for request in requests]
            bound = self._bound_keys([r for r, wanted in zip(requests, fresh, strict=True) if wanted])
            batch = Batch(
                self._database.connection, self._open, self._owners, unsettled=self._unsettled, bound=bound,
                facets=self._facets, last_record=self._last_record, now_ms=now_ms)
            results = [
                batch.apply(r, admitting=admitting) if wanted else None for r, wanted in zip(requests, fresh, strict=True)]
            batch.flush()
            self._save_sequences(requests)
            self._database.set_meta("last_record", batch.last_record)
        self._last_record = batch.last_record
        self._publish(watermark_ms, batch.oldest_begun)
        return [
            AppendReply(SCHEMA_VERSION, answers or [], self._watermark_ms, self._exempt, answers is None,
                        self._pauses.version)
            for answers in results]

    def _take(self, request: TakeRequest, now_ms: int) -> TakeReply:
        with self._transaction():
            watermark_ms = self._raise_watermark(now_ms)
            restarts = self._count_take(request)
            owners = self._new_owners(request)
            taken = {partition for partition, owner in owners.items() if owner != self._owners.get(partition)}
            self._count_recoveries(taken)
            asked = set(request.partitions)
            held = (*self._open.items(), *self._unsettled.items())
            open_ids = [txn for txn, transaction in held if transaction.partition in asked]
            stored = load_stored(self._database.connection, open_ids)
        self._owners.update(owners)
        self._publish(watermark_ms)
        stored.sort(key=lambda transaction: transaction.begun.transaction)
        return TakeReply(
            SCHEMA_VERSION, [owners[partition].epoch for partition in request.partitions], stored, self._watermark_ms,
            restarts, self._exempt, self._pauses)

    def _finishing(self, work: Callable[[], T]) -> T:
        """Work that begins nothing: where the disk is full, it may use the ballast."""
        try:
            return work()
        except sqlite3.OperationalError as error:
            if not self._database.make_room(error):
                raise
            return work()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """One durable write transaction; where it fails, memory is read anew from what the database holds.

        Raises:
            UnreadableError: it failed, and so did that.
        """
        self._database.begin()
        try:
            yield
            self._database.commit()
        except BaseException:
            self._read_anew()
            raise

    def _read_anew(self) -> None:
        """What was not committed must not stay in memory: a repeat would be told that it is stored."""
        try:
            self._database.rollback()
            self._load()
        except Exception as error:
            raise UnreadableError(f"the log cannot be read anew after a failed turn: {error}") from error

    def _load(self) -> None:
        """Read what is kept in memory."""
        connection = self._database.connection
        self._last_record = self._database.meta("last_record")
        self._watermark_ms = self._database.meta("watermark_ms")
        self._owners = {row[0]: Owner(*row[1:]) for row in connection.execute("SELECT * FROM partitions")}
        self._sequences = {row[0]: (row[1], row[2]) for row in connection.execute(
            "SELECT shard, incarnation, last_sequence FROM shards")}
        self._open, self._unsettled = load_open(connection)
        self._pauses = load_pauses(connection)
        self._facets = Facets()
        self._watermark_due_ms = 0
        self._exempt = self._exempt_below(self._watermark_ms)

    def _change_pause(self, act: Act, now_ms: int) -> bool:
        with self._transaction():
            changed = change_pause(self._database.connection, act, paused=act.kind is ActKind.PAUSE, now_ms=now_ms)
            pauses = load_pauses(self._database.connection)
        self._pauses = pauses
        return changed

    def _save_store(self, name: str, uuid: str, sequence: int) -> None:
        with self._transaction():
            self._database.connection.execute("INSERT OR REPLACE INTO stores VALUES (?, ?, ?)", (name, uuid, sequence))

    def _is_fresh(self, request: AppendRequest) -> bool:
        """Whether the append is newer than all that were processed: a late duplicate of any of them must not run again."""
        incarnation, last = self._sequences.get(request.shard, ("", 0))
        if incarnation != request.incarnation:
            return True  # superseded: fenced record by record
        if request.sequence <= last:
            return False
        self._sequences[request.shard] = (incarnation, request.sequence)
        return True

    def _save_sequences(self, requests: Sequence[AppendRequest]) -> None:
        shards = {request.shard for request in requests} & self._sequences.keys()
        self._database.connection.executemany(
            "UPDATE shards SET last_sequence = ? WHERE shard = ?", [(self._sequences[s][1], s) for s in shards])

    def _bound_keys(self, requests: Sequence[AppendRequest]) -> dict[str, str]:
        keys = [
            item.record.key for request in requests for item in request.records
            if isinstance(item.record, (Begun, CancelledKey))]
        return bound_to(self._database.connection, keys)

    def _count_take(self, request: TakeRequest) -> int:
        row = self._database.connection.execute(
            "SELECT run, incarnation, takes, last_sequence FROM shards WHERE shard = ?", (request.shard,)).fetchone()
        run, incarnation, takes, last_sequence = row or ("", "", 0, 0)
        if run != request.deployment_run:
            takes = 0
        if incarnation != request.incarnation or not takes:
            takes, last_sequence = takes + 1, 0
        self._database.connection.execute(
            "INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?, ?)",
            (request.shard, request.deployment_run, request.incarnation, takes, last_sequence))
        self._sequences[request.shard] = (request.incarnation, last_sequence)
        return int(takes - 1)

    def _new_owners(self, request: TakeRequest) -> dict[int, Owner]:
        owners = {}
        for partition in request.partitions:
            owner = self._owners.get(partition) or Owner(-1, 0, "")
            if (owner.shard, owner.incarnation) != (request.shard, request.incarnation):
                owner = Owner(request.shard, owner.epoch + 1, request.incarnation)
            owners[partition] = owner
        self._database.connection.executemany(
            "INSERT OR REPLACE INTO partitions VALUES (?, ?, ?, ?)", [(p, *owner) for p, owner in owners.items()])
        return owners

    def _count_recoveries(self, taken: set[int]) -> None:
        """A recovery after progress (or the first one) counts as one; without a new record since the last, one more."""
        rows = []
        for txn, transaction in self._open.items():
            if transaction.partition in taken:
                progress = transaction.last_sequence > transaction.taken_sequence
                transaction.recoveries = 1 if progress else transaction.recoveries + 1
                transaction.taken_sequence = self._last_record
                rows.append((transaction.recoveries, transaction.taken_sequence, txn))
        self._database.connection.executemany(
            "UPDATE transactions SET recoveries = ?, taken_sequence = ? WHERE txn = ?", rows)

    def _raise_watermark(self, now_ms: int) -> int:
        """The watermark that holds once the open SQLite transaction is durable; looked at once a second."""
        if self._watermark_due_ms - WATERMARK_EVERY_MS <= now_ms < self._watermark_due_ms:
            return self._watermark_ms
        self._watermark_due_ms = now_ms + WATERMARK_EVERY_MS
        holding = min((txn for txn, transaction in self._open.items() if not transaction.parked), default=None)
        candidate = now_ms - self._retention_ms
        if holding is not None:
            candidate = min(candidate, began_ms_of(holding))
        if self._watermark_ms:  # a wall clock that jumps must not make keys be forgotten; a new log has none to forget
            elapsed_ms = self._clock() - self._risen_ms
            candidate = min(candidate, self._watermark_ms + elapsed_ms + elapsed_ms // CATCH_UP)
        if candidate <= self._watermark_ms:
            return self._watermark_ms
        self._database.set_meta("watermark_ms", candidate)
        return candidate

    def _publish(self, watermark_ms: int, oldest_begun: str | None = None) -> None:
        late = oldest_begun is not None and oldest_begun < oldest_id(watermark_ms)  # its shard's clock is behind
        rose = watermark_ms != self._watermark_ms
        if rose:
            self._risen_ms = self._clock()
        if rose or late:
            self._watermark_ms, self._exempt = watermark_ms, self._exempt_below(watermark_ms)
        elif self._exempt:
            self._exempt = [txn for txn in self._exempt if txn in self._open or txn in self._unsettled]

    def _exempt_below(self, watermark_ms: int) -> list[str]:
        oldest = oldest_id(watermark_ms)
        return sorted(txn for txn in (*self._open, *self._unsettled) if txn < oldest)

    def _forget_transactions(self, limit: int) -> int:
        connection = self._database.connection
        base: int = self._database.meta("base_sequence")
        rows = connection.execute(
            "SELECT txn, key, begun_sequence, decided_sequence, ended_sequence FROM transactions "
            "WHERE txn < ? AND ended_sequence > 0 AND ended_ms < ? "
            "AND txn NOT IN (SELECT txn FROM resolutions WHERE awaited > 0) ORDER BY txn LIMIT ?",
            (oldest_id(self._watermark_ms), self._watermark_ms, limit)).fetchall()
        forgotten = [(txn,) for txn, *_ in rows]
        kept = [(sequence,) for _, _, *sequences in rows for sequence in sequences if sequence < base]
        passed = [txn for txn, _, begun_sequence, *_ in rows if begun_sequence < base]
        kept += [row for row in select_in(connection, "SELECT sequence FROM parkings WHERE txn IN", passed) if row[0] < base]
        connection.executemany("DELETE FROM records WHERE sequence = ?", kept)
        connection.executemany("DELETE FROM transactions WHERE txn = ?", forgotten)
        self._facets.forget(connection, [txn for txn, *_ in rows])
        connection.executemany("DELETE FROM parkings WHERE txn = ?", forgotten)
        connection.executemany("DELETE FROM resolutions WHERE txn = ?", forgotten)
        connection.executemany("DELETE FROM keys WHERE digest = ?", [(digest_of_key(key),) for _, key, *_ in rows])
        return len(forgotten)

    def _compact(self, limit: int) -> None:
        """Pass over up to `limit` of the oldest records that are not young: those of forgotten transactions go.

        Those that stay (of a transaction parked for weeks) lie below the base from then on, and go with their
        transaction; they are told from missing ones by the index alone.
        """
        connection = self._database.connection
        base: int = self._database.meta("base_sequence")
        rows = connection.execute(
            "SELECT sequence, data FROM records WHERE sequence >= ? ORDER BY sequence LIMIT ?", (base, limit)).fetchall()
        of = {sequence: decode_record(data).record.transaction for sequence, data in rows}
        known = {row[0] for row in select_in(
            connection, "SELECT txn FROM transactions WHERE txn IN", list(dict.fromkeys(of.values())))}
        oldest = oldest_id(self._watermark_ms)
        passed = list(takewhile(lambda sequence: of[sequence] < oldest or of[sequence] not in known, of))
        connection.executemany(
            "DELETE FROM records WHERE sequence = ?", [(sequence,) for sequence in passed if of[sequence] not in known])
        self._database.set_meta("base_sequence", base + len(passed))
