"""A bounded map of what was used lately."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class RecentMap(Generic[K, V]):
    """Two generations: what is used moves to the young one, and the old one is dropped whole when the young is full.

    Cheaper than moving an entry to the end at each use, with the same bound.

    Args:
        entries_max: at most so many are kept, at least half as many of the ones used last.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, entries_max: int) -> None:
        self._half = max(entries_max // 2, 1)
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: K, default: V) -> V:
        """The value, or the default."""
        if key in self._young:
            return self._young[key]
        if key not in self._old:
            return default
        value = self._old.pop(key)
        self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember a value."""
        if len(self._young) >= self._half and key not in self._young:
            self._old, self._young = self._young, {}
        self._old.pop(key, None)
        self._young[key] = value

    def forget(self, key: K) -> None:
        """Drop a value."""
        self._young.pop(key, None)
        self._old.pop(key, None)
