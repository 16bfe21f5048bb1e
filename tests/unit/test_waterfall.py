"""Where a transaction's time went: spans from stored times, bars of a given width."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from orchestrator.protocol.records import Parked
from orchestrator.timeline import StepView, Timeline, TimelineEvent
from orchestrator.waterfall import Phase, Scale, Span, Waterfall, lanes, told_ms

BEGAN = 1_700_000_000_000
VIEW = Timeline(
    "0" * 32, "key", "buy", 1, "COMMITTED", "", BEGAN, BEGAN + 30_000, "COMMIT", BEGAN + 40, BEGAN + 80, "", "", "", "", 1, 0,
    [], None, [], [], [])
HOLD = StepView(
    "hold", "stock", "hold", "COMMITTED", 1, request={}, prepared_ms=BEGAN + 10, finished_ms=BEGAN + 50)
SHIP = StepView(
    "ship", "post", "ship", "COMMITTED", 2, request={}, prepared_ms=BEGAN + 30, finished_ms=BEGAN + 60, after=["hold"])
TELL = StepView(
    "tell", "mail", "tell", "DONE", 3, request={}, prepared_ms=BEGAN + 80, finished_ms=BEGAN + 80, after=["ship"],
    after_commit=True)


def view(*steps: StepView, **changes: object) -> Timeline:
    return msgspec.structs.replace(VIEW, steps=list(steps), **changes)


def spans(found: Timeline, now_ms: int = BEGAN + 1_000) -> dict[str, list[tuple[str, int, int]]]:
    return {lane.step: [(span.phase.name, span.from_ms - BEGAN, span.to_ms - BEGAN) for span in lane.spans]
            for lane in lanes(found, now_ms)}


def drawn(found: Timeline, width: int = 80, encoding: str = "utf-8") -> str:
    sheet = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    Console(file=sheet, width=width).print(Waterfall(found, BEGAN + 1_000))
    sheet.seek(0)
    return "\n".join(line.rstrip() for line in sheet.read().splitlines())


def test_a_commit() -> None:
    assert spans(view(HOLD, SHIP, TELL)) == {
        "hold": [("PREPARE", 0, 10), ("HELD", 10, 40), ("COMMIT", 40, 50)],
        "ship": [("WAIT", 0, 10), ("PREPARE", 10, 30), ("HELD", 30, 40), ("COMMIT", 40, 60)],
        "tell": [("WAIT", 0, 60), ("PERFORM", 60, 80)]}


def test_an_abort_with_a_refusal_a_rollback_and_a_tombstone() -> None:
    refused = StepView("hold", "stock", "hold", "REFUSED", 1, "NO", request={}, prepared_ms=BEGAN + 30, finished_ms=BEGAN + 30)
    undone = msgspec.structs.replace(HOLD, step="pay", state="ROLLED_BACK")
    late = StepView("ship", "post", "ship", "ROLLED_BACK", 1, prepared_ms=BEGAN + 55, finished_ms=BEGAN + 55, after=["pay"])
    assert spans(view(refused, undone, late, msgspec.structs.replace(TELL, state="", finished_ms=0), decision="ABORT")) == {
        "hold": [("PREPARE", 0, 30)],
        "pay": [("PREPARE", 0, 10), ("HELD", 10, 40), ("ROLLBACK", 40, 50)],
        "ship": [("WAIT", 0, 10), ("ROLLBACK", 40, 55)],
        "tell": []}


def test_a_step_behind_a_refusal_never_left() -> None:
    refused = StepView("hold", "stock", "hold", "REFUSED", 1, "NO", request={}, prepared_ms=BEGAN + 30, finished_ms=BEGAN + 30)
    behind = StepView("ship", "post", "ship", after=["hold"])
    assert spans(view(refused, behind, decision="ABORT"))["ship"] == [("WAIT", 0, 40)]


def test_what_has_not_ended_goes_on_until_now() -> None:
    held = StepView("hold", "stock", "hold", "PREPARED", 1, request={}, prepared_ms=BEGAN + 10)
    asked = StepView("pay", "bank", "pay")
    waits = StepView("ship", "post", "ship", after=["pay"])
    found = lanes(view(held, asked, waits, decision="", decided_ms=0, ended_ms=0), BEGAN + 1_000)
    assert [lane.spans[-1] for lane in found] == [
        Span(Phase.HELD, BEGAN + 10, BEGAN + 1_000, going=True), Span(Phase.PREPARE, BEGAN, BEGAN + 1_000, going=True),
        Span(Phase.WAIT, BEGAN, BEGAN + 1_000, going=True)]


def test_clocks_that_disagree_make_no_overlap() -> None:
    early = msgspec.structs.replace(HOLD, prepared_ms=BEGAN + 45, finished_ms=BEGAN + 39)
    (lane,) = lanes(view(early), BEGAN + 1_000)
    assert all(before.to_ms <= after.from_ms <= after.to_ms for before, after in zip(lane.spans, lane.spans[1:], strict=False))


def test_bars_in_80_columns() -> None:
    assert drawn(view(HOLD, SHIP, TELL)) == """\
step  service  0                     80 ms   voted    done  tries  state
                           |COMMIT  |ended
hold  stock    ░░░▒▒▒▒▒▒▒▒▒██               +10 ms  +50 ms      1  COMMITTED
ship  post     ···░░░░░░▒▒▒█████            +30 ms  +60 ms      2  COMMITTED
tell  mail     ·················■■■■■■              +80 ms      3  DONE
· waits  ░ prepare  ▒ held  █ commit  ■ perform"""


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_console(width: int) -> None:
    text = drawn(view(HOLD, SHIP, TELL), width)
    assert max(map(len, text.splitlines())) <= width


def test_a_console_without_unicode() -> None:
    text = drawn(view(HOLD, SHIP, TELL), encoding="ascii")
    assert "--" in text
    assert "==" in text
    assert text.isascii()


def test_a_parked_step_is_marked() -> None:
    parked = Parked("0" * 32, "tell", "NO", "nobody", BEGAN + 500)
    waits = StepView("tell", "mail", "tell", after=["ship"], after_commit=True)
    event = TimelineEvent(BEGAN + 500, "log", "parked", "tell", code="NO")
    text = drawn(view(HOLD, SHIP, waits, ended_ms=0, parked=[parked], events=[event]))
    (line,) = [line for line in text.splitlines() if line.startswith("tell")]
    assert "■!" in line
    assert line.endswith("- parked")
    assert "! parked" in text


def test_a_scale_is_true_until_one_gap_dwarfs_all_others() -> None:
    even = Scale([0, 25, 100], 40)
    assert ([even.column(at) for at in (0, 25, 100)], even.compressed) == ([0, 10, 40], False)
    skewed = Scale([0, 10, 20, 3_600_000], 40)
    assert skewed.compressed
    assert skewed.column(10) >= 3
    assert skewed.column(3_600_000) == 40
    assert Scale([5], 40).column(5) == 0


@pytest.mark.parametrize(("duration_ms", "told"), [
    (0, "0 ms"), (999, "999 ms"), (2_100, "2.10 s"), (200_000, "3m20s"), (7_500_000, "2h05m"), (273_600_000, "3d04h")])
def test_durations(duration_ms: int, told: str) -> None:
    assert told_ms(duration_ms) == told
