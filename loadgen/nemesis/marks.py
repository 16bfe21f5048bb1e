"""How long callers had to wait for what was killed: from the kill to the first outcome that needs its successor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.protocol.identifiers import partition_of_key

NEEDED_TO_COMMIT = frozenset({"inventory", "payment", "shipping"})


@dataclass(frozen=True, slots=True)
class Mark:
    """A kill that is waited for.

    Attributes:
        number: names it.
        actor: who was killed.
        at_ns: when, by the machine's monotonic clock.
    """

    number: int
    actor: str
    at_ns: int


class Marks:
    """Resolves each mark with the first outcome, of an order submitted after the kill, that its actor had a part in.

    A shard has a part in the orders of its partitions, the log in all of them; a service that prepares has one in those
    that committed. Nobody waits for a service that performs after the commit: it has no mark.

    Args:
        shards: how many there are.
        resolved: told the mark and the milliseconds that it took, on the thread that told the outcome.
    """

    def __init__(self, shards: int, resolved: Callable[[Mark, float], None]) -> None:
        self._shards, self._resolved = shards, resolved
        self._open: tuple[Mark, ...] = ()
        self._lock = threading.Lock()

    def add(self, mark: Mark) -> None:
        """Wait for one more."""
        with self._lock:
            self._open = (*self._open, mark)

    def see(self, key: str, began_ns: int, told_ns: int, *, committed: bool) -> None:
        """An outcome was told; cheap while nothing is waited for."""
        for mark in self._open:
            if began_ns > mark.at_ns and self.has_part(mark.actor, key, committed=committed) and self._take(mark):
                self._resolved(mark, (told_ns - mark.at_ns) / 1e6)

    def has_part(self, actor: str, key: str, *, committed: bool) -> bool:
        """Whether that outcome could not have come about without the actor."""
        if actor.startswith("shard-"):
            return partition_of_key(key) % self._shards == int(actor.removeprefix("shard-"))
        return actor == "log" or (committed and actor in NEEDED_TO_COMMIT)

    def _take(self, mark: Mark) -> bool:
        with self._lock:
            if mark not in self._open:
                return False
            self._open = tuple(other for other in self._open if other != mark)
            return True


def is_waited_for(actor: str) -> bool:
    """Whether callers wait for what this actor does."""
    return actor == "log" or actor.startswith("shard-") or actor in NEEDED_TO_COMMIT
