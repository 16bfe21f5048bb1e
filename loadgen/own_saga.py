"""A user's own saga as a workload: the inputs that its `example` makes, after the transactions that open the app's books."""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import BaseModel

from loadgen.workload import Numbered, Told, Work
from orchestrator.app import App
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.reader import LogReader
from orchestrator.saga import Saga, encode_plain

NEXT_SAMPLE: Final = "next_sample"  # file in the data directory: number of the first sample that no run has taken


def take_samples(data: Path, number: int) -> int:
    """Take samples for a run; no other one on the data directory is given them, whatever becomes of these.

    What the log holds does not say which were placed: of an order that was refused it knows nothing.

    Args:
        data: data directory, of a deployment.
        number: how many the run may place.

    Returns:
        The number of the first one.

    Raises:
        DefiniteError: E_DATA_DIR where that cannot be noted.
    """
    path = DataDirectory(data).path / NEXT_SAMPLE
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # runs may begin at the same time
            text = file.read()
            first = int(text) if text else _last_record(data)
            file.seek(0)
            file.write(f"{first + number}\n")  # never shorter than what it replaces
    except (OSError, ValueError) as error:
        raise DefiniteError(ErrorCode.DATA_DIR, f"{path} cannot keep which samples were placed: {error}") from None
    return first


def _last_record(data: Path) -> int:
    """More than all transactions there ever were: where runs have taken samples without noting it, these were not begun."""
    with closing(LogReader(DataDirectory(data).log_path)) as reader:
        return reader.last_record


class Samples:
    """The samples of a saga from a number on; see `Source`.

    Args:
        app: that has the saga.
        saga: with an `example`.
        orders: how many.
        run: token in the keys.
        first: number of the first sample, see `take_samples`.
        step: from one to the next, where several processes share them.

    Raises:
        DefiniteError: E_SAGA_DEFINITION where the saga has no example, or one that does not fit; or the app's opening;
            from its feed where a later example raises.
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
        assert self._saga.example is not None
        sample = self._first + number * self._step
        try:
            data = self._saga.example(sample)
        except Exception as error:
            told = f"saga {self._saga.name!r}: its example {sample} raised {type(error).__name__}: {error}"
            raise DefiniteError(ErrorCode.SAGA_DEFINITION, told) from error
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
