"""One file of a simulated disk: what its page cache holds, what is durable, and the writes in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from random import Random

SECTOR: Final = 512
_TORN_SHARE: Final = 0.3  # of the unsynced writes that survive a power loss


class Change(NamedTuple):
    """One unsynced write; without data: the file was cut (or grown) to `offset` bytes."""

    offset: int
    data: bytes | None


class Inode:
    """The contents of one file."""

    __slots__ = ("cached", "durable", "reserved", "unsynced")

    def __init__(self, content: bytes = b"") -> None:
        self.cached: bytes | bytearray = content
        self.durable: bytes | bytearray = content  # shared with forks of the disk until it is written
        self.unsynced: list[Change] = []
        self.reserved = 0

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return max(len(self.cached), self.reserved)

    def change(self, change: Change) -> None:
        """Apply a change to the page cache."""
        self.cached = applied(self.cached, change)
        self.unsynced.append(change)

    def sync(self) -> None:
        """Make all changes durable."""
        for change in self.unsynced:
            self.durable = applied(self.durable, change)
        self.unsynced.clear()

    def sync_part(self, random: Random, share: float) -> None:
        """A sync that fails: a part is durable, and the rest will never be written, since its pages are taken for clean."""
        for change in self.unsynced:
            if random.random() < share:
                self.durable = applied(self.durable, change)
        self.unsynced.clear()

    def lose_unsynced(self, random: Random, share: float) -> None:
        """Power loss: what is durable, and any part of the rest."""
        kept = [change for change in self.unsynced if random.random() < share]
        for index, change in enumerate(kept):
            if change.data is not None and random.random() < _TORN_SHARE:
                cut = random.randrange(len(change.data) + 1)
                if index < len(kept) - 1:  # between sectors
                    cut = max((change.offset + cut) // SECTOR * SECTOR - change.offset, 0)
                kept[index] = Change(change.offset, change.data[:cut])
        for change in kept:
            self.durable = applied(self.durable, change)
        self.unsynced.clear()
        self.cached = bytes(self.durable)


class Handle:
    """A file that a process has open, or its lock."""

    __slots__ = ("alive", "inode", "path")

    def __init__(self, path: str, inode: Inode) -> None:
        self.path, self.inode = path, inode
        self.alive = True


def applied(content: bytes | bytearray, change: Change) -> bytearray:
    """The content after a change; a bytearray is changed in place."""
    changed = content if isinstance(content, bytearray) else bytearray(content)
    if change.data is None:
        del changed[change.offset :]
        changed.extend(bytes(change.offset - len(changed)))
        return changed
    if len(changed) < change.offset:
        changed.extend(bytes(change.offset - len(changed)))
    changed[change.offset : change.offset + len(change.data)] = change.data
    return changed
