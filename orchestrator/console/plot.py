"""Line plots as SVG geometry: the template draws them with attributes and classes, which the page's policy and colours need."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 640, 180
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 24
_TICKS_WANTED = 4


class Series(NamedTuple):
    """One line: (Unix ms, value) in order of time; None is a gap. `kind` names its colour."""

    name: str
    kind: str
    points: Sequence[tuple[int, float | None]]


class Tick(NamedTuple):
    """A labelled place on an axis."""

    at: float
    label: str


class Line(NamedTuple):
    """A drawn series and what it says now."""

    name: str
    kind: str
    path: str
    last: float | None


class Plot(NamedTuple):
    """What the template draws; `summary` says it in words."""

    title: str
    unit: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    summary: str


def plot(title: str, unit: str, series: Sequence[Series], *, begin_ms: int, end_ms: int) -> Plot:
    """Draw series over a stretch of time.

    Args:
        title: what is shown.
        unit: of the values.
        series: the lines.
        begin_ms: where the time axis begins, Unix ms.
        end_ms: where it ends; later than the beginning.
    """
    top = nice(max((value for one in series for _, value in one.points if value is not None), default=0.0))
    lines = [Line(one.name, one.kind, _path(one, begin_ms, end_ms, top), _last(one)) for one in series]
    said = "; ".join(f"{one.name} {'unknown' if one.last is None else f'{one.last:,.4g}'}" for one in lines)
    return Plot(title, unit, lines, _time_ticks(begin_ms, end_ms), _value_ticks(top), f"{title}, now, in {unit}: {said}")


def nice(value: float) -> float:
    """The lowest of 1, 2, 4, 5, 8, 10 times a power of ten that is not below it."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 5, 8, 10, 20) if factor * power >= value)


def _x(at_ms: float, begin_ms: int, end_ms: int) -> float:
    return round(LEFT + (at_ms - begin_ms) * (WIDTH - LEFT - RIGHT) / (end_ms - begin_ms), 1)


def _y(value: float, top: float) -> float:
    return round(HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM) / top, 1)


def _path(series: Series, begin_ms: int, end_ms: int, top: float) -> str:
    parts, pen = [], "M"
    for at_ms, value in series.points:
        if value is None or at_ms < begin_ms:
            pen = "M"
            continue
        parts.append(f"{pen}{_x(at_ms, begin_ms, end_ms)} {_y(value, top)}")
        pen = "L"
    return "".join(parts)


def _last(series: Series) -> float | None:
    return series.points[-1][1] if series.points else None


def _value_ticks(top: float) -> list[Tick]:
    values = [top * number / _TICKS_WANTED for number in range(_TICKS_WANTED + 1)]
    return [Tick(_y(value, top), f"{value:,.4g}") for value in values]


def _time_ticks(begin_ms: int, end_ms: int) -> list[Tick]:
    minutes = (end_ms - begin_ms) // 60_000
    every = max(1, math.ceil(minutes / 5))
    return [Tick(_x(end_ms - ago * 60_000, begin_ms, end_ms), f"-{ago} min" if ago else "now")
            for ago in range(0, minutes + 1, every)]
