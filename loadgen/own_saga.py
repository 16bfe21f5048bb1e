"""A user's own saga as a workload: the inputs that its `example` makes, after the transactions that open the app's books."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from loadgen.workload import Numbered, Told, Work
from orchestrator.app import App
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.saga import Saga, encode_plain


class Samples:
    """The samples of a saga from a number on; see `Source`.

    Args:
        app: that has the saga.
        saga: with an `example`.
        orders: how many.
        run: token in the keys.
        first: number of the first sample: none of an earlier run on the same data is placed again.
        step: from one to the next, where several processes share them.

    Raises:
        DefiniteError: E_SAGA_DEFINITION where the saga has no example, or one that does not fit; or the app's opening.
    """

    def __init__(self, app: App, saga: Saga, *, orders: int, run: str, first: int = 0, step: int = 1) -> None:
        self.orders, self.run = orders, run
        self._saga, self._first, self._step = saga, first, step
        self._opening = app.opening_inputs()
        saga.sample(first)

    @property
    def orders_are(self) -> frozenset[str]:
        """See `Source.orders_are`."""
        return frozenset({self._saga.name})

    def feed(self) -> Numbered:
        """See `Source.feed`."""
        return Numbered(self._work, self.orders)

    def opening(self) -> OpeningFeed:
        """See `Source.opening`."""
        return OpeningFeed(self._opening)

    def contents(self, orders: int) -> dict[str, int]:  # noqa: ARG002 - part of the port
        """Nobody knows what it means to the app."""
        return {}

    def _work(self, number: int) -> Work:
        data: Any = self._saga.example(self._first + number * self._step) if self._saga.example else {}
        return Work(number, self._saga.name, f"{self.run}-{number}", data)


class _Entry(NamedTuple):
    saga: str
    key: str
    input: BaseModel


class OpeningFeed:
    """The app's opening, one after the other, under keys that stay the same: a data directory is opened once.

    Args:
        opening: see `App.opening_inputs`.

    Raises:
        DefiniteError: from `settle`, with the code of what did not commit; nothing has been placed.
    """

    def __init__(self, opening: Sequence[tuple[Saga, BaseModel]]) -> None:
        self._entries = [
            _Entry(saga.name, f"opening-{number}-{zlib.crc32(encode_plain(data)):08x}", data)
            for number, (saga, data) in enumerate(opening)]
        self._next, self._waiting = 0, False

    def take(self) -> Work | None:
        """See `Feed.take`."""
        if self._waiting or self._next == len(self._entries):
            return None
        self._waiting = True
        return self.again(self._next)

    def again(self, number: int) -> Work:
        """See `Feed.again`."""
        entry = self._entries[number]
        return Work(number, entry.saga, entry.key, entry.input)

    def settle(self, number: int, told: Told, code: str) -> None:
        """See `Feed.settle`."""
        if told is not Told.COMMITTED:
            raise DefiniteError(
                code or ErrorCode.UNREACHABLE, f"opening {number} of the app ({self._entries[number].saga}) did not commit")
        self._next, self._waiting = number + 1, False
