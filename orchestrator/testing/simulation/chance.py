"""Random choices of a schedule: a hash of the seed, the kind of choice and its number, so that none shifts another."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")
Draw = tuple[str, int]  # which kind of fault, its number-th draw
_RANGE = 1 << 32
_MASK = (1 << 64) - 1
_SEED_FACTOR, _KIND_FACTOR, _NUMBER_FACTOR = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # as in splitmix64


class Chance:
    """Coins and dice that follow from the seed alone.

    Args:
        seed: of the schedule.
        without: faults that shall not happen although their coin says so: how a failing schedule is shrunk.

    Attributes:
        fired: the faults that did happen.
    """

    __slots__ = ("_count", "_salt", "_without", "fired")

    def __init__(self, seed: int, without: Collection[Draw] = ()) -> None:
        self._salt = seed * _SEED_FACTOR
        self._without = frozenset(without)
        self._count: dict[str, int] = {}
        self.fired: list[Draw] = []

    def hits(self, kind: str, probability: float) -> bool:
        """Whether a fault of that kind happens here; it is counted if it does."""
        if probability <= 0 or self._drawn(kind) >= probability * _RANGE:
            return False
        return self._happens(kind)

    def planned(self, kind: str) -> bool:
        """Whether the next planned fault of that kind is to happen; it is counted if it is."""
        self._count[kind] = self._count.get(kind, 0) + 1
        return self._happens(kind)

    def between(self, kind: str, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + (self._drawn(kind) * (high - low + 1) >> 32)

    def pick(self, kind: str, options: Sequence[T]) -> T:
        """One of several."""
        return options[self.between(kind, 0, len(options) - 1)]

    def shuffled(self, kind: str, items: Sequence[T]) -> list[T]:
        """All of them in an order of chance."""
        return [items[index] for _, index in sorted((self.between(kind, 0, _RANGE), i) for i in range(len(items)))]

    def _drawn(self, kind: str) -> int:
        """32 bits; of whole numbers only, which every process computes alike."""
        number = self._count[kind] = self._count.get(kind, 0) + 1
        mixed = self._salt + _KINDS[kind] + number * _NUMBER_FACTOR & _MASK
        mixed = (mixed ^ mixed >> 30) * _KIND_FACTOR & _MASK
        return ((mixed ^ mixed >> 27) * _NUMBER_FACTOR & _MASK) >> 32

    def _happens(self, kind: str) -> bool:
        draw = (kind, self._count[kind])
        if draw in self._without:
            return False
        self.fired.append(draw)
        return True


class _Kinds(dict[str, int]):
    """A large number for each kind of draw."""

    def __missing__(self, kind: str) -> int:
        number = self[kind] = crc32(kind.encode()) * _KIND_FACTOR
        return number


_KINDS = _Kinds()
