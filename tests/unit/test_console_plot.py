from __future__ import annotations

import pytest

from orchestrator.console.figures import UNKNOWN, number, size
from orchestrator.console.plot import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, nice, plot
from orchestrator.console.trends import KEPT_MS, Sample, Trends, plots
from orchestrator.metrics.figures import Figures
from orchestrator.protocol.counts import Histogram


def test_a_line_fills_its_plot_and_breaks_at_gaps():
    points = [(0, 0.0), (500, None), (600, 1.0), (1_000, 10.0)]
    drawn = plot("Rate", "/s", [Series("a", "good", points)], begin_ms=0, end_ms=1_000)
    (line,) = drawn.lines
    assert line.path.count("M") == 2
    assert line.path.endswith(f"L{WIDTH - RIGHT:.1f} {TOP:.1f}")
    assert line.path.startswith(f"M{LEFT:.1f} ")
    assert line.last == 10.0
    assert [tick.label for tick in drawn.y_ticks] == ["0", "2.5", "5", "7.5", "10"]
    assert drawn.summary == "Rate, now, in /s: a 10"


def test_a_plot_of_nothing():
    drawn = plot("Rate", "/s", [Series("a", "good", [])], begin_ms=0, end_ms=600_000)
    assert drawn.lines[0].path == ""
    assert drawn.summary.endswith("a unknown")
    assert [tick.label for tick in drawn.x_ticks][:2] == ["now", "-2 min"]
    assert all(0 <= tick.at <= max(HEIGHT, WIDTH) for tick in (*drawn.x_ticks, *drawn.y_ticks))


@pytest.mark.parametrize(("value", "expected"), [
    (0, 1), (0.3, 0.4), (1, 1), (7, 8), (11, 20), (41, 50), (999, 1_000), (1_001, 2_000)])
def test_axes_end_at_plain_numbers(value, expected):
    assert nice(value) == pytest.approx(expected)


def shard_status(at_ms, committed, since_ms=0, name="shard-0", slow=0):
    took_ms = Histogram()
    for _ in range(committed):
        took_ms.observe(3.0)
    for _ in range(slow):
        took_ms.observe(900.0)
    figures = Figures(since_ms)
    figures.value("transactions", committed, saga="s", outcome="committed", code="")
    figures.value("open", 7)
    figures.histogram("decide_ms", took_ms, saga="s", outcome="committed")
    return {"name": name, "figures": figures.plain() | {"at_ms": at_ms}}


def test_rates_and_quantiles_are_those_of_the_last_seconds():
    trends = Trends()
    trends.add(Sample(10_000, [shard_status(10_000, 1_000, slow=50)]))
    trends.add(Sample(12_000, [shard_status(12_000, 1_200, slow=50)]))
    point = trends.points()[-1]
    assert point.committed == pytest.approx(100)
    assert point.open == 7
    assert point.p99_ms < 10
    assert trends.reading().quantile("decide_ms", 0.99) == point.p99_ms


def test_shards_add_up_and_one_that_was_restarted_counts_from_zero():
    trends = Trends()
    trends.add(Sample(10_000, [shard_status(10_000, 1_000), shard_status(10_000, 500, name="shard-1")]))
    trends.add(Sample(12_000, [shard_status(12_000, 1_200), shard_status(12_000, 50, since_ms=11_000, name="shard-1")]))
    assert trends.points()[-1].committed == pytest.approx(100 + 50)


def test_what_nobody_tells_is_unknown_and_not_zero():
    trends = Trends()
    assert trends.reading() is None
    trends.add(Sample(10_000, [{"name": "shard-0", "state": "unreachable"}]))
    point = trends.points()[-1]
    assert (point.committed, point.p50_ms, point.open) == (None, None, None)
    assert trends.reading().total("open") is None


def test_old_points_go_and_outages_break_the_line():
    trends = Trends()
    for at_ms in (0, 1_000, KEPT_MS // 2, KEPT_MS + 500, KEPT_MS + 1_500):
        trends.add(Sample(at_ms, [shard_status(at_ms, 1 + at_ms)]))
    assert [point.at_ms for point in trends.points()] == [KEPT_MS // 2, KEPT_MS + 500, KEPT_MS + 1_500]
    opened = plots(trends.points(), KEPT_MS + 1_500)[2]
    assert opened.lines[0].path.count("M") == 2


@pytest.mark.parametrize(("value", "text"), [
    (None, UNKNOWN), (0, "0"), (0.123, "0.12"), (3.21, "3.2"), (12.7, "13"), (12_345.6, "12,346")])
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, UNKNOWN), (512, "512 B"), (1_536, "1.5 KiB"), (3 * 1024**3, "3 GiB")])
def test_sizes(value, text):
    assert size(value) == text
