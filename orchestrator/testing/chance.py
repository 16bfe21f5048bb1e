"""Random choices of a schedule: every kind draws from a stream of its own, so that leaving one out shifts no other."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")
Draw = tuple[str, int]  # which kind of fault, its number-th draw


class Chance:
    """Coins and dice that follow from the seed alone.

    Args:
        seed: of the schedule.
        without: faults that shall not happen although their coin says so: how a failing schedule is shrunk.

    Attributes:
        fired: the faults that did happen.
    """

    __slots__ = ("_count", "_seed", "_streams", "_without", "fired")

    def __init__(self, seed: int, without: Collection[Draw] = ()) -> None:
        self._seed = seed
        self._without = frozenset(without)
        self._streams: dict[str, random.Random] = {}
        self._count: dict[str, int] = {}
        self.fired: list[Draw] = []

    def stream(self, kind: str) -> random.Random:
        """The stream of one kind."""
        found = self._streams.get(kind)
        if found is None:
            found = self._streams[kind] = random.Random((self._seed << 32) | crc32(kind.encode()))
        return found

    def hits(self, kind: str, probability: float) -> bool:
        """Whether a fault of that kind happens here; it is counted if it does."""
        if probability <= 0:
            return False
        number = self._count[kind] = self._count.get(kind, 0) + 1
        if self.stream(kind).random() >= probability or (kind, number) in self._without:
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
        return low + int(self.stream(kind).random() * (high - low + 1))

    def pick(self, kind: str, options: Sequence[T]) -> T:
        """One of several."""
        return options[int(self.stream(kind).random() * len(options))]
