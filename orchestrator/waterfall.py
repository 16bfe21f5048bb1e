"""Where a transaction's time went, step by step: spans from what log and ledgers have stored, and bars made of them.

Only writes have a durable time: when a vote was stored, and when the step was finished. When its prepare left is not stored:
its span begins where it could leave at the earliest, which is when the steps before it had voted.
"""

from __future__ import annotations

from enum import StrEnum
from math import log1p
from typing import TYPE_CHECKING

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from orchestrator.timeline import StepView, Timeline

BAR_MIN, BAR_MAX = 16, 64
_FIGURES = 44  # columns of a lane that are neither names nor bar
_SKEWED = 12  # a scale whose longest gap is so many times all the others together shows nothing but that gap
_SECOND_MS, _MINUTE_MS, _HOUR_MS, _DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000


class Phase(StrEnum):
    """What a step is about during a span."""

    WAIT = "waits"  # for the steps before it
    PREPARE = "prepare"  # from when it could leave to the stored vote
    HELD = "held"  # voted yes, the decision is not made
    COMMIT = "commit"  # from the decision to the stored commit
    ROLLBACK = "rollback"
    PERFORM = "perform"


class Span(msgspec.Struct, frozen=True):
    """A part of a step's time, Unix ms; `going` where it has not ended yet."""

    phase: Phase
    from_ms: int
    to_ms: int
    going: bool = False


class Lane(msgspec.Struct, frozen=True):
    """One step's spans in the order of time, and when it was parked, Unix ms."""

    step: str
    service: str
    spans: list[Span]
    parked_ms: list[int]


class _Clock(msgspec.Struct, frozen=True):
    """The times that all lanes share, Unix ms; decided and ended are 0 while they are not."""

    begun_ms: int
    decided_ms: int
    ended_ms: int
    now_ms: int
    committed: bool


def lanes(view: Timeline, now_ms: int) -> list[Lane]:
    """The spans of every step, in the order of the steps.

    Args:
        view: the transaction.
        now_ms: Unix ms, for what has not ended.
    """
    clock = _Clock(view.began_ms, view.decided_ms, view.ended_ms, now_ms, view.decision == "COMMIT")
    by_name = {one.step: one for one in view.steps}
    return [
        Lane(one.step, one.service, _in_order(_spans(one, by_name, clock)), _parked_ms(view, one.step)) for one in view.steps]


def _parked_ms(view: Timeline, step: str) -> list[int]:
    return [event.at_ms for event in view.events if event.what == "parked" and event.step == step]


def _spans(step: StepView, steps: Mapping[str, StepView], clock: _Clock) -> Iterator[Span]:
    if step.after_commit:
        yield from _performed(step, steps, clock)
        return
    before = [steps[name] for name in step.after if name in steps]
    votes = [one.prepared_ms for one in before]
    could_leave = all(_voted_yes(one) for one in before)
    ready_ms = max(votes, default=clock.begun_ms) if could_leave else clock.decided_ms or clock.now_ms
    if ready_ms > clock.begun_ms:
        yield Span(Phase.WAIT, clock.begun_ms, ready_ms, not could_leave and not clock.decided_ms)
    if could_leave and not _tombstone(step):
        yield _until(Phase.PREPARE, ready_ms, step.prepared_ms, clock.decided_ms, clock.now_ms)
    if step.state in ("PREPARED", "COMMITTED", "ROLLED_BACK"):
        if _voted_yes(step):
            yield _until(Phase.HELD, step.prepared_ms, clock.decided_ms, 0, clock.now_ms)
        if clock.decided_ms:
            phase = Phase.COMMIT if clock.committed else Phase.ROLLBACK
            finished_ms = 0 if step.state == "PREPARED" else step.finished_ms
            yield _until(phase, clock.decided_ms, finished_ms, clock.ended_ms, clock.now_ms)


def _performed(step: StepView, steps: Mapping[str, StepView], clock: _Clock) -> Iterator[Span]:
    if not clock.committed:
        return
    finished = [steps[name].finished_ms or clock.now_ms for name in step.after if name in steps]
    ready_ms = max([clock.decided_ms, *finished])
    if step.finished_ms:
        ready_ms = min(ready_ms, step.finished_ms)  # only the steps that it reads are waited for
    yield Span(Phase.WAIT, clock.begun_ms, ready_ms)
    yield _until(Phase.PERFORM, ready_ms, step.finished_ms, clock.ended_ms, clock.now_ms)


def _voted_yes(step: StepView) -> bool:
    return step.state in ("PREPARED", "COMMITTED", "ROLLED_BACK") and not _tombstone(step)


def _tombstone(step: StepView) -> bool:
    return step.state == "ROLLED_BACK" and step.request is None


def _until(phase: Phase, from_ms: int, to_ms: int, cut_ms: int, now_ms: int) -> Span:
    """A span up to its own end, else to where something else cut it off, else it goes on."""
    if to_ms or cut_ms:
        return Span(phase, from_ms, max(to_ms or cut_ms, from_ms))
    return Span(phase, from_ms, max(now_ms, from_ms), going=True)


def _in_order(spans: Iterable[Span]) -> list[Span]:
    """Without the overlaps that different processes' clocks make: a span begins where the one before it ended."""
    found: list[Span] = []
    for span in spans:
        from_ms = max(span.from_ms, found[-1].to_ms) if found else span.from_ms
        found.append(Span(span.phase, from_ms, max(span.to_ms, from_ms), span.going))
    return found


class Scale:
    """Columns for times; where one gap dwarfs the others, gaps are compressed.

    Args:
        times: all that occur, Unix ms.
        width: columns.

    Attributes:
        compressed: whether columns are no measure of time.
    """

    def __init__(self, times: Iterable[int], width: int) -> None:
        self._times = sorted(set(times))
        gaps: list[float] = [later - earlier for earlier, later in zip(self._times, self._times[1:], strict=False)]
        longest = max(gaps, default=0.0)
        self.compressed = len(gaps) > 1 and longest > _SKEWED * (sum(gaps) - longest)
        if self.compressed:
            gaps = [log1p(gap) for gap in gaps]
        whole, passed = sum(gaps) or 1.0, 0.0
        self._columns = [0]
        for gap in gaps:
            passed += gap
            self._columns.append(round(passed / whole * width))

    def column(self, at_ms: int) -> int:
        """The column of one of the times."""
        return self._columns[self._times.index(at_ms)]


_GLYPHS = {
    Phase.WAIT: ("·", "."), Phase.PREPARE: ("░", "-"), Phase.HELD: ("▒", "="), Phase.COMMIT: ("█", "#"),
    Phase.ROLLBACK: ("◄", "<"), Phase.PERFORM: ("■", "*")}
_STYLES = {
    Phase.WAIT: "dim", Phase.PREPARE: "cyan", Phase.HELD: "blue", Phase.COMMIT: "green", Phase.ROLLBACK: "red",
    Phase.PERFORM: "magenta"}
_PARKED = ("!", "bold yellow")


class Waterfall:
    """The lanes as bars, for whatever console prints it.

    Args:
        view: the transaction.
        now_ms: Unix ms, for what has not ended.
    """

    def __init__(self, view: Timeline, now_ms: int) -> None:
        self._view, self._lanes = view, lanes(view, now_ms)
        times = {time for lane in self._lanes for span in lane.spans for time in (span.from_ms, span.to_ms)}
        times |= {time for lane in self._lanes for time in lane.parked_ms}
        times |= {view.began_ms, view.decided_ms or view.began_ms, view.ended_ms or view.began_ms}
        self._times = {max(time, view.began_ms) for time in times}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Bars as wide as the console leaves room for."""
        plain = not options.encoding.lower().startswith("utf")
        longest = [max((len(text) for text in texts), default=0) for texts in (
            [one.step for one in self._lanes], [one.service for one in self._lanes])]
        yield self._bars(min(max(options.max_width - _FIGURES - sum(longest), BAR_MIN), BAR_MAX), plain=plain)

    def _bars(self, width: int, *, plain: bool) -> RenderableType:
        scale = Scale(self._times, width - 4)  # what is shorter than a column has one all the same
        end = told_ms(max(self._times) - self._view.began_ms)
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("step", no_wrap=True)
        table.add_column("service", no_wrap=True)
        table.add_column(f"0{end:>{width - 1}}", no_wrap=True, width=width)
        for header in ("voted", "done", "tries"):
            table.add_column(header, no_wrap=True, justify="right")
        table.add_column("state", overflow="fold")
        table.add_row("", "", self._ruler(scale, width), "", "", "", "")
        for lane, step in zip(self._lanes, self._view.steps, strict=True):
            table.add_row(
                Text(lane.step), Text(lane.service), _bar(lane, scale, width, self._view.began_ms, plain=plain),
                *self._figures(step))
        return Group(table, self._legend(compressed=scale.compressed, plain=plain))

    def _ruler(self, scale: Scale, width: int) -> Text:
        """When it was decided and ended."""
        marks = [" "] * width
        for at_ms, told in ((self._view.ended_ms, "ended"), (self._view.decided_ms, self._view.decision)):
            if at_ms:
                column = min(scale.column(max(at_ms, self._view.began_ms)), width - len(told) - 1)
                marks[column : column + len(told) + 1] = f"|{told}"
        return Text("".join(marks)[:width], "dim")

    def _figures(self, step: StepView) -> list[Text]:
        began_ms = self._view.began_ms
        voted = step.prepared_ms and not step.after_commit and not _tombstone(step)
        done_ms = 0 if step.state in ("", "PREPARED", "REFUSED") else step.finished_ms
        done = f"+{told_ms(done_ms - began_ms)}" if done_ms else ""
        state = " ".join(filter(None, (step.state or "-", step.code, "parked" if self._is_parked(step.step) else "")))
        return [
            Text(f"+{told_ms(step.prepared_ms - began_ms)}" if voted else ""), Text(done), Text(str(step.attempts or "")),
            Text(state)]

    def _is_parked(self, step: str) -> bool:
        return any(one.step == step for one in self._view.parked)

    def _legend(self, *, compressed: bool, plain: bool) -> Text:
        present = {span.phase for lane in self._lanes for span in lane.spans}
        legend = Text()
        for phase in Phase:
            if phase in present:
                legend.append(_GLYPHS[phase][plain], _STYLES[phase])
                legend.append(f" {phase.value}  ")
        if any(lane.parked_ms for lane in self._lanes):
            legend.append(*_PARKED)
            legend.append(" parked  ")
        if compressed:
            legend.append("(not to scale: long gaps are shortened)", "dim")
        return legend


def _bar(lane: Lane, scale: Scale, width: int, began_ms: int, *, plain: bool) -> Text:
    cells: list[tuple[str, str]] = [(" ", "")] * width
    cursor = 0
    for span in lane.spans:
        first = max(scale.column(max(span.from_ms, began_ms)), cursor)
        last = max(scale.column(max(span.to_ms, began_ms)), first + (span.phase is not Phase.WAIT))
        cursor = min(last, width)
        cells[first:cursor] = [(_GLYPHS[span.phase][plain], _STYLES[span.phase])] * (cursor - first)
    for at_ms in lane.parked_ms:
        cells[min(scale.column(max(at_ms, began_ms)), width - 1)] = _PARKED
    return Text.assemble(*cells[:width])


def told_ms(duration_ms: float) -> str:
    """A duration for a person: 35 ms, 2.10 s, 3m20s, 2h05m, 3d04h."""
    if duration_ms < _SECOND_MS:
        return f"{duration_ms:.0f} ms"
    if duration_ms < _MINUTE_MS:
        return f"{duration_ms / _SECOND_MS:.2f} s"
    whole = int(duration_ms)
    for unit_ms, name, below_ms, below in (
            (_DAY_MS, "d", _HOUR_MS, "h"), (_HOUR_MS, "h", _MINUTE_MS, "m"), (_MINUTE_MS, "m", _SECOND_MS, "s")):
        if whole >= unit_ms:
            return f"{whole // unit_ms}{name}{whole % unit_ms // below_ms:02d}{below}"
    raise AssertionError(whole)
