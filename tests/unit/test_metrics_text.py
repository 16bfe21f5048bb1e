"""Prometheus' text format, and the command that prints it."""

from __future__ import annotations

import io
import json

from rich.console import Console
from typer.testing import CliRunner

from loadgen.cli import cli
from orchestrator.metrics.figures import Figures
from orchestrator.metrics.scrape import own_lines, scrape, urls_of_head
from orchestrator.metrics.text import to_text
from orchestrator.protocol.counts import Histogram
from orchestrator.terminal.metrics import tables

NOBODY = "http://127.0.0.1:9/metrics"


def status_of_a_shard() -> dict:
    figures, histogram = Figures(0), Histogram()
    figures.value("transactions", 7, saga="buy", outcome="aborted", code='said "no"\\')
    figures.value("open", 2)
    histogram.observe(4)
    figures.histogram("append_ms", histogram)
    return {"name": "shard-0", "figures": figures.plain()}


def test_a_sample_is_one_line_with_its_type_before_it() -> None:
    lines = to_text([status_of_a_shard(), {"name": "log", "state": "unreachable"}]).splitlines()
    counted = lines.index(
        r'ray_raytx_transactions_total{saga="buy",outcome="aborted",code="said \"no\"\\",actor="shard-0"} 7')
    assert lines[counted - 1] == "# TYPE ray_raytx_transactions_total counter"
    assert "# TYPE ray_raytx_open gauge" in lines
    assert 'ray_raytx_append_ms_bucket_total{le="7",actor="shard-0"} 1' in lines
    assert 'ray_raytx_append_ms_bucket_total{le="3",actor="shard-0"} 0' in lines
    assert 'ray_raytx_append_ms_count_total{actor="shard-0"} 1' in lines
    assert len({line for line in lines if line.startswith("# TYPE")}) == 5


def test_nobody_tells_nothing() -> None:
    assert to_text([]) == to_text([{"name": "log"}]) == ""


def test_of_a_scrape_only_what_is_of_raytx_is_kept() -> None:
    text = "# HELP ray_tasks x\nray_tasks 1\n# HELP ray_raytx_open y\n# TYPE ray_raytx_open gauge\nray_raytx_open 3\n"
    assert own_lines(text) == "# HELP ray_raytx_open y\n# TYPE ray_raytx_open gauge\nray_raytx_open 3\n"


def test_an_agent_that_does_not_answer_is_left_out() -> None:
    assert scrape([NOBODY]) == ""


def test_the_table_shows_values_and_quantiles() -> None:
    console = Console(width=200, file=io.StringIO())
    console.print(tables({"shard-0": status_of_a_shard()["figures"], "log": None}))
    shown = console.file.getvalue()
    (line,) = [line for line in shown.splitlines() if line.startswith("transactions")]
    assert line.split()[:2] == ["transactions", "shard-0"]
    assert line.split()[-1] == "7"
    assert "append_ms" in shown
    assert "no answer: log" in shown


def test_what_ships_is_printed_without_a_deployment() -> None:
    printed = CliRunner().invoke(cli, ["metrics", "--grafana"])
    assert json.loads(printed.stdout)["title"] == "raytx"
    assert "alert: RaytxParked" in CliRunner().invoke(cli, ["metrics", "--alerts"]).stdout


def test_nothing_runs_is_exit_code_3(tmp_path) -> None:
    assert CliRunner().invoke(cli, ["metrics", "--data", str(tmp_path)]).exit_code == 3


def test_the_agent_of_a_head_is_found_in_its_directory(tmp_path) -> None:
    assert urls_of_head(tmp_path) == []
    (tmp_path / "session_latest").mkdir()
    (tmp_path / "session_latest" / "metrics_export_port_ab12").write_text("40807")
    assert urls_of_head(tmp_path) == ["http://127.0.0.1:40807/metrics"]
