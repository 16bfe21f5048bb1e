"""Stores to be broken: copies of real ones in memory that implement the checker's ports."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from loadgen.checker.stores import Stores, open_stores
from orchestrator.log.reader import StoredRecord
from orchestrator.protocol.records import Decided, Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator.app import App, LedgerRow
    from orchestrator.protocol.records import Record


@dataclass
class MemoryLog:
    stored: list[StoredRecord]
    given: dict[int, int]
    watermark_ms: int = 0

    def records(self) -> Iterator[StoredRecord]:
        return iter(self.stored)

    def epochs(self) -> dict[int, int]:
        return self.given

    def of(self, kind: type, transaction: str) -> int:
        """Where the record of that kind stands."""
        records = [(type(one.record), one.record.transaction) for one in self.stored]
        return records.index((kind, transaction))

    def replace(self, kind: type, transaction: str, **changes: Any) -> None:
        """Change fields of one record."""
        at = self.of(kind, transaction)
        record = msgspec.structs.replace(self.stored[at].record, **changes)
        self.stored[at] = msgspec.structs.replace(self.stored[at], record=record)

    def append(self, record: Record) -> None:
        last = self.stored[-1]
        self.stored.append(StoredRecord(last.sequence + 1, last.at_ms + 1, record))

    def drop(self, kind: type, transaction: str) -> None:
        del self.stored[self.of(kind, transaction)]

    def forget(self, transaction: str) -> None:
        """The transaction without its end: the log's tail was lost."""
        for kind in (Ended, Decided):
            self.drop(kind, transaction)


@dataclass
class MemoryLedger:
    all_rows: list[LedgerRow]
    values: dict[str, Any]
    heard: dict[int, int]
    let_go: bool = field(default=False)

    def rows(self, transaction: str | None = None) -> Iterator[LedgerRow]:
        return (row for row in self.all_rows if transaction in (None, row.transaction))

    def held(self) -> Iterator[LedgerRow]:
        return (row for row in self.all_rows if row.state == "PREPARED")

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(self.values)

    def epochs(self) -> dict[int, int]:
        return self.heard

    def purged(self) -> bool:
        return self.let_go

    def close(self) -> None:
        pass

    def replace(self, which: Callable[[LedgerRow], bool], **changes: Any) -> LedgerRow:
        """Change fields of the first row that fits; returns it as it was."""
        at = next(at for at, row in enumerate(self.all_rows) if which(row))
        row = self.all_rows[at]
        self.all_rows[at] = msgspec.structs.replace(row, **changes)
        return row


def in_memory(data_dir: Path, app: App) -> Stores:
    """A copy of a data directory's stores."""
    with open_stores(data_dir, app) as stores:
        ledgers = {
            name: MemoryLedger(list(one.rows()), dict(one.state().items()), one.epochs())
            for name, one in stores.ledgers.items()}
        return Stores(MemoryLog(list(stores.log.records()), stores.log.epochs(), stores.log.watermark_ms), ledgers)
