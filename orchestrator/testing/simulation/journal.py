"""The simulated disk's file: a journal of batches, each written, then synced; a crash may come at either."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any


class Point(StrEnum):
    """Where something can go wrong with one commit."""

    WRITE = "before the write"
    SYNC = "between write and sync"
    SYNCED = "after the sync"


class Journal:
    """What is durable of one role.

    Args:
        name: of the role whose file it is.
        entries: what it holds already.

    Attributes:
        beginning: the entries it was made with; the same object for journals that began alike.
        entries: of committed batches, oldest first; the last ones may be unsynced.
        synced: so many of them survive a loss of power.
        owner: number of openings: an earlier owner must not write any more.
        at: called at every point of every commit; what it raises is what the disk does.
    """

    def __init__(self, name: str, entries: Iterable[Any] = ()) -> None:
        self.name = name
        self.beginning: tuple[Any, ...] = tuple(entries)  # of a tuple: itself
        self.entries = list(self.beginning)
        self.synced = len(self.entries)
        self.owner = 0
        self.at: Callable[[Journal, Point], None] = _nothing

    def commit(self, entry: Any) -> None:
        """Write and sync one batch."""
        self.at(self, Point.WRITE)
        self.entries.append(entry)
        self.at(self, Point.SYNC)
        self.synced = len(self.entries)
        self.at(self, Point.SYNCED)

    def lose_unsynced(self, kept: int) -> int:
        """Power fails: of the unsynced batches the first `kept` survive; returns how many are gone."""
        length = min(self.synced + kept, len(self.entries))
        lost = len(self.entries) - length
        del self.entries[length:]
        self.synced = length
        return lost


def _nothing(_journal: Journal, _point: Point) -> None:
    """No fault."""
