"""Following a transaction log as it grows, beside its writer or with everything down."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.files import REAL_FILES
from orchestrator.log.finding import TransactionQuery, TransactionSummary
from orchestrator.log.reader import LogReader, StoredRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

    from orchestrator.files import Files

POLL_S = 0.1  # a look costs some 50 microseconds: another process writes the file, and there is no event to wait for

Change = tuple[StoredRecord, TransactionSummary]


class LogFollower:
    """Reads what becomes durable from now on.

    Args:
        path: of the log's database.
        files: the disk.

    Raises:
        DefiniteError: E_STORE_REFUSED where it is missing, or no transaction log of this program.
    """

    def __init__(self, path: Path, files: Files = REAL_FILES) -> None:
        self._path, self._files = path, files
        self._open()
        self._sequence = self._reader.last_record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def transaction(self, transaction: str, limit_s: float | None = None) -> Iterator[Change]:
        """Everything that the log says of one transaction, from its begin to its end.

        Args:
            transaction: its id.
            limit_s: give up after so long; None = never.

        Raises:
            DefiniteError: E_UNKNOWN: the log has no such transaction; E_STORE_REFUSED.
        """
        told = 0
        for _ in self._looks(limit_s):
            found = self._reader.lookup(transaction)
            if found is None:
                raise DefiniteError(ErrorCode.UNKNOWN, f"the log has no transaction {transaction}")
            history = self._reader.history(transaction)
            yield from ((record, found) for record in history[told:])
            told = len(history)
            if found.ended_ms:
                return

    def changes(self, query: TransactionQuery, limit_s: float | None = None) -> Iterator[Change]:
        """New records of the transactions that fit by then, in the order of durability.

        Args:
            query: which ones; its limit and `after` mean nothing here.
            limit_s: end after so long; None = never.

        Raises:
            DefiniteError: E_STORE_REFUSED.
        """
        for _ in self._looks(limit_s):
            for record in self._reader.records_after(self._sequence):
                self._sequence = record.sequence
                found = self._reader.lookup(record.record.transaction, query)
                if found is not None:
                    yield record, found

    def _looks(self, limit_s: float | None) -> Iterator[None]:
        """Now, and whenever the log has grown; also at the end."""
        end_s = None if limit_s is None else time.monotonic() + limit_s
        pause = threading.Event()  # never set
        self._renewed()
        yield
        while end_s is None or time.monotonic() < end_s:
            pause.wait(POLL_S if end_s is None else min(POLL_S, max(end_s - time.monotonic(), 0)))
            if self._renewed():
                yield

    def _renewed(self) -> bool:
        """Whether the log has grown since the last look; a file that took its place is opened."""
        if self._files.identity(self._path) != self._identity:
            self._reader.close()
            self._open()
            return True
        return self._reader.renew()

    def _open(self) -> None:
        self._identity = self._files.identity(self._path)
        self._reader = LogReader(self._path, self._files)
