"""What clients were told: invoke, ok, fail or unknown, one JSON line an event, judged later by `loadgen.checker`.

Every submit, lookup or cancel is an operation of its own, a repeat of the same key included. It is closed by

- ok: the transaction was told COMMITTED;
- fail: it has no effect: told ABORTED (then it has an id), or refused before it was begun (then it has none);
- unknown: nobody said; whatever was never closed is unknown too, so a driver may be killed at any time.

A driver process writes a file of its own; files of several processes are read as one history::

    with HistoryWriter(path, process="driver-1") as history:
        number = history.invoke(key, saga="place_order", asked={"amount_minor": 5_100})
        history.ok(number, outcome.transaction)             # or, with the handle that is done: history.told(number, handle)
        history.fail(number, outcome.code, outcome.transaction)
        history.unknown(number, "E_PENDING")
        history.note("killed", "shard-0")                   # also: "recovered", "healed"
    history = read_history([path, other_path])
    report = check(history, data_dir, app, limits)          # loadgen.checker.run
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from loadgen.workload import Told
from orchestrator.errors import DefiniteError, ErrorCode, RaytxError
from orchestrator.outcome import Outcome

HISTORY_SCHEMA = 1
BUFFERED_LINES_MAX = 512
FLUSH_US = 500_000


class Call(StrEnum):
    """What a client asked for."""

    SUBMIT = "submit"
    LOOKUP = "lookup"
    CANCEL = "cancel"


class Event(msgspec.Struct, tag_field="type", omit_defaults=True, gc=False):
    """One line; `mono_us` is the machine's monotonic clock, `wall_ms` Unix time."""

    mono_us: int
    wall_ms: int


class Opened(Event, tag="opened", kw_only=True, gc=False):
    """First line of a process: what was not closed before it in the same file stays unknown."""

    process: str
    schema: int = HISTORY_SCHEMA


class Closed(Event, tag="closed", gc=False):
    """Last line of a process that was not killed: nothing of it is missing."""


class Invoke(Event, tag="invoke", kw_only=True, gc=False):
    """A request is about to be sent; `asked` holds what the checker compares, in integers."""

    number: int
    key: str
    call: Call = Call.SUBMIT
    saga: str = ""
    asked: dict[str, int] = {}


class Ok(Event, tag="ok", kw_only=True, gc=False):
    """Told COMMITTED."""

    number: int
    transaction: str


class Fail(Event, tag="fail", kw_only=True, gc=False):
    """Told that it has no effect: ABORTED where there is a transaction, else refused before it was begun."""

    number: int
    code: str
    transaction: str = ""


class Unknown(Event, tag="unknown", kw_only=True, gc=False):
    """Nobody said what became of it."""

    number: int
    code: str = ""


class Read(Event, tag="read", kw_only=True):
    """One snapshot of one service's database, read beside its owner.

    Attributes:
        service: whose.
        held: units (or minor units) by SKU (or account) that its prepared rows hold, by transaction.
        books: state values by key, integers by name.
        phases: state by order of the orders that were looked for; absent ones are named with an empty text.
    """

    service: str
    held: dict[str, dict[str, int]] = {}
    books: dict[str, dict[str, int]] = {}
    phases: dict[str, str] = {}


class Note(Event, tag="note", kw_only=True):
    """Something that happened around the run: killed, recovered, healed, measured."""

    what: str
    about: str = ""
    values: dict[str, int] = {}


Line = Opened | Closed | Invoke | Ok | Fail | Unknown | Read | Note


class Operation(msgspec.Struct, gc=False):
    """One request and what was told of it.

    Attributes:
        process: who asked.
        asked: what it was about, in integers.
        told: UNKNOWN where it was never closed.
        transaction: id that was told, empty if none was.
        invoked_ms, told_ms: Unix ms; `told_ms` is 0 where it was never closed.
    """

    process: str
    call: Call
    key: str
    saga: str
    asked: dict[str, int]
    invoked_ms: int
    told: Told = Told.UNKNOWN
    transaction: str = ""
    code: str = ""
    told_ms: int = 0


class History(msgspec.Struct):
    """Everything that clients did and saw, in the order in which each file tells it.

    Attributes:
        killed: processes that did not close their file, so that their last operations may be missing.
    """

    operations: list[Operation] = msgspec.field(default_factory=list)
    reads: list[Read] = msgspec.field(default_factory=list)
    notes: list[Note] = msgspec.field(default_factory=list)
    killed: list[str] = msgspec.field(default_factory=list)

    def noted(self, what: str) -> list[Note]:
        """The notes of one sort."""
        return [note for note in self.notes if note.what == what]


class Answered(Protocol):
    """A request that is done; `orchestrator.Handle` is one."""

    def outcome(self, timeout_s: float | None = None) -> Outcome:
        """What was told; raises what the client raises."""


class HistoryWriter:
    """Appends one process's events; thread-safe.

    Lines are gathered and given to the file every 512 lines or half a second: what a killed process had not given away
    is read as unknown, never as something that was not told.

    Args:
        path: appended to, created where it is missing.
        process: name of this process, unique among those whose histories are read together.
    """

    def __init__(self, path: Path, process: str) -> None:
        torn = _ends_torn(path)
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._lines: list[bytes] = [b""] if torn else []
        self._numbers = itertools.count(1)
        self._flushed_us = 0
        self._encode = msgspec.json.Encoder().encode
        self._add(Opened(*_now(), process=process))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def invoke(
        self, key: str, *, call: Call = Call.SUBMIT, saga: str = "", asked: Mapping[str, int] | None = None,
    ) -> int:
        """Note a request that is about to be sent.

        Args:
            key: its idempotency key.
            call: what is asked for.
            saga: its name, of a submit.
            asked: what the checker shall compare with what was stored, such as `amount_minor`.

        Returns:
            The operation's number, for what closes it.
        """
        number = next(self._numbers)
        self._add(Invoke(*_now(), number=number, key=key, call=call, saga=saga, asked={} if asked is None else dict(asked)))
        return number

    def ok(self, number: int, transaction: str) -> None:
        """It was told COMMITTED."""
        self._add(Ok(*_now(), number=number, transaction=transaction))

    def fail(self, number: int, code: str, transaction: str = "") -> None:
        """It was told to have no effect: ABORTED if it has an id, else refused before anything was begun."""
        self._add(Fail(*_now(), number=number, code=code, transaction=transaction))

    def unknown(self, number: int, code: str = "") -> None:
        """Nobody said what became of it."""
        self._add(Unknown(*_now(), number=number, code=code))

    def told(self, number: int, handle: Answered) -> None:
        """Close an operation by its handle, which is done."""
        try:
            outcome = handle.outcome(timeout_s=0)
        except DefiniteError as error:
            self.fail(number, error.code)
        except RaytxError as error:
            self.unknown(number, error.code)
        else:
            if outcome.committed:
                self.ok(number, outcome.transaction)
            else:
                self.fail(number, outcome.code, outcome.transaction)

    def read(
        self, service: str, *, held: Mapping[str, dict[str, int]], books: Mapping[str, dict[str, int]],
        phases: Mapping[str, str],
    ) -> None:
        """Note what one snapshot showed; see `Read`."""
        self._add(Read(*_now(), service=service, held=dict(held), books=dict(books), phases=dict(phases)))

    def note(self, what: str, about: str = "", values: Mapping[str, int] | None = None) -> None:
        """Note what happened around the run, such as `healed`, or `recovered` of an actor."""
        self._add(Note(*_now(), what=what, about=about, values=dict(values or {})))

    def flush(self) -> None:
        """Give the file what has gathered; for the operating system to write, no fsync."""
        with self._lock:
            self._flush()

    def close(self) -> None:
        """Flush and close; what is told after that is not noted, and so stays unknown."""
        with self._lock:
            if not self._file.closed:
                self._lines.append(self._encode(Closed(*_now())))
                self._flush()
                self._file.close()

    def _add(self, event: Event) -> None:
        line = self._encode(event)
        with self._lock:
            self._lines.append(line)
            if len(self._lines) >= BUFFERED_LINES_MAX or event.mono_us - self._flushed_us > FLUSH_US:
                self._flushed_us = event.mono_us
                self._flush()

    def _flush(self) -> None:
        if not self._lines or self._file.closed:
            return
        self._file.write(b"\n".join(self._lines) + b"\n")  # whole lines in one call
        self._lines.clear()


def read_history(paths: Iterable[Path]) -> History:
    """The history that one or several processes wrote.

    Args:
        paths: their files.

    Raises:
        DefiniteError: E_INVALID_INPUT where a line in the middle of a file is none of ours.
    """
    history = History()
    for path in paths:
        reading = _Reading(history)
        reading.take(_lines(path))
        reading.end()
    return history


class _Reading:
    """One file's lines put together into operations."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._process = ""
        self._open: dict[int, Operation] = {}
        self._texts: dict[str, str] = {}

    def end(self) -> None:
        """The process that wrote last says no more."""
        if self._process:
            self._history.killed.append(self._process)
        self._process, self._open = "", {}

    def take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if isinstance(line, Opened):
                self.end()
                self._process = line.process
            elif isinstance(line, Closed):
                self._process = ""
            elif isinstance(line, Invoke):
                self._invoke(line)
            elif isinstance(line, Read):
                self._history.reads.append(line)
            elif isinstance(line, Note):
                self._history.notes.append(line)
            else:
                self._close(line)

    def _invoke(self, line: Invoke) -> None:
        saga = self._texts.setdefault(line.saga, line.saga)
        operation = Operation(self._process, line.call, line.key, saga, line.asked, line.wall_ms)
        self._open[line.number] = operation
        self._history.operations.append(operation)

    def _close(self, line: Ok | Fail | Unknown) -> None:
        operation = self._open.pop(line.number, None)
        if operation is None:
            raise DefiniteError(
                ErrorCode.INVALID_INPUT, f"history: operation {line.number} of {self._process!r} is closed, but not open")
        operation.told_ms = line.wall_ms
        if isinstance(line, Ok):
            operation.told, operation.transaction = Told.COMMITTED, line.transaction
            return
        operation.code = self._texts.setdefault(line.code, line.code)
        if isinstance(line, Fail):
            operation.told = Told.ABORTED if line.transaction else Told.REJECTED
            operation.transaction = line.transaction


def _lines(path: Path) -> Iterator[Line]:
    """The events of a file; the last line of a process that was killed may be torn, any other may not."""
    decode = msgspec.json.Decoder(Line).decode
    torn: Sequence[Any] = ()
    with path.open("rb") as file:
        for position, text in enumerate(file, 1):
            try:
                line = decode(text)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                _refuse_torn(path, torn)
                torn = (position, error)
                continue
            if not isinstance(line, Opened):
                _refuse_torn(path, torn)
            elif line.schema > HISTORY_SCHEMA:
                raise DefiniteError(ErrorCode.INVALID_INPUT, f"history: {path} has schema {line.schema}: upgrade")
            torn = ()
            yield line


def _refuse_torn(path: Path, torn: Sequence[Any]) -> None:
    if torn:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"history: line {torn[0]} of {path} cannot be read: {torn[1]}")


def _ends_torn(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.seek(0, 2) > 0 and file.seek(-1, 2) >= 0 and file.read(1) != b"\n"
    except FileNotFoundError:
        return False


def _now() -> tuple[int, int]:
    return time.monotonic_ns() // 1_000, time.time_ns() // 1_000_000
