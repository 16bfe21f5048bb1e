"""The simulator and the crash sweep in their short form, and that they can fail: `raytx test` is the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from actors import ledger
from actors.ledger import Action
from actors.orders import app as shop
from loadgen.cli import cli
from orchestrator.app import App
from orchestrator.protocol.messages import Kind
from orchestrator.testing import Options, Simulator, Workload, explore, sweep, tell
from simulation.trips import app as trips

SAGAS = [(shop, "place_order"), (shop, "return_items"), (trips, "book_trip"), (trips, "book_in_order")]
SEEDS = 250


@pytest.mark.parametrize(("app", "saga"), SAGAS)
def test_random_schedules(app: App, saga: str) -> None:
    simulator = Simulator(Workload(app, saga))
    explored = explore(simulator, range(SEEDS))
    if explored.violation is not None:
        run = simulator.shrink(explored.violation)
        pytest.fail(f"seed {run.seed}: {run.options}\n{tell(run.trace)}\n{run.violation}")
    assert explored.schedules > 0.8 * SEEDS
    assert min(explored.committed, explored.aborted) > 0.2 * SEEDS
    assert len(explored.traces) == SEEDS


@pytest.mark.parametrize(("app", "saga", "first"), [(shop, "place_order", 0), (trips, "book_trip", 100)])
def test_random_schedules_over_the_real_stores(app: App, saga: str, first: int) -> None:
    simulator = Simulator(Workload(app, saga), on_disk=True)
    explored = explore(simulator, range(first, first + 25))
    if explored.violation is not None:
        run = simulator.shrink(explored.violation)
        pytest.fail(f"seed {run.seed}: {run.options}\n{tell(run.trace)}\n{run.violation}")
    assert explored.schedules > 15


@pytest.mark.parametrize(("app", "saga"), SAGAS)
def test_every_single_crash_and_message_and_some_pairs(app: App, saga: str) -> None:
    workload = Workload(app, saga)
    report = sweep(workload, Simulator(workload).books, pairs_max=16)
    assert report.violation is None, f"{report.violation.trial}\n{tell(report.violation.trace)}\n{report.violation.violation}"
    assert report.trials["single crashes"] > 60 * report.trials["undisturbed"]
    assert report.trials["messages"] > 40 * report.trials["undisturbed"]
    assert report.outcomes["COMMITTED"] > 0


def test_a_log_that_opened_its_file_after_its_successor_is_no_unrest() -> None:
    """It waited for room on the disk; what it stored, its successor does not know before it writes."""
    options = Options(
        spread_ms=200, in_doubt_after_ms=400, retention_ms=1_000, double=0.02, delay_ms=30, crash=0.01, disk_error=0.02,
        disk_full_ms=3_000, slow_disk_ms=100, decline=0.4, kills=1, zombies=1, driver_dies=True, clock_jump_ms=5_000)
    run = Simulator(Workload(shop, "place_order")).run(1393, options)
    assert ("append", "log/2") in {(what, who) for _, what, who in run.trace}  # its successor, log/3, runs
    assert run.violation is None


def test_a_row_that_was_settled_while_its_inquiry_was_on_its_way_is_no_alarm() -> None:
    """Its transaction ended and was forgotten meanwhile, and the shard had not heard of the new watermark."""
    options = Options(
        transactions=2, spread_ms=2_000, phase_ms=8_000, deadline_ms=1_500, in_doubt_after_ms=400, retention_ms=4_000,
        delay_ms=300, power=0.3, disk_error=0.1, slow_disk_ms=5, decline=0.1, zombies=1,
        cuts=1, clock_jump_ms=5_000)
    run = Simulator(Workload(shop, "place_order")).run(155474, options)
    assert ("load", "log/2") in {(what, who) for _, what, who in run.trace}
    assert run.violation is None


def test_the_same_seed_gives_the_same_trace_in_any_process() -> None:
    simulator = Simulator(Workload(trips, "book_trip"))
    here = [simulator.run(seed).digest.hex() for seed in range(40)]
    assert [simulator.run(seed).digest.hex() for seed in range(40)] == here
    program = (
        "from orchestrator.testing import Simulator, Workload; from simulation.trips import app; "
        "s = Simulator(Workload(app, 'book_trip')); print([s.run(seed).digest.hex() for seed in range(40)])")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
    there = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert there.stdout.strip() == str(here)


def test_without_its_tombstone_the_ledger_is_caught_and_the_schedule_made_small() -> None:
    simulator = Simulator(Workload(trips, "book_trip"))
    with patch.dict(ledger.TABLE, {(None, Kind.ROLLBACK): Action.ACK}):
        explored = explore(simulator, range(3_000))
        assert explored.violation is not None
        small = simulator.shrink(explored.violation)
        assert small.violation is not None
        assert len(small.fired) <= len(explored.violation.fired)
        without = set(explored.violation.fired) - set(small.fired)
        assert simulator.run(small.seed, small.options, without).digest == small.digest
    assert simulator.run(small.seed).violation is None


def test_the_sweep_finds_a_commit_that_is_not_acknowledged_twice() -> None:
    workload = Workload(trips, "book_trip")
    books = Simulator(workload).books
    with patch.dict(ledger.TABLE, {(ledger.RowState.COMMITTED, Kind.COMMIT): Action.VIOLATION}):
        report = sweep(workload, books, pairs_max=0, refusing=[])
    assert report.violation is not None
    assert report.violation.violation is not None
    assert "nothing was changed" in report.violation.violation[1]


def test_the_command_tells_what_was_tried() -> None:
    result = CliRunner().invoke(cli, [
        "test", "simulation.trips:book_trip", "--only", "simulator", "--seeds", "20", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    found = told["simulator"]["book_trip"]
    assert found["schedules"] + found["not_counted"] == 20
    assert told["ok"] is True


def test_the_command_says_how_to_replay_what_it_found() -> None:
    with patch.dict(ledger.TABLE, {(None, Kind.ROLLBACK): Action.ACK}):
        result = CliRunner().invoke(cli, ["test", "simulation.trips:app", "--only", "simulator", "--seeds", "3000"])
    assert result.exit_code == 1
    assert "guarantee" in result.stdout
    assert "replay: raytx test simulation.trips:app --only simulator --first-seed " in result.stdout


@pytest.mark.parametrize(("arguments", "told"), [
    (["nowhere:saga"], "cannot load 'nowhere:saga'"),
    (["simulation.trips:PLACES"], "is a int, neither a Saga nor an App"),
    (["simulation.trips:app", "--only", "luck"], "there is no part 'luck'"),
    (["simulation.trips:app", "--pairs", "many"], "neither a number nor all"),
])
def test_wrong_use_is_told(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(cli, ["test", *arguments])
    assert result.exit_code == 2
    assert told in result.stderr
