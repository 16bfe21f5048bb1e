"""What the checker reads: one snapshot of the transaction log and of every service's database."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from orchestrator.app import App, LedgerRow
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.reader import LogReader, StoredRecord


class LogView(Protocol):
    """What the checker needs of the transaction log; `LogReader` is one."""

    @property
    def watermark_ms(self) -> int:
        """Transactions that began before it and ended may have been purged, Unix ms."""

    def records(self) -> Iterator[StoredRecord]:
        """All records in the order in which they became durable."""

    def epochs(self) -> dict[int, int]:
        """The current epoch by partition."""


@runtime_checkable
class LedgerView(Protocol):
    """What the checker needs of a service's database; `actors.reader.StoreReader` is one."""

    def rows(self, transaction: str | None = None) -> Iterator[LedgerRow]:
        """All rows, or one transaction's, in id order."""

    def state(self) -> Mapping[str, Any]:
        """All keys and values."""

    def epochs(self) -> dict[int, int]:
        """The highest epoch seen by partition."""

    def purged(self) -> bool:
        """Whether old rows are gone."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Snapshots, the ledgers' older than the log's: it then knows the cause of every row.

    Attributes:
        settled_sequence: the log's last record before the ledgers were opened; what ended later may not have been seen
            there.
    """

    log: LogView
    ledgers: Mapping[str, LedgerView]
    settled_sequence: int = sys.maxsize


@contextmanager
def open_stores(data_dir: Path, app: App) -> Iterator[Stores]:
    """The stores of a data directory, read-only; what went on while they were opened counts as open.

    Raises:
        DefiniteError: E_STORE_REFUSED where one cannot be read; E_CONFIG where a service's reader shows no state.
    """
    directory = DataDirectory(data_dir)
    with ExitStack() as stack:
        with closing(LogReader(directory.log_path)) as earlier:
            settled_sequence = earlier.last_record
        ledgers: dict[str, LedgerView] = {}
        for name, service in app.by_service.items():
            reader = stack.enter_context(closing(service.reader(directory.service_path(name))))
            if not isinstance(reader, LedgerView):
                raise DefiniteError(ErrorCode.CONFIG, f"service {name!r}: its reader shows no state, so it cannot be checked")
            ledgers[name] = reader
        log = stack.enter_context(closing(LogReader(directory.log_path)))
        yield Stores(log, ledgers, settled_sequence)
