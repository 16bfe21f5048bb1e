"""Random choices of a schedule: a hash of the seed, the kind of choice and its number, so that none shifts another."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")
Draw = tuple[str, int]  # which kind of fault, its number-th draw
_RANGE = 1 << 32


class Chance:
    """Coins and dice that follow from the seed alone.

    Args:
        seed: of the schedule.
        without: faults that shall not happen although their coin says so: how a failing schedule is shrunk.

    Attributes:
        fired: the faults that did happen.
    """

    __slots__ = ("_count", "_seed", "_without", "fired")

    def __init__(self, seed: int, without: Collection[Draw] = ()) -> None:
        self._seed = seed
        self._without = frozenset(without)
        self._count: dict[str, int] = {}
        self.fired: list[Draw] = []

    def hits(self, kind: str, probability: float) -> bool:
        """Whether a fault of that kind happens here; it is counted if it does."""
        if probability <= 0:
            return False
        number = self._count[kind] = self._count.get(kind, 0) + 1
        if _hash(self._seed, kind, number) >= probability * _RANGE or (kind, number) in self._without:
            return False
        self.fired.append((kind, number))
        return True

    def planned(self, kind: str) -> bool:
        """Whether the next planned fault of that kind is to happen; it is counted if it is."""
        number = self._count[kind] = self._count.get(kind, 0) + 1
        if (kind, number) in self._without:
            return False
        self.fired.append((kind, number))
        return True

    def between(self, kind: str, low: int, high: int) -> int:
        """A whole number, both ends included."""
        number = self._count[kind] = self._count.get(kind, 0) + 1
        return low + (_hash(self._seed, kind, number) * (high - low + 1) >> 32)

    def pick(self, kind: str, options: Sequence[T]) -> T:
        """One of several."""
        return options[self.between(kind, 0, len(options) - 1)]

    def shuffled(self, kind: str, items: Sequence[T]) -> list[T]:
        """All of them in an order of chance."""
        return [items[index] for _, index in sorted((self.between(kind, 0, _RANGE), i) for i in range(len(items)))]


_KINDS: dict[str, int] = {}


def _hash(seed: int, kind: str, number: int) -> int:
    """32 bits; hashes of whole numbers are the same in every process."""
    code = _KINDS.get(kind)
    if code is None:
        code = _KINDS[kind] = crc32(kind.encode())
    mixed = (seed * 0x9E3779B97F4A7C15 + code * 0xBF58476D1CE4E5B9 + number * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return mixed >> 32
