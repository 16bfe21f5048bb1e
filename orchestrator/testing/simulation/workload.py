"""What a simulated deployment runs: an app, the saga that is tried, and books that are open already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.app import App
from orchestrator.protocol.records import Decided
from orchestrator.saga import Saga
from orchestrator.testing.simulation.stores import JournalStores, Stores

if TYPE_CHECKING:
    from orchestrator.testing.simulation.world import World


class Books(Protocol):
    """The durable state of a deployment at rest.

    Attributes:
        app: services and sagas.
        decisions: of the transactions in it.
        ended_ms: simulated time that has passed.
    """

    @property
    def app(self) -> App: ...  # noqa: D102 - see above

    @property
    def decisions(self) -> Mapping[str, Decided]: ...  # noqa: D102

    @property
    def ended_ms(self) -> int: ...  # noqa: D102

    def stores(self, world: World) -> Stores:
        """Files of a world's own that begin with it."""


@dataclass(frozen=True, slots=True)
class JournalBooks:
    """Books in journals.

    Attributes:
        entries: of each role's journal.
    """

    app: App
    entries: Mapping[str, Sequence[Any]]
    decisions: Mapping[str, Decided] = field(default_factory=dict)
    ended_ms: int = 0

    def stores(self, world: World) -> Stores:
        """Journals that begin with these."""
        return JournalStores(world, self)


def empty_books(app: App) -> JournalBooks:
    """Nothing has happened yet."""
    return JournalBooks(app, {"log": (), **{service.name: () for service in app.services}})


class Workload:
    """A saga of an app with inputs to try it on.

    Args:
        app: services and sagas.
        saga: which one is tried; its `example` gives the inputs.

    Raises:
        DefiniteError: E_UNKNOWN_SAGA; E_SAGA_DEFINITION where it has no example, or one that does not fit.
    """

    def __init__(self, app: App, saga: str) -> None:
        self.app = app
        self.saga: Saga = app.saga(saga)
        self._payloads: dict[int, bytes] = {}
        self.payload(0)

    def payload(self, number: int) -> bytes:
        """The encoded n-th sample input, from 0."""
        found = self._payloads.get(number)
        if found is None:
            found = self._payloads[number] = self.saga.encode_input(self.saga.sample(number))
        return found
