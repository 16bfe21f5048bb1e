"""One transaction's timeline: what the log and every ledger say of it, in the order in which it happened."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.reader import LogReader
from orchestrator.logs import redact
from orchestrator.protocol.identifiers import is_id
from orchestrator.protocol.records import Act, Begun, Decided, Decision, Ended, Parked, Record, Resolved
from orchestrator.protocol.traceparent import parse
from orchestrator.saga import decode_plain
from orchestrator.waterfall import Waterfall, told_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from orchestrator.app import App, LedgerReader, LedgerRow
    from orchestrator.log.reader import StoredRecord
    from orchestrator.protocol.records import StoredTransaction
    from orchestrator.saga import Step

LOG_SOURCE = "log"
_STATE_STYLES = {"COMMITTED": "green", "ABORTED": "red", "PREPARING": "yellow", "COMMITTING": "yellow", "ABORTING": "yellow"}
_DECIDED_RANK = 2  # orders what happened in the same millisecond: begun, held, decided, finished, ended


class ReadableHistory(Protocol):
    """What the timeline needs of the transaction log; `LogReader` is one."""

    def stored(self, transaction: str) -> StoredTransaction | None:
        """One transaction."""

    def history(self, transaction: str) -> list[StoredRecord]:
        """Its records in the order in which they were stored."""


class TimelineEvent(msgspec.Struct, frozen=True):
    """One thing that happened; `at_ms` is Unix time of whoever stored it, in ms."""

    at_ms: int
    source: str  # "log", or the service whose ledger says so
    what: str
    step: str = ""
    service: str = ""
    attempts: int = 0
    code: str = ""
    message: str = ""


class StepView(msgspec.Struct, frozen=True):
    """Where one step stands at its service; the state is empty where its ledger has no row."""

    step: str
    service: str
    operation: str
    state: str = ""
    attempts: int = 0
    code: str = ""
    message: str = ""
    request: Any = None  # plain data, redacted
    result: Any = None
    prepared_ms: int = 0  # when the vote was stored, Unix ms
    finished_ms: int = 0  # when it was refused, committed, rolled back or performed
    after: list[str] = []  # the steps that it waits for
    after_commit: bool = False


class Timeline(msgspec.Struct, frozen=True):
    """A transaction as `raytx show` tells it; secrets are redacted, times are Unix ms, 0 = not yet.

    Attributes:
        decision: COMMIT, ABORT, or empty while there is none.
        code: why it aborted; with message, service, step and attempts.
        parked: steps that wait for an operator.
        notes: what could not be read.
        trace_id: of the distributed trace it belongs to, 32 hexadecimal digits; "" = none.
        sampled: whether its spans were wanted.
    """

    transaction: str
    key: str
    saga: str
    version: int
    state: str
    business_key: str
    began_ms: int
    deadline_ms: int
    decision: str
    decided_ms: int
    ended_ms: int
    code: str
    message: str
    service: str
    step: str
    attempts: int
    recoveries: int
    parked: list[Parked]
    input: Any
    steps: list[StepView]
    events: list[TimelineEvent]
    notes: list[str]
    trace_id: str = ""
    sampled: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`; every event also has its time as ISO 8601 in UTC."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["events"] = [{"time": _iso(event["at_ms"]), **event} for event in plain["events"]]
        plain["parked"] = [
            {"step": one.step, "code": one.code, "message": redact(one.message), "at_ms": one.at_ms} for one in self.parked]
        return plain

    def render(self) -> RenderableType:
        """For a terminal or a pipe: a heading, the steps as bars over time, the events."""
        now_ms = time.time_ns() // 1_000_000
        bars: list[RenderableType] = [Text(), Waterfall(self, now_ms)] if self.steps else []
        return Group(
            self._heading(now_ms), *bars, Text(), _event_table(self.events, self.began_ms), *map(Text, self.notes))

    def _heading(self, now_ms: int) -> Text:
        style = _STATE_STYLES.get(self.state, "")
        heading = Text.assemble(
            (self.transaction, "bold"), "  ", (self.state, style), f"  {self.saga} version {self.version}",
            f"\nkey {self.key}", f"  business key {self.business_key}" if self.business_key else "",
            f"\nbegan {_iso(self.began_ms)}  {self._took(now_ms)}")
        if self.trace_id:
            heading.append(f"\ntrace {self.trace_id}{'' if self.sampled else '  (not sampled)'}")
        if self.code:
            where = f" at {self.service}, step {self.step}" if self.service else ""
            heading.append(f"\n{self.decision} {self.code}{where}: {self.message}", style="red")
        for one in self.parked:
            heading.append(f"\nparked: step {one.step} {one.code}: {redact(one.message)}", style="bold yellow")
        return heading

    def _took(self, now_ms: int) -> str:
        """How long it took, or has taken so far."""
        if not self.decided_ms:
            return f"undecided for {told_ms(max(now_ms - self.began_ms, 0))}, deadline {_iso(self.deadline_ms)}"
        decided = f"decided after {told_ms(max(self.decided_ms - self.began_ms, 0))}"
        ended = f"ended after {told_ms(max(self.ended_ms - self.began_ms, 0))}" if self.ended_ms else "not ended"
        recovered = f", {self.recoveries} recoveries without progress" if self.recoveries > 1 else ""
        return f"{decided}, {ended}{recovered}"


def timeline(data_dir: Path, app: App, transaction: str) -> Timeline:
    """Join log and ledgers into one transaction's timeline, with the deployment down or while it serves.

    Args:
        data_dir: the deployment's data directory.
        app: what runs on it.
        transaction: id, 32 hexadecimal digits.

    Raises:
        DefiniteError: E_INVALID_INPUT where the text is no id; E_UNKNOWN where there is no such transaction;
            E_STORE_REFUSED where the log cannot be read.
    """
    if not is_id(transaction):
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"transaction: {transaction!r} is no id; one has 32 hexadecimal digits")
    notes: list[str] = []
    with ExitStack() as stack:
        # the log last: it then explains every row that the ledgers show
        directory = DataDirectory(data_dir)
        ledgers = {name: stack.enter_context(closing(reader)) for name, reader in _open_ledgers(directory, app, notes)}
        log = stack.enter_context(closing(LogReader(directory.log_path)))
        return join_timeline(app, log, ledgers, transaction, notes)


def join_timeline(
    app: App, log: ReadableHistory, ledgers: Mapping[str, LedgerReader], transaction: str, notes: Sequence[str] = (),
) -> Timeline:
    """The timeline from open stores.

    Raises:
        DefiniteError: E_UNKNOWN where the log has no such transaction.
    """
    rows = [(name, row) for name, reader in ledgers.items() for row in reader.rows(transaction)]
    stored = log.stored(transaction)
    if stored is None:
        raise _unknown(transaction, sorted({name for name, _ in rows}))
    events = [event for record in log.history(transaction) for event in log_events(record)]
    events += [event for service, row in rows for event in _row_events(service, row)]
    begun, decided = stored.begun, stored.decided or Decided(transaction, Decision.ABORT, 0)
    place = parse(begun.traceparent)
    return Timeline(
        transaction=transaction, key=redact(begun.key), saga=begun.saga, version=begun.version, state=stored.state.name,
        business_key=redact(begun.business_key), began_ms=begun.began_ms, deadline_ms=begun.deadline_ms,
        decision=stored.decided.decision.name if stored.decided else "", decided_ms=decided.at_ms,
        ended_ms=stored.ended_ms, code=decided.code, message=redact(decided.message), service=decided.service,
        step=decided.step, attempts=decided.attempts, recoveries=stored.recoveries, parked=list(stored.parked),
        input=redact(_plain(begun.input)), steps=_steps(app, begun, rows),
        events=[event for _, event in sorted(events, key=_when)], notes=list(notes),
        trace_id=place.trace_id if place else "", sampled=bool(place and place.sampled))


Ranked = tuple[int, TimelineEvent]


def _when(ranked: Ranked) -> tuple[int, int]:
    rank, event = ranked
    return event.at_ms, rank


def _open_ledgers(directory: DataDirectory, app: App, notes: list[str]) -> Iterator[tuple[str, LedgerReader]]:
    for name, service in app.by_service.items():
        try:
            yield name, service.reader(directory.service_path(name))
        except DefiniteError as error:
            notes.append(f"the ledger of {name} is left out: {error}")


def _unknown(transaction: str, holders: list[str]) -> DefiniteError:
    if holders:
        where = ", ".join(holders)
        text = f"the log has no transaction {transaction}, but the ledgers of {where} do: run `raytx audit`"
    else:
        text = f"no transaction {transaction} is known; it may be older than the retention period"
    return DefiniteError(ErrorCode.UNKNOWN, text)


def log_events(stored: StoredRecord) -> Iterator[Ranked]:
    """What a record says, with its rank among those of the same millisecond."""
    record: Record = stored.record
    if isinstance(record, Begun):
        what = f"begun: {record.saga} version {record.version}" if record.saga else "key bound by a cancel before its submit"
        yield 0, TimelineEvent(stored.at_ms, LOG_SOURCE, what)
    elif isinstance(record, Decided):
        yield _DECIDED_RANK, TimelineEvent(
            stored.at_ms, LOG_SOURCE, f"decided {record.decision.name}", record.step, record.service, record.attempts,
            record.code, redact(record.message))
    elif isinstance(record, Parked):
        what = "parked" if record.code else "acknowledged after all"
        yield _DECIDED_RANK + 1, TimelineEvent(
            stored.at_ms, LOG_SOURCE, what, record.step, code=record.code, message=redact(record.message))
    elif isinstance(record, Resolved):
        yield _DECIDED_RANK + 1, TimelineEvent(
            stored.at_ms, LOG_SOURCE, f"{record.decision.name} asserted by {redact(record.who)}", record.step,
            message=redact(record.reason))
    elif isinstance(record, Act):
        yield _DECIDED_RANK + 1, TimelineEvent(
            stored.at_ms, LOG_SOURCE, f"{record.kind.name.lower()} by {redact(record.who)}", message=redact(record.reason))
    elif isinstance(record, Ended):
        yield _DECIDED_RANK + 2, TimelineEvent(stored.at_ms, LOG_SOURCE, "ended")


def _row_events(service: str, row: LedgerRow) -> Iterator[Ranked]:
    """A row's first write and its last: a tombstone, a refusal and an effect have only one."""

    def event(at_ms: int, what: str) -> TimelineEvent:
        return TimelineEvent(at_ms, service, what, row.step, service, row.attempts, row.code, redact(row.message))

    tombstone = row.state == "ROLLED_BACK" and row.request is None
    if row.state in ("PREPARED", "COMMITTED", "ROLLED_BACK") and not tombstone:
        yield 1, event(row.prepared_ms, f"{row.operation}: PREPARED")
    if row.state == "REFUSED":
        yield 1, event(row.finished_ms or row.prepared_ms, f"{row.operation}: REFUSED")
    elif row.state != "PREPARED":
        what = f"{row.operation}: {row.state}" + (" (no prepare had come)" if tombstone else "")
        yield _DECIDED_RANK + 1, event(row.finished_ms or row.prepared_ms, what)


def _steps(app: App, begun: Begun, rows: Sequence[tuple[str, LedgerRow]]) -> list[StepView]:
    """The saga's steps in its order, then rows of steps that this app's definition does not have."""
    planned = next((saga.steps for saga in app.sagas if (saga.name, saga.version) == (begun.saga, begun.version)), ())
    by_step = {row.step: (service, row) for service, row in rows}
    views = []
    for step in planned:
        service, row = by_step.pop(step.name, (step.service, None))
        views.append(_step_view(step.name, service, row, step))
    return views + [_step_view(name, service, row, None) for name, (service, row) in by_step.items()]


def _step_view(name: str, service: str, row: LedgerRow | None, step: Step | None) -> StepView:
    after, after_commit = (list(step.after), step.after_commit) if step else ([], row is not None and row.state == "DONE")
    if row is None:
        return StepView(name, service, step.operation if step else "", after=after, after_commit=after_commit)
    return StepView(
        row.step, service, row.operation, row.state, row.attempts, row.code, redact(row.message), redact(_json(row.request)),
        redact(_json(row.result)), row.prepared_ms, row.finished_ms, after, after_commit)


def _plain(payload: bytes) -> Any:
    try:
        return _json(decode_plain(payload))
    except (msgspec.DecodeError, ValueError):
        return f"{len(payload)} bytes that are not msgpack"


def _json(value: Any) -> Any:
    """Plain data without bytes, which JSON cannot hold."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return value


def _iso(at_ms: int) -> str:
    if at_ms <= 0:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event_table(events: Sequence[TimelineEvent], began_ms: int) -> Table:
    table = Table(
        "time", "after", "source", "step", "what", "tries", "code", "message", box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    table.columns[1].justify = "right"
    for one in events:
        after = f"{'+' if one.at_ms >= began_ms else '-'}{told_ms(abs(one.at_ms - began_ms))}"
        cells = (_clock(one.at_ms, began_ms), after, one.source, one.step, one.what, one.attempts or "", one.code, one.message)
        table.add_row(*_cells(*cells))
    return table


def _clock(at_ms: int, began_ms: int) -> str:
    """The time of day, with the date where it is another one than the heading's."""
    day, _, clock = _iso(at_ms).partition("T")
    return clock if day == _iso(began_ms).partition("T")[0] else _iso(at_ms)


def _cells(*values: object) -> list[Text]:
    """Cells whose brackets are no markup: "[redacted]" has to stay readable."""
    return [Text(str(value)) for value in values]
