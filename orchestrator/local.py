"""A participant without its actor: what drives one deterministically, one turn at a time (`orchestrator.testing` does)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from orchestrator.files import Files
from orchestrator.protocol.messages import Command, Inquiry


class Journal(Protocol):
    """A durable file of batches; what is in it is what a crash leaves."""

    entries: list[Any]  # of committed batches, oldest first; read at opening
    beginning: tuple[Any, ...]  # the first of them, which do not change: the same object for journals that began alike
    owner: int  # raised by whoever opens it to write: an earlier owner must not write any more

    def commit(self, entry: Any) -> None:
        """Make one more batch durable.

        Raises:
            OSError: of unknown outcome; whoever commits must end.
        """


class StorePlace(NamedTuple):
    """Where a participant's real store lies, in the place of a journal.

    Attributes:
        path: of the database, which exists.
        run: the deployment's run.
        files: the disk.
    """

    path: Path
    run: str
    files: Files


class SupersededError(Exception):
    """A successor owns the journal: this life must end without answering."""


class Mail(NamedTuple):
    """What one turn sends: an encoded `ReplyBatch` for one peer."""

    peer: str
    payload: bytes


class HandlerCall(NamedTuple):
    """One call of a handler that a participant is about to make."""

    part: str  # prepare, commit, rollback or perform
    operation: str
    transaction: str
    step: str
    request: BaseModel
    result: BaseModel | None  # the vote, at commit and rollback


Watch = Callable[[HandlerCall, Callable[[], Any]], Any]  # calls the handler, and returns or raises what it did


class LocalParticipant(Protocol):
    """One life of a participant over its journal: the production handlers, ledger and rules, none of its threads.

    Whoever drives it calls `turn` while it is `busy`, `answer` for every key in `asked`, and `inquiries` now and then.
    """

    asked: list[tuple[str, str]]  # (transaction, step) whose asynchronous part has been started and not answered

    @property
    def busy(self) -> bool:
        """Whether messages wait for a turn."""

    @property
    def holds(self) -> bool:
        """Whether there may be something to inquire about."""

    @property
    def values(self) -> Mapping[str, bytes]:
        """Its state: the encoded value of every key."""

    def arrive(self, payload: bytes) -> None:
        """Take in an encoded `CommandBatch`."""

    def settle(self, commands: Sequence[Command]) -> None:
        """Take in what an owner answered to inquiries."""

    def turn(self, now_ms: int) -> list[Mail]:
        """Work off what waits as one batch; when this returns, all it tells is durable.

        Raises:
            OSError: of unknown outcome; this life must end.
            SupersededError: nothing was done.
        """

    def answer(self, key: tuple[str, str]) -> None:
        """Have an asynchronous part answer: what waits for it is taken in again."""

    def inquiries(self, now_ms: int) -> list[Inquiry]:
        """What has been in doubt for too long by now (monotonic ms), due to be asked about."""
