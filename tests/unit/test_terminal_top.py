"""A frame of `raytx top` from two readings, and its tables; what nobody tells is None and reads as "-"."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from orchestrator.metrics.figures import Figures
from orchestrator.protocol.counts import Histogram
from orchestrator.terminal.frame import frame
from orchestrator.terminal.frame_view import size, view

SILENT = {"pid": None, "epoch": None, "restarts": None, "state": "unreachable"}


def status(name: str, role: str, figures: Figures | None, at_ms: int, **more: Any) -> dict[str, Any]:
    plain = None if figures is None else figures.plain() | {"at_ms": at_ms}
    return {"name": name, "role": role, "pid": 1, "epoch": 3, "state": "serving", "restarts": 0, "figures": plain, **more}


def histogram(*values: float) -> Histogram:
    found = Histogram()
    for value in values:
        found.observe(value)
    return found


def shard(number: int, committed: int, aborted: int, took_ms: list[float], at_ms: int, *, since_ms: int = 5) -> dict[str, Any]:
    figures = Figures(since_ms)
    figures.value("transactions", committed, saga="order", outcome="committed", code="")
    figures.value("transactions", aborted, saga="order", outcome="aborted", code="NONE_LEFT")
    figures.histogram("decide_ms", histogram(*took_ms), saga="order", outcome="committed")
    figures.value("open", 10 * number)
    figures.value("waiting", number, service="stock")
    closed = {"state": "closed", "since_ms": 0, "cause": "", "last_error": "", "retry_after_ms": 0}
    broken = {"state": "open", "since_ms": 1, "cause": "silent", "last_error": "no answer", "retry_after_ms": 100}
    return status(
        f"shard-{number}", "orchestrator", figures, at_ms, breakers={"stock": broken if number == 2 else closed})


def service(answers: int, at_ms: int) -> dict[str, Any]:
    figures = Figures(5)
    figures.value("answers", answers, service="stock", message="PREPARE", status="YES")
    figures.value("in_doubt", 4, service="stock")
    return status("service-stock", "stock", figures, at_ms)


def readings() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    log = status("log", "log", None, 0) | SILENT
    before = [log, service(100, 1_000), shard(1, 10, 1, [1.0] * 10, 1_000), shard(2, 0, 0, [], 1_000)]
    after = [log, service(300, 3_000), shard(1, 50, 5, [1.0] * 10 + [40.0] * 30, 3_000), shard(2, 20, 0, [40.0], 3_000)]
    return before, after


def test_rates_are_sums_over_the_shards() -> None:
    found = frame(*readings())
    assert found["seconds"] == 2
    assert (found["totals"]["committed_per_s"], found["totals"]["aborted_per_s"]) == (30, 2)
    assert found["totals"]["open"] == 30
    assert found["totals"]["in_doubt"] == 4
    assert found["sagas"][0]["codes"] == {"NONE_LEFT": 5}
    assert [one["decided_per_s"] for one in found["shards"]] == [22, 10]


def test_quantiles_are_of_what_was_counted_between_the_readings() -> None:
    before, after = readings()
    assert frame(before, after)["totals"]["decide_p50_ms"] > 20  # the ten fast ones were counted before
    assert frame([], after)["shards"][0]["decide_p50_ms"] > 1
    assert frame(before, before)["totals"]["decide_p50_ms"] is None


def test_a_shard_that_was_started_anew_counts_from_its_start() -> None:
    before, after = readings()
    after[2] = shard(1, 8, 0, [1.0], 3_000, since_ms=2_000)
    found = frame(before, after)
    assert found["shards"][0]["decided_per_s"] == pytest.approx(8)
    assert found["totals"]["committed_per_s"] == pytest.approx(8 + 10)


def test_a_services_row_joins_what_it_and_the_shards_say() -> None:
    (found,) = frame(*readings())["services"]
    assert (found["answers_per_s"], found["waiting"], found["in_doubt"]) == (100, 3, 4)
    assert found["breaker"]["state"] == "open"  # the worst of all shards


def test_what_nobody_tells_is_none() -> None:
    found = frame(*readings())
    assert found["log"]["records_per_s"] is None
    assert found["totals"]["parked"] is None
    empty = frame([], [])
    assert (empty["log"], empty["services"], empty["totals"]["open"], empty["at_ms"]) == (None, [], None, None)


def drawn(found: dict[str, Any], width: int, remarks: tuple[str, ...] = ()) -> list[str]:
    sheet = io.StringIO()
    Console(file=sheet, width=width).print(view(found, "raytx top", list(remarks), width))
    return [line.rstrip() for line in sheet.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_tables(width: int) -> None:
    lines = drawn(frame(*readings()), width, ("paused: saga order by ann",))
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "paused: saga order by ann" in text
    assert "committed 30/s   aborted 2.0/s   refused 0/s   retries 0/s   timeouts 0/s" in text
    assert "open 30   parked -   in doubt 4" in text
    (stock,) = [line for line in lines if line.startswith("stock")]
    assert "serving" in stock
    assert "open " in stock
    (first,) = [line.split() for line in lines if line.startswith("shard-1")]
    assert first[:2] == ["shard-1", "serving"]
    assert ("append p99" in text) == (width > 100)
    (log,) = [line.split() for line in lines if line.startswith("log ") and "unreachable" in line]
    assert set(log[2:]) == {"-"}


def test_tables_of_nothing() -> None:
    assert "log: no answer" in drawn(frame([], []), 80)


@pytest.mark.parametrize(("value", "told"), [(None, "-"), (5, "5 B"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB")])
def test_sizes(value: float | None, told: str) -> None:
    assert size(value) == told
