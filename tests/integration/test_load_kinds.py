"""Other loads than a closed loop of the shop's orders, as a user runs them: processes of their own, on real Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

from loadgen.apart import apart
from loadgen.history import read_history
from loadgen.plan import LoadPlan
from loadgen.result import LoadResult
from orchestrator.errors import RaytxError

COMMAND = [sys.executable, "-m", "loadgen.cli"]


def raytx(*arguments, timeout_s=150):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, check=False)


def loaded(*arguments):
    ended = raytx("load", *arguments, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return LoadResult.model_validate_json(ended.stdout)


def test_two_processes_move_money_for_a_while_and_their_result_is_one(tmp_path):
    saved, page, history = tmp_path / "result.json", tmp_path / "report.html", tmp_path / "history.jsonl"
    found = loaded(
        "--workload", "bank", "--data", tmp_path / "data", "--processes", 2, "--duration", 2, "--warm-up", 0.5, "--concurrency",
        64, "--save", saved, "--history", history, "--report", page)
    assert found.model_extra == {}
    assert LoadResult.read(saved) == found
    assert page.read_text().count("<svg") >= 6
    assert (found.workload, found.window_s, found.unknown, found.rejected) == ("bank", 2.0, 0, 0)
    told = read_history([history, *(tmp_path / f"history.jsonl.{index}" for index in range(2))])
    assert {operation.process for operation in told.operations} == {"load-0", "load-1"}
    assert sum(operation.saga.startswith("transfer") for operation in told.operations) == found.orders == found.committed
    assert found.audit["committed"] < found.committed == sum(
        found.audit["by_saga"][saga]["committed"] for saga in ("transfer", "transfer_back"))
    assert found.audit["sent_minor"] == found.audit["received_minor"] == found.amount_minor
    assert sum(second.committed for second in found.seconds) == found.committed
    assert found.cpu_us_per_order["client"] > 0


def test_a_saga_of_ones_own_arrives_as_a_file_says_and_the_next_run_goes_on_with_its_samples(tmp_path):
    arrivals = tmp_path / "arrivals.csv"
    arrivals.write_text("second,count\n0,40\n1,80\n")
    own = ("--workload", "actors.orders:place_order", "--data", tmp_path / "data")
    first = loaded(*own, "--arrivals", arrivals, "--duration", 1)
    assert first.orders == 120
    assert first.audit["by_saga"]["open_books"]["committed"] == 1
    second = loaded(*own, "--orders", 64)
    assert second.orders == 64
    assert second.audit["by_saga"]["open_books"]["committed"] == 1
    for found in (first, second):
        assert set(found.aborted_by_code) <= {"OUT_OF_STOCK", "INSUFFICIENT_FUNDS", "UNDELIVERABLE"}  # none was there before


def test_a_driver_process_that_fails_ends_the_run_with_its_error(tmp_path):
    plan = LoadPlan(data=tmp_path / "nobody", app="actors.bank:app", workload="bank", orders=4, processes=2)
    with pytest.raises(RaytxError, match="driver-0"), apart(plan, "run", [tmp_path / "a", tmp_path / "b"]):
        pytest.fail("nothing runs there")
