"""An event loop that never waits: when nothing is ready, its clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class _Skipping(selectors.DefaultSelector):
    """Looks for events without waiting, and counts the time it did not wait for."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)  # nothing but another thread can go on from here
        self.skipped_s += max(timeout, 0.0)
        return super().select(0)


class ImpatientLoop(asyncio.SelectorEventLoop):
    """Runs a coroutine to its end at once, however long it sleeps; time passes only by its timers."""

    def __init__(self) -> None:
        self._clock = _Skipping()
        super().__init__(self._clock)

    def time(self) -> float:
        """Seconds skipped so far."""
        return self._clock.skipped_s

    def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns; raises what it raises."""
        return self.run_until_complete(work)
