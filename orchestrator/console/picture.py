"""A transaction's waterfall as SVG geometry, in thousandths of its width; what the spans are is `orchestrator.waterfall`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from orchestrator.waterfall import Phase, Scale, lanes, told_ms

if TYPE_CHECKING:
    from orchestrator.timeline import Timeline
    from orchestrator.waterfall import Lane

WIDTH = 1000
_BAR_MIN = 4  # so that what took no time is seen all the same


class Bar(NamedTuple):
    """A stretch of a lane; `kind` names its colour."""

    x: int
    width: int
    kind: str
    title: str


class DrawnLane(NamedTuple):
    """One line of the picture: a step, or the transaction itself."""

    name: str
    detail: str
    bars: list[Bar]
    marks: list[Bar]


class Picture(NamedTuple):
    """The whole of it; `compressed` says that its width is no measure of time."""

    lanes: list[DrawnLane]
    phases: list[str]
    span: str
    compressed: bool


def picture(found: Timeline, now_ms: int) -> Picture:
    """Draw a transaction.

    Args:
        found: what log and ledgers say of it.
        now_ms: Unix ms, for what has not ended.
    """
    drawn = lanes(found, now_ms)
    until_ms = found.ended_ms or max(now_ms, found.began_ms)
    decided_ms = found.decided_ms or until_ms
    times = {time for lane in drawn for span in lane.spans for time in (span.from_ms, span.to_ms)}
    times |= {time for lane in drawn for time in lane.parked_ms} | {found.began_ms, decided_ms, until_ms}
    times = {max(time, found.began_ms) for time in times}
    draw = _Draw(found.began_ms, Scale(times, WIDTH - _BAR_MIN))
    whole = [draw.bar(found.began_ms, decided_ms, "decide", going=not found.decided_ms)]
    if found.decided_ms:
        whole.append(draw.bar(decided_ms, until_ms, "end", going=not found.ended_ms))
    steps = [DrawnLane(lane.step, lane.service, draw.bars(lane), draw.parkings(lane)) for lane in drawn]
    present = {span.phase for lane in drawn for span in lane.spans}
    return Picture(
        [DrawnLane("transaction", "log", whole, []), *steps], [phase.value for phase in Phase if phase in present],
        told_ms(max(times) - found.began_ms), draw.scale.compressed)


class _Draw:
    def __init__(self, began_ms: int, scale: Scale) -> None:
        self._began_ms, self.scale = began_ms, scale

    def bar(self, from_ms: int, to_ms: int, kind: str, *, going: bool) -> Bar:
        x, end = (self.scale.column(max(at_ms, self._began_ms)) for at_ms in (from_ms, to_ms))
        title = f"{kind} {told_ms(max(to_ms - from_ms, 0))}{' so far' if going else ''}"
        return Bar(x, max(end - x, _BAR_MIN), f"{kind} going" if going else kind, title)

    def bars(self, lane: Lane) -> list[Bar]:
        return [self.bar(span.from_ms, span.to_ms, span.phase.value, going=span.going) for span in lane.spans]

    def parkings(self, lane: Lane) -> list[Bar]:
        return [Bar(self.scale.column(max(at_ms, self._began_ms)), _BAR_MIN, "parked",
                    f"parked after {told_ms(max(at_ms - self._began_ms, 0))}") for at_ms in lane.parked_ms]
