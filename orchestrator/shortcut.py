"""Whether a turn of work that ends with a commit is done on the event loop itself, or handed to a thread.

A thread keeps the loop free while a disk takes its time, and costs two wake-ups: the thread's, and then the loop's. For a
lonely operation these cost more than the work. So a turn of few items stays on the loop while such turns have been short;
what arrives meanwhile waits in its socket, and makes the next turn a bigger one.
"""

from __future__ import annotations

ITEMS_MAX = 16
SECONDS_MAX = 0.004
_WEIGHT = 8  # of what was known against one more turn


class Shortcut:
    """Remembers how long small turns take, wherever they were done; used by one thread at a time."""

    __slots__ = ("_average_s",)

    def __init__(self) -> None:
        self._average_s = SECONDS_MAX  # unknown: the first one is done by the thread

    def open(self, items: int) -> bool:
        """Whether a turn of so many items can be done at once."""
        return items <= ITEMS_MAX and self._average_s < SECONDS_MAX

    def took(self, items: int, seconds: float) -> None:
        """A turn has been done; a long one closes the way at once, and several short ones open it again."""
        if items > ITEMS_MAX:
            return
        self._average_s = max(seconds, self._average_s - (self._average_s - seconds) / _WEIGHT)
