"""Due times of transactions, in coarse buckets: setting one costs a dictionary write, however many there are."""

from __future__ import annotations

import heapq

BUCKET_MS = 20


class Timers:
    """At most a few entries per transaction; an entry that is no longer meant is skipped by whoever looks at it."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[str]] = {}
        self._order: list[int] = []

    def arm(self, transaction: str, due_ms: int) -> None:
        """Have `transaction` named by `due` at the first bucket boundary not before `due_ms`."""
        number = -(-due_ms // BUCKET_MS)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = []
            heapq.heappush(self._order, number)
        bucket.append(transaction)

    def due(self, now_ms: int) -> list[str]:
        """Remove and return what is due, in order."""
        found: list[str] = []
        while self._order and self._order[0] * BUCKET_MS <= now_ms:
            found.extend(self._buckets.pop(heapq.heappop(self._order)))
        return found

    @property
    def next_ms(self) -> int | None:
        """When to call `due` next; None if nothing is armed."""
        return self._order[0] * BUCKET_MS if self._order else None
