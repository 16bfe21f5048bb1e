"""What users subclass: a service is a plain class with the methods of each operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.host import ServiceHost
from actors.local import JournalReader, LocalService, row_history
from actors.operation import NotYet, Operation, Refused, State, bind_operations, check_service_name, operation_names
from actors.reader import StoreReader
from actors.store import create_store
from orchestrator.app import ServiceAudit
from orchestrator.files import REAL_FILES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from orchestrator.app import LedgerReader, LedgerRow, StepState
    from orchestrator.config import FaultSettings
    from orchestrator.files import Files
    from orchestrator.local import Journal, LocalParticipant, StorePlace, Watch

__all__ = ["NotYet", "Operation", "Refused", "Service", "State"]


class Service:
    """Base of every service: a participant of transactions with its own state and idempotency ledger.

    A subclass has a `name` and, for each operation x, either `prepare_x`, `commit_x` and `rollback_x` (it votes) or
    `perform_x` (after the commit, never undone), plus `async ask_x` where something must be waited for first. Handlers
    are synchronous, deterministic functions of (state, request); requests and results are pydantic models. A value
    read from the state is a fresh copy: assign it to change anything. What a handler wrote is dropped if it raises. A
    request is only read: of a frozen model, commit and rollback may get the very one that prepare got.
    What takes (stock, money) takes at prepare, what gives gives at commit, and rollback takes back what prepare did.

    The class must be importable, since every actor imports it by the app's path; a subclass with an `__init__` of its
    own calls `super().__init__()`.

    Raises:
        DefiniteError: E_SERVICE_DEFINITION where a method or an annotation is wrong, naming class and method.
    """

    name: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        operation_names(cls)

    def __init__(self) -> None:
        check_service_name(type(self), self.name)
        self.bound: Mapping[str, Operation] = bind_operations(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.bound)})"

    def audit(
        self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False,  # noqa: ARG002 - for subclasses
    ) -> ServiceAudit:
        """The service's own conservation checks over one snapshot; by default there is nothing to check.

        Args:
            state: all keys and values.
            rows: the ledger, once, in id order; perhaps millions.
            purged: whether rows older than the retention period are gone, so that the rows that are left may account
                for less than the state, never for more. Rows that are held are never purged.
        """
        return ServiceAudit({}, [])

    def operations(self) -> Mapping[str, bool]:
        """Operation names; True where it prepares, False where it performs."""
        return {name: operation.prepares for name, operation in self.bound.items()}

    def actor_class(self) -> type:
        """The plain class to run as a Ray actor."""
        return ServiceHost

    def create(self, path: Path, files: Files = REAL_FILES) -> str:
        """Create the service's database durably, resumably and never over existing data; returns its uuid."""
        return create_store(path, self.name, files)

    def reader(self, path: Path, files: Files = REAL_FILES) -> LedgerReader:
        """Open the service's database read-only.

        Raises:
            DefiniteError: E_STORE_REFUSED where there is none.
        """
        return StoreReader(path, self.audit, files=files)

    def local(
        self, place: Journal | StorePlace, now_ms: int, in_doubt_after_ms: int, faults: FaultSettings | None = None,
        *, watch: Watch | None = None,
    ) -> LocalParticipant:
        """A life of the service without actor, thread or network (see `orchestrator.local`)."""
        return LocalService(self, place, now_ms, in_doubt_after_ms, faults, watch=watch)

    def local_reader(self, journal: Journal) -> LedgerReader:
        """What a journal holds."""
        return JournalReader(self, journal)

    def local_history(self, journal: Journal) -> Iterator[StepState]:
        """Every state that any step ever had in a journal, in the order of writing."""
        return row_history(journal)
