"""`raytx chaos` and `raytx load --chaos` as a user runs them, for some seconds; the long forms are commands."""

from __future__ import annotations

import json
import subprocess
import sys

COMMAND = [sys.executable, "-m", "loadgen.cli"]


def raytx(*arguments, timeout_s=240):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_deployment_is_struck_healed_and_judged(tmp_path):
    ended = raytx(
        "chaos", "--minutes", 0.15, "--seed", 3, "--faults", "kill,nested,driver", "--concurrency", 64, "--data",
        tmp_path / "data", "--json")
    told = json.loads(ended.stdout)
    assert ended.returncode == 0, told["failures"]
    assert "again with: raytx chaos" in ended.stderr
    assert told["kills_by_role"]["driver"] == 1
    assert told["driver_lives"] == 2
    assert told["kills"] >= 2
    assert told["terminal_s"] <= 10
    assert told["checks"]["history"]["counts"]["duplicates"] > 0
    assert all(check["violations"] == 0 for check in told["checks"].values())
    assert raytx("status", "--data", tmp_path / "data").returncode == 3  # it is down


def test_actors_are_struck_while_a_load_runs(tmp_path):
    ended = raytx(
        "load", "--orders", 2_000, "--lines", "1-2", "--concurrency", 32, "--chaos", "seed=2,seconds=20,faults=kill",
        "--data", tmp_path / "data", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["committed"] == 2_000
    assert told["chaos"]["kills"] >= 1
    assert told["chaos"]["failures"] == []
    assert told["history"]["violations"] == 0


def test_faults_that_a_load_would_not_survive_are_refused(tmp_path):
    ended = raytx("load", "--chaos", "faults=gcs", "--data", tmp_path / "data")
    assert ended.returncode == 2
    assert "no 'gcs' here" in ended.stderr
    assert not (tmp_path / "data").exists()
