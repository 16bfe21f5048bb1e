"""Bounded memory of what was used lately, and of what cannot be there."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
_NOTHING: Final[Any] = object()


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
        value: V = self._young.get(key, _NOTHING)
        if value is _NOTHING:
            value = self._old.pop(key, _NOTHING)
            if value is _NOTHING:
                return default
            self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember a value."""
        if len(self._young) >= self._half and key not in self._young:
            self._old, self._young = self._young, {}
        if self._old:
            self._old.pop(key, None)
        self._young[key] = value

    def forget(self, key: K) -> None:
        """Drop a value."""
        self._young.pop(key, None)
        self._old.pop(key, None)


class NewIds:
    """Tells ids that are certainly not stored without looking: above a line, every id that was stored is known here.

    Ids rise with time, so that almost every new one lies above the line. The line rises when too many are known.

    Args:
        highest: no id above it is stored when this is made.
        ids_max: so many are known at most.
    """

    __slots__ = ("_half", "_line", "_middle", "_old", "_young")

    def __init__(self, highest: str, ids_max: int) -> None:
        self._half = max(ids_max // 2, 1)
        self._line = self._middle = highest
        self._old: set[str] = set()  # stored, above the line and up to the middle
        self._young: set[str] = set()  # stored, above the middle

    def __len__(self) -> int:
        return len(self._old) + len(self._young)

    def absent(self, identity: str) -> bool:
        """True if it is certainly not stored; False says nothing."""
        if identity > self._middle:
            return identity not in self._young
        return identity > self._line and identity not in self._old

    def stored(self, identity: str) -> None:
        """It is stored now."""
        if identity > self._middle:
            self._young.add(identity)
        elif identity > self._line:
            self._old.add(identity)
        if len(self) > 2 * self._half or len(self._young) > self._half:
            self._raise_line()

    def _raise_line(self) -> None:
        highest = max(self._young, default=self._middle)
        self._line, self._middle = self._middle, highest
        self._old, self._young = self._young, set()
