"""The arithmetic of the benchmarks: order of the runs, medians, ratios of neighbours, what makes a result not count."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from actors.faults import Draws
from benchmarks import comparisons
from benchmarks.alternation import Ratio, all_ok, alternate, middle, ratio
from benchmarks.cli import ABOUT, cli
from benchmarks.execution import FailedRunError
from benchmarks.plan import Measured, Plan, System
from benchmarks.preparation import Asked, Preparation, installed, missing
from benchmarks.rendering import render, to_json
from benchmarks.slow import SlowOnes, quantile
from benchmarks.system_calls import parse
from orchestrator.config import FaultSettings
from orchestrator.errors import DefiniteError
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind


def measured(per_s: float, *, ok: bool = True, **figures: float) -> Measured:
    return Measured(ok=ok, orders=100, committed=100, wall_s=100 / per_s, latency_ms={"p99": 5.0},
                    cpu_us_per_order={"log": 10.0, "client": 20.0}, figures=figures)


def test_sides_take_turns_and_the_order_turns_round() -> None:
    ran: list[System] = []

    def execute(plan: Plan) -> Measured:
        ran.append(plan.system)
        return measured(len(ran))

    sides = {"a": Plan(system=System.RAYTX), "b": Plan(system=System.FLOOR)}
    rounds = alternate(sides, 3, execute)
    assert [system.value for system in ran] == ["raytx", "floor", "floor", "raytx", "raytx", "floor"]
    assert [run.orders_per_s for run in rounds["a"]] == pytest.approx([1, 4, 5])


def test_a_drift_that_hits_both_neighbours_divides_out() -> None:
    rounds = {"a": [measured(900), measured(300), measured(600)], "b": [measured(300), measured(100), measured(200)]}
    assert ratio(rounds, "a", "b", "orders_per_s") == pytest.approx(Ratio(3.0, 3.0, 3.0))


def test_a_ratio_has_the_median_and_the_range_of_the_rounds() -> None:
    rounds = {"a": [measured(100), measured(400), measured(300)], "b": [measured(100), measured(100), measured(100)]}
    assert ratio(rounds, "a", "b", "orders_per_s") == pytest.approx(Ratio(3.0, 1.0, 4.0))


def test_what_was_not_measured_has_neither_median_nor_ratio() -> None:
    rounds = {"a": [measured(1)], "b": [measured(1, fsyncs=0.0)]}
    assert middle(rounds["a"], "fsyncs") is None
    assert ratio(rounds, "a", "b", "fsyncs") is None
    assert ratio({"a": [measured(1, fsyncs=1.0)], "b": rounds["b"]}, "a", "b", "fsyncs") is None, "divided by nothing"


def test_figures_by_name() -> None:
    run = measured(50, rss=3.0)
    assert run.value("orders_per_s") == pytest.approx(50)
    assert run.value("latency_ms.p99") == 5
    assert run.value("cpu_us_per_order.total") == 30
    assert run.value("cpu_us_per_order.log") == 10
    assert run.value("rss") == 3
    with pytest.raises(KeyError):
        run.value("latency_ms.p42")


def test_one_bad_run_spoils_the_result() -> None:
    comparison = comparisons.floor(Plan())
    good = {"raytx": [measured(2), measured(2)], "floor": [measured(4), measured(4)]}
    bad = {**good, "raytx": [measured(2), measured(2, ok=False)]}
    assert all_ok(good)
    assert not all_ok(bad)
    assert to_json("floor", comparison, good)["ok"] is True
    assert to_json("floor", comparison, bad)["ok"] is False
    assert "NOT OK" in shown(comparison, bad)
    assert "NOT OK" not in shown(comparison, good)


def shown(comparison: comparisons.Comparison, rounds: dict[str, list[Measured]]) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render("floor", comparison, rounds, detailed=True))
    return captured.get()


def test_the_json_has_runs_medians_and_ratios() -> None:
    rounds = {"raytx": [measured(2), measured(3), measured(4)], "floor": [measured(8), measured(12), measured(8)]}
    plain = json.loads(json.dumps(to_json("floor", comparisons.floor(Plan()), rounds)))
    assert plain["sides"]["raytx"]["median"]["orders_per_s"] == pytest.approx(3)
    assert plain["sides"]["raytx"]["ratio"]["orders_per_s"] == pytest.approx({"median": 0.25, "least": 0.25, "most": 0.5})
    assert len(plain["sides"]["floor"]["runs"]) == 3


def test_every_comparison_shows_figures_that_are_named_right() -> None:
    plan = Plan(settings=["transport=ray"])
    found = [
        comparisons.systems(plan, comparisons.OTHERS, 100), comparisons.floor(plan), comparisons.history(plan, {5: "d"}),
        comparisons.head_of_line(plan), comparisons.shards(plan, (1, 2)), comparisons.transport(plan),
        comparisons.latency(plan, 1_000), comparisons.cost(plan, traced=True), comparisons.memory(plan),
        comparisons.recovery(plan), comparisons.metrics(plan)]
    for comparison in found:
        assert not comparison.base or comparison.base in comparison.sides
        assert comparison.shown
        mine = [side for side in comparison.sides.values() if side.system is System.RAYTX]
        assert all("transport=ray" in side.settings for side in mine), "--set reaches every deployment"
    assert found[4].sides["2 shards"].settings == ["transport=ray", "shards=2"]
    assert found[6].sides["open loop, 500/s"].rate_per_s == 500


def test_slower_systems_get_fewer_orders_with_as_many_in_flight() -> None:
    sides = comparisons.systems(Plan(orders=20_000, warm_up=2_000, concurrency=64), [System.PLAIN_RAY], 3_000).sides
    assert (sides["plain-ray"].orders, sides["plain-ray"].warm_up, sides["plain-ray"].concurrency) == (3_000, 300, 64)
    assert sides["raytx"].orders == 20_000


def test_raytx_is_not_one_of_the_others() -> None:
    asked = Asked(only=(System.PLAIN_RAY, System.RAYTX))
    with ExitStack() as undo, pytest.raises(DefiniteError, match="--only: raytx is what the others are compared with: leave"):
        Preparation(Plan(), asked, progress=print, undo=undo).comparison("systems")


def test_what_is_not_installed_is_named_and_left_out() -> None:
    told: list[str] = []
    found = installed([System.PLAIN_RAY, *comparisons.OTHERS[1:]], told.append)
    assert found[0] is System.PLAIN_RAY
    assert len(found) + len(told) == 5
    assert all("is left out" in why and "install" in why for why in told)
    assert missing(System.RAYTX) == ""


def test_latency_measures_the_capacity_first_unless_a_rate_is_given() -> None:
    ran: list[Plan] = []

    def execute(plan: Plan) -> Measured:
        ran.append(plan)
        return measured(800)

    def rate(asked: Asked) -> float:
        with ExitStack() as undo:
            found = Preparation(Plan(), asked, progress=lambda _: None, undo=undo, run=execute).comparison("latency")
        return max(plan.rate_per_s for plan in found.sides.values())

    assert rate(Asked()) == pytest.approx(400)
    assert len(ran) == 1
    assert rate(Asked(rate_per_s=70)) == 70
    assert len(ran) == 1


def test_half_of_a_capacity_that_was_not_measured_is_nothing() -> None:
    with ExitStack() as undo, pytest.raises(FailedRunError, match="does not count"):
        Preparation(
            Plan(), Asked(), progress=lambda _: None, undo=undo, run=lambda _: measured(800, ok=False)).comparison("latency")


def test_an_unknown_benchmark_is_refused() -> None:
    with ExitStack() as undo, pytest.raises(DefiniteError, match="no benchmark 'speed'"):
        Preparation(Plan(), Asked(), progress=print, undo=undo).comparison("speed")


def test_the_help_lists_every_benchmark() -> None:
    result = CliRunner().invoke(cli, ["--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert [name for name in ABOUT if f"{name}:" not in result.output] == []


def test_quantiles() -> None:
    assert quantile(list(range(1, 101)), 0.99) == 100
    assert quantile(list(range(1, 101)), 0.5) == 51
    assert quantile([], 0.5) == 0


def test_slow_payments_are_those_that_the_simulated_failures_draw() -> None:
    plan = Plan(seed=7, slow_share=0.1, slow_ms=500)
    slow = SlowOnes(Path("unused"), plan)
    draws = Draws(FaultSettings(seed=7, tail_ms=500, tail_probability=0.1), opening=3)
    ids = [make_id(1_000 + number, number % 256, 1, number) for number in range(2_000)]
    mine = [slow.is_slow(txn) for txn in ids]
    theirs = [
        draws.hits("tail_probability", Command(txn, "authorize", Kind.PREPARE, 1, 9, "authorize", b"request")) for txn in ids]
    assert mine == theirs
    assert math.isclose(sum(mine) / len(mine), 0.1, abs_tol=0.03)


def test_the_table_of_strace_is_read() -> None:
    report = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.29    0.001200          12       100           fdatasync
 30.10    0.000590           5       118        11 recvmsg
  8.61    0.000169           4        42           unlink
------ ----------- ----------- --------- --------- ----------------
100.00    0.001959           7       260        11 total
"""
    assert parse(report) == {"fdatasync": 100, "recvmsg": 118}
