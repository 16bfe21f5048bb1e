"""Which prepared rows have been unheard of for too long, and when to ask about each again; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.protocol.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actors.ledger import Key

ASK_AGAIN_MS_MAX = 60_000


class Doubts:
    """The prepared rows of a participant by the time at which to ask for their decision; all times monotonic, ms.

    A participant never undoes a yes on its own: it asks, with backoff and jitter, for ever.

    Args:
        after_ms: a row unheard of for so long is in doubt.
    """

    def __init__(self, after_ms: int) -> None:
        self._after_ms = after_ms
        self._backoff = RetryPolicy(backoff_ms=after_ms, backoff_ms_max=max(ASK_AGAIN_MS_MAX, after_ms))
        self._quiet: dict[Key, int] = {}  # due times; in insertion order they only rise
        self._asked: dict[Key, tuple[int, int]] = {}  # times asked, due time

    def __len__(self) -> int:
        return len(self._quiet) + len(self._asked)

    @property
    def in_doubt(self) -> int:
        """Rows that were asked about and are not settled."""
        return sum(1 for times, _ in self._asked.values() if times)

    def recovered(self, keys: Iterable[Key], now_ms: int) -> None:
        """Rows found at opening; spread out, since all services may have opened at once."""
        for key in keys:
            self._asked[key] = (0, now_ms + self._after_ms + self._backoff.delay_ms(1, key[0]))

    def heard(self, key: Key, now_ms: int) -> None:
        """The row was prepared, or its prepare came again."""
        self._asked.pop(key, None)
        self._quiet.pop(key, None)
        self._quiet[key] = now_ms + self._after_ms

    def settled(self, key: Key) -> None:
        """The row is prepared no more."""
        if self._quiet.pop(key, None) is None:
            self._asked.pop(key, None)

    def due(self, now_ms: int, keys_max: int) -> list[Key]:
        """Rows to ask about now; each comes again after a growing delay."""
        due = [key for key, (_, due_ms) in self._asked.items() if due_ms <= now_ms][:keys_max]
        for key, due_ms in self._quiet.items():
            if due_ms > now_ms or len(due) >= keys_max:
                break
            due.append(key)
        for key in due:
            self._quiet.pop(key, None)
            times = self._asked.get(key, (0, 0))[0] + 1
            # at least half of the ceiling: full jitter alone could ask again at once
            floor_ms = min(self._backoff.backoff_ms_max, self._after_ms << min(times - 1, 20)) // 2
            self._asked[key] = (times, now_ms + floor_ms + self._backoff.delay_ms(times, key[0]) // 2)
        return due
