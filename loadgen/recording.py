"""A client whose every request and answer goes into the history."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from loadgen.history import HistoryWriter
from orchestrator.client import Client
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.outcome import Handle

ASKED = "amount_minor"


class RecordedClient:
    """Fits the drivers' port.

    Args:
        client: what is recorded.
        history: where it is noted.
    """

    def __init__(self, client: Client, history: HistoryWriter) -> None:
        self.deployment, self.history = client.deployment, history
        self._client = client

    def submit(self, saga: str, data: Any, *, key: str) -> Handle:
        """Submit, and note what was asked and what is told; what the client raises is noted and raised."""
        asked = {ASKED: data[ASKED]} if isinstance(data, dict) and ASKED in data else None
        number = self.history.invoke(key, saga=saga, asked=asked)
        try:
            handle = self._client.submit(saga, data, key=key)
        except DefiniteError as error:
            self.history.fail(number, error.code)
            raise
        except IndefiniteError as error:
            self.history.unknown(number, error.code)
            raise
        handle.add_done_callback(partial(self.history.told, number))  # before the driver's own: told means noted
        return handle


class Histories:
    """Files that keep what was asked and told: one of this process, more for others.

    Args:
        main: this process's; it is empty.
    """

    def __init__(self, main: Path) -> None:
        self.main = main
        self.all = [main]

    def more(self, number: int) -> list[Path]:
        """New ones for so many other processes.

        Raises:
            DefiniteError: E_INVALID_INPUT where one is there already.
        """
        begin = len(self.all) - 1
        made = [self.main.with_name(f"{self.main.name}.{begin + index}") for index in range(number)]
        for path in made:
            _touch(path)
        self.all += made
        return made


@contextmanager
def histories(kept: Path | None) -> Iterator[Histories]:
    """Where the history of a run goes.

    Args:
        kept: a new file, which is kept, as are those of other processes beside it, unless nothing was noted in it; None:
            temporary ones.

    Raises:
        DefiniteError: E_INVALID_INPUT where the file cannot be made, or is there already.
    """
    with history_file(kept) as path:
        files = Histories(path)
        try:
            yield files
        finally:
            for made in files.all:
                if made.exists() and not made.stat().st_size:  # a run that was refused is not to be in the way of the next one
                    made.unlink()


@contextmanager
def history_file(kept: Path | None) -> Iterator[Path]:
    """Where the history of one process goes.

    Args:
        kept: a new file, which is kept; None: a temporary one.

    Raises:
        DefiniteError: E_INVALID_INPUT where the file cannot be made, or is there already.
    """
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="raytx-history-") as made:
            yield Path(made) / "history.jsonl"
        return
    _touch(kept)
    yield kept


def _touch(path: Path) -> None:
    try:
        path.touch(exist_ok=False)
    except OSError as error:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"--history: {error}; name a new file") from None
