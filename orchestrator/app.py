"""An app: which services and sagas a deployment runs. Named by import path (`package.module:attribute`) everywhere."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
from pydantic import BaseModel

from orchestrator.config import FaultSettings
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.files import REAL_FILES, Files
from orchestrator.local import Journal, LocalParticipant, StorePlace, Watch
from orchestrator.saga import Saga, Step


class LedgerRow(msgspec.Struct, frozen=True):
    """One ledger row, as the audit and `raytx show` read it."""

    transaction: str
    step: str
    operation: str
    state: str  # PREPARED, REFUSED, COMMITTED, ROLLED_BACK, DONE
    request: Any  # plain data
    result: Any  # plain data: the stored vote
    code: str
    message: str
    attempts: int
    prepared_ms: int  # Unix ms of the first write, 0 if none
    finished_ms: int  # Unix ms of the last transition, 0 if none


class StepState(msgspec.Struct, frozen=True, gc=False):
    """Where one step stands in a ledger: the part of its row that says what the participant did, as `LedgerRow` has it."""

    transaction: str
    step: str
    operation: str
    state: str


class ServiceAudit(msgspec.Struct):
    """What a service's own audit says: totals by name (integers) and violations for a person, the first one first."""

    totals: dict[str, int]
    violations: list[str]


@runtime_checkable
class LedgerReader(Protocol):
    """Read-only view of one participant's database, offline or beside its live owner; one consistent snapshot."""

    def rows(self, transaction: str | None = None) -> Iterator[LedgerRow]:
        """All rows, or one transaction's, in id order."""

    def states(self) -> Iterator[StepState]:
        """Where every step stands, in id order; much cheaper than `rows`, since no request and no result is read.

        Raises:
            DefiniteError: E_STORE_REFUSED where the ledger cannot be read to its end.
        """

    def audit(self) -> ServiceAudit:
        """The service's own conservation checks over state and ledger of the same snapshot."""

    def close(self) -> None:
        """Release the snapshot."""


@runtime_checkable
class Participant(Protocol):
    """What a deployment needs to know of a service; `actors.Service` implements it."""

    name: str

    def operations(self) -> Mapping[str, bool]:
        """Operation names; True where it prepares (and so has commit and rollback), False where it performs."""

    def actor_class(self) -> type:
        """The plain class to run as a Ray actor, constructed as `cls(ParticipantSpec)`."""

    def create(self, path: Path, files: Files = REAL_FILES) -> str:
        """Create the database durably (resumable, never over existing data); returns its uuid."""

    def reader(self, path: Path, files: Files = REAL_FILES) -> LedgerReader:
        """Open its database read-only."""

    def local(
        self, place: Journal | StorePlace, now_ms: int, in_doubt_after_ms: int, faults: FaultSettings | None = None,
        *, watch: Watch | None = None,
    ) -> LocalParticipant:
        """A life of it without actor, thread or network, over a journal or its real store (see `orchestrator.local`)."""

    def local_reader(self, journal: Journal) -> LedgerReader:
        """What a journal holds."""

    def local_history(self, journal: Journal) -> Iterator[StepState]:
        """Every state that any step ever had in a journal, in the order of writing."""


class ParticipantSpec(msgspec.Struct, frozen=True):
    """What a participant's actor is constructed with; plain data, so that a restarted actor gets the same."""

    name: str
    app: str  # import path
    data_dir: str
    deployment: str  # name of the deployment: the Ray namespace
    run: str  # changes at every `up`
    settings: bytes  # msgpack of orchestrator.config.Settings


@dataclass(frozen=True, slots=True, eq=False)
class App:
    """Services and sagas that are deployed together.

    Args:
        services: the participants.
        sagas: their definitions; several versions of one name may stand side by side. The first one is what the totals
            of audit and load count as orders.
        opening: (saga name, input) of the transactions that open the books for the sagas' examples, in order:
            `orchestrator.testing` runs them, and `raytx load --workload MODULE:SAGA`.

    Raises:
        DefiniteError: E_SAGA_DEFINITION or E_SERVICE_DEFINITION, naming saga, step and service.
    """

    services: Sequence[Participant]
    sagas: Sequence[Saga]
    opening: Sequence[tuple[str, Any]] = ()
    by_service: Mapping[str, Participant] = field(init=False)

    def __post_init__(self) -> None:
        by_service = {service.name: service for service in self.services}
        if len(by_service) != len(self.services):
            raise DefiniteError(ErrorCode.SERVICE_DEFINITION, "two services of the app share a name: rename one")
        object.__setattr__(self, "by_service", by_service)
        seen: set[tuple[str, int]] = set()
        for saga in self.sagas:
            if (saga.name, saga.version) in seen:
                raise DefiniteError(ErrorCode.SAGA_DEFINITION, f"saga {saga.name!r} version {saga.version} stands twice")
            seen.add((saga.name, saga.version))
            for step in saga.steps:
                self._check_step(saga, step)

    def saga(self, name: str, version: int | None = None) -> Saga:
        """The saga of that name, its newest version unless one is asked for.

        Raises:
            DefiniteError: E_UNKNOWN_SAGA.
        """
        found = [s for s in self.sagas if s.name == name and version in (None, s.version)]
        if not found:
            known = ", ".join(sorted({s.name for s in self.sagas}))
            which = name if version is None else f"{name} version {version}"
            raise DefiniteError(ErrorCode.UNKNOWN_SAGA, f"saga: no {which!r} in this app; it has {known}")
        return max(found, key=lambda s: s.version)

    def opening_inputs(self) -> list[tuple[Saga, BaseModel]]:
        """What opens the books, checked.

        Raises:
            DefiniteError: E_SAGA_DEFINITION, saying which entry of `opening` is wrong and why.
        """
        found = []
        for number, entry in enumerate(self.opening):
            try:
                name, data = entry
                saga = self.saga(name)
                found.append((saga, saga.validate_input(data)))
            except (DefiniteError, TypeError, ValueError) as error:
                told = error.message if isinstance(error, DefiniteError) else "write (saga name, input)"
                raise DefiniteError(ErrorCode.SAGA_DEFINITION, f"opening {number} of the app: {told}") from None
        return found

    def _check_step(self, saga: Saga, step: Step) -> None:
        where = f"saga {saga.name!r}, step {step.name!r}"
        service = self.by_service.get(step.service)
        if service is None:
            raise DefiniteError(ErrorCode.SAGA_DEFINITION, f"{where}: service {step.service!r} is not in the app")
        prepares = service.operations().get(step.operation)
        if prepares is None:
            raise DefiniteError(
                ErrorCode.SAGA_DEFINITION, f"{where}: service {step.service!r} has no operation {step.operation!r}")
        if prepares == step.after_commit:
            needs = "perform" if step.after_commit else "prepare, commit and rollback"
            raise DefiniteError(
                ErrorCode.SAGA_DEFINITION, f"{where}: operation {step.operation!r} of {step.service!r} must have {needs}")


def load_app(path: str) -> App:
    """Import an app by `package.module:attribute`.

    Raises:
        DefiniteError: E_CONFIG, saying what could not be found.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DefiniteError(ErrorCode.CONFIG, f"app: cannot load {path!r} ({error}); write package.module:attribute") from None
    if not isinstance(found, App):
        raise DefiniteError(ErrorCode.CONFIG, f"app: {path!r} is a {type(found).__name__}, not an orchestrator.App")
    return found


def services_used(sagas: Iterable[Saga]) -> set[str]:
    """Names of all services that the sagas' steps call."""
    return {step.service for saga in sagas for step in saga.steps}
