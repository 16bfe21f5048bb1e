"""A result as JSON by its schema, as one page with plots, and beside another one."""

from __future__ import annotations

import json
import sys
from array import array

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from typer.testing import CliRunner

from loadgen.capacity import Capacity, Step
from loadgen.checker.report import CheckReport, Invariant
from loadgen.cli import cli
from loadgen.compare import Comparison
from loadgen.report import _utilisation, write_report
from loadgen.result import RESULT_SCHEMA, LoadResult
from loadgen.summary import Summary
from loadgen.tally import Tally
from loadgen.timeline import marks_of, seconds_of
from loadgen.usage import Sample, Usage
from loadgen.workload import Told
from orchestrator.errors import DefiniteError

NS = 1_000_000_000
BEGIN_NS = 5 * NS


class Audit:
    ok = True

    def to_json(self):
        return {"ok": True, "violations": 0, "open": 0, "totals": {}}


def usage():
    samples = [
        Sample(BEGIN_NS + int(at_s * NS), {"client": 0.2 * at_s, "log": 0.5 * at_s}, 0.9)
        for at_s in (-0.5, 0.5, 1.0, 1.5, 2.0)]
    found = Usage(restarts=1, samples=samples, deaths=[(BEGIN_NS + NS * 3 // 2, "shard-0")])
    found.cpu_s.update({"client": 0.4, "log": 1.0})
    return found


def tally(latencies=(1_000, 2_000, 50_000)):
    made = Tally(wall_s=2.0, window_s=1.5, told_in_window=len(latencies))
    made.of("place_order").add(Told.COMMITTED, "", len(latencies))
    made.record(array("q", latencies), 0, warm=True)
    made.note_told(0, 4)
    made.of("place_order").add(Told.ABORTED, "OUT_OF_STOCK", 1)
    made.of("place_order").add(Told.REJECTED, "E_OVERLOADED", 1)
    made.note_told(2, 0)
    made.second(0).offered = 6
    return made


def summary(**changes):
    values = {
        "run": "run", "placed": {"orders": 5, "lines": 9}, "tally": tally(), "usage": usage(), "audit": Audit(),
        "check": CheckReport(), "seed": 1, "settings": {"workload": "retail", "concurrency": 4, "warm_up_s": 0.5, "data": "x"},
        "begin_ns": BEGIN_NS,
        "capacity": Capacity(50.0, 90.0, [Step(0.0, 100.0, 9.0, 0, False), Step(90.0, 90.0, 9.0, 0, True)])}
    return Summary(**{**values, **changes})


def result(**changes):
    return LoadResult.model_validate_json(json.dumps(summary(**changes).to_json()))


def broken():
    found = CheckReport()
    found.add(Invariant.KEPT, "key", "lost")
    return found


def test_a_run_fits_the_schema_with_every_second_of_it():
    found = result()
    assert (found.schema_version, found.run, found.orders, found.lines, found.units) == (RESULT_SCHEMA, "run", 5, 9, None)
    assert [(second.at_s, second.committed, second.aborted, second.rejected, second.in_flight) for second in found.seconds] == [
        (0, 3, 0, 0, 4), (1, 0, 0, 0, 4), (2, 0, 1, 1, 0)]
    assert [second.offered for second in found.seconds] == [6, 0, 0]
    assert found.seconds[0].p50_ms == pytest.approx(2.0, rel=0.01)
    assert found.seconds[0].cpu_share == {"client": 0.2, "log": 0.5}
    assert [(mark.at_s, mark.what) for mark in found.marks] == [(1.5, "shard-0 gone")]
    assert found.orders_per_s == 2.0
    for part in (found, *found.seconds, *found.marks, found.capacity, *found.capacity.steps):
        assert part.model_extra == {}  # a field that is in no schema is not documented


def test_strikes_that_were_planned_stand_for_the_deaths_that_they_are():
    assert marks_of(usage(), BEGIN_NS, [(BEGIN_NS + NS, "kill shard-0")]) == [{"at_s": 1.0, "what": "kill shard-0"}]
    assert seconds_of(Tally(), Usage(), 0) == []


def seconds(*samples, last=3):
    made = Tally()
    made.second(last)
    kept = [Sample(BEGIN_NS + int(at_s * NS), {"log": cpu_s}, busy) for at_s, cpu_s, busy in samples]
    return [(second["cpu_share"].get("log"), second["busy"]) for second in seconds_of(made, Usage(samples=kept), BEGIN_NS)]


def test_processors_and_the_machine_are_those_of_the_whole_second():
    halves = [(-0.5, 0.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.5, 1.0), (1.0, 0.6, 0.2), (1.5, 0.6, 0.0), (2.0, 1.1, 1.0)]
    assert seconds(*halves) == [(0.6, 0.6), (0.5, 0.5), (None, None), (None, None)]


def test_clocks_that_were_read_beside_the_full_second_are_those_of_the_second_by_their_share():
    beside = [(-0.25, 0.0, 0.0), (0.25, 0.5, 0.5), (0.75, 1.0, 0.5), (1.25, 1.5, 0.5)]
    assert seconds(*beside, last=0) == [(1.0, 0.5)]


def test_a_second_in_which_no_clock_was_read_is_unknown_and_not_nothing():
    gap = [(0.0, 0.0, 0.0), (0.5, 0.5, 1.0), (1.0, 1.0, 1.0), (2.6, 1.0, 0.0), (3.0, 1.2, 0.5), (3.5, 1.7, 1.0)]
    assert seconds(*gap) == [(1.0, 1.0), (None, None), (None, None), (1.0, 1.0)]  # of the last one what there was of it
    assert seconds((0.0, 0.0, 0.0), (0.5, 0.5, 1.0), (1.0, 1.0, 1.0), (1.04, 1.0, 0.0), last=1) == [(1.0, 1.0), (None, None)]


def test_a_second_of_unknown_cpu_is_not_drawn_as_one_without():
    known = result()
    unknown = known.seconds[1].model_copy(update={"cpu_share": {}, "busy": None})
    drawn = known.model_copy(update={"seconds": [known.seconds[0], unknown, known.seconds[0]]})
    axes = Figure().subplots()
    _utilisation(axes, drawn)
    for area in axes.collections:
        assert all(not 1 < x < 2 for path in area.get_paths() for x, _ in path.vertices)
        assert len(area.get_paths()) == 2


@pytest.mark.parametrize(("text", "told"), [
    ("{", "no result"), ("{}", "schema_version: Field required"), (None, "cannot be read")])
def test_a_file_that_is_no_result_is_refused(tmp_path, text, told):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DefiniteError, match=told):
        LoadResult.read(path)


def test_another_schema_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**summary().to_json(), "schema_version": RESULT_SCHEMA + 1}))
    with pytest.raises(DefiniteError, match="this version knows"):
        LoadResult.read(path)
    path.write_text(json.dumps({"schema_version": RESULT_SCHEMA + 1}))  # whatever became of its fields
    with pytest.raises(DefiniteError, match=f"has schema {RESULT_SCHEMA + 1}"):
        LoadResult.read(path)
    path.write_text(json.dumps(summary().to_json()))
    assert LoadResult.read(path) == result()


def test_what_a_later_version_adds_is_kept(tmp_path):
    path, plain = tmp_path / "a.json", summary().to_json()
    for part in (plain, plain["seconds"][0], plain["marks"][0], plain["capacity"], plain["capacity"]["steps"][0]):
        part["later"] = 7
    path.write_text(json.dumps(plain))
    found = LoadResult.read(path)
    for part in (found, found.seconds[0], found.marks[0], found.capacity, found.capacity.steps[0]):
        assert part.model_extra == {"later": 7}


def test_the_page_needs_nothing_else_and_shows_what_happened(tmp_path):
    path = tmp_path / "report.html"
    write_report(result(), path)
    page = path.read_text()
    assert page.count("<svg") == 8
    for text in ("Latency distribution", "offered", "OUT_OF_STOCK", "E_OVERLOADED", "shard-0 gone", "warm-up", "whole machine",
                 "p99", "Search for the capacity", "audit ok"):
        assert text in page, text
    for outside in ("<script", "src=", "@import", 'href="http'):
        assert outside not in page, outside


def test_the_page_of_a_run_that_failed_says_so_and_escapes(tmp_path):
    path = tmp_path / "report.html"
    plain = {**summary().to_json(), "ok": False, "wrong_outcomes": ["K <b>key</b>"], "seconds": [], "capacity": None}
    write_report(LoadResult.model_validate(plain), path)
    assert "NOT OK: K &lt;b&gt;key&lt;/b&gt;" in path.read_text()
    write_report(LoadResult.model_validate({**plain, "cpu_us_per_order": {}}), path)
    assert "<th>CPU per order</th><td>none</td>" in path.read_text()
    with pytest.raises(DefiniteError, match="--report"):
        write_report(result(), tmp_path / "none" / "report.html")


def test_results_side_by_side_are_ratios():
    faster = summary(tally=tally((500, 1_000, 25_000)), settings={"workload": "retail", "concurrency": 8, "data": "y"})
    faster.tally.told_in_window = 6
    compared = Comparison(result(), LoadResult.model_validate(faster.to_json()))
    figures = compared.to_json()["figures"]
    assert figures["orders/s"] == {"first": 2.0, "second": 4.0, "ratio": 2.0}
    assert figures["latency max ms"]["ratio"] == pytest.approx(0.5, rel=0.01)
    assert figures["unknown of 100"]["ratio"] is None
    assert compared.to_json()["differing_settings"] == {"concurrency": [4, 8], "warm_up_s": [0.5, None]}
    console = Console(width=120)
    with console.capture() as text:
        console.print(compared.render())
    assert "2.00" in text.get()
    assert "differs: concurrency: 4 and 8" in text.get()


def test_what_two_runs_ran_on_is_compared_as_well():
    first, second = (
        summary(seed=shards, settings={
            "orders": orders, "data": str(shards),
            "deployment": {"shards": shards, "transport": transport, "faults": faults, "retention_ms": 1}})
        for shards, transport, faults, orders in ((1, "direct", {}, 10), (4, "ray", {"payment": {"decline": 0.1}}, None)))
    compared = Comparison(*(LoadResult.model_validate(one.to_json()) for one in (first, second)))
    assert compared.differing == {
        "faults": ({}, {"payment": {"decline": 0.1}}), "orders": (10, None), "seed": (1, 4), "shards": (1, 4),
        "transport": ("direct", "ray")}


def test_a_report_without_its_library_is_refused_before_anything_is_placed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = CliRunner().invoke(cli, ["load", "--data", str(tmp_path / "data"), "--report", str(tmp_path / "r.html")])
    assert (ended.exit_code, "raytx[report]" in ended.output) == (2, True)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("option", ["--save", "--report"])
@pytest.mark.parametrize("place", ["none/file", "."])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_placed(tmp_path, monkeypatch, option, place):
    monkeypatch.setattr("loadgen.load.run_load", lambda *_: pytest.fail("it was placed"))
    ended = CliRunner().invoke(cli, ["load", "--data", str(tmp_path / "data"), option, str(tmp_path / place)])
    assert (ended.exit_code, f"{option}: {tmp_path / place} cannot be written" in ended.output) == (2, True)


def test_a_file_in_a_data_directory_that_is_still_to_be_made_is_taken(tmp_path, monkeypatch):
    class PlacedError(Exception):
        """It came so far."""

    def run(*_: object) -> None:
        raise PlacedError

    monkeypatch.setattr("loadgen.load.run_load", run)
    data = tmp_path / "data"
    ended = CliRunner().invoke(cli, ["load", "--data", str(data), "--save", str(data / "result.json")])
    assert isinstance(ended.exception, PlacedError)


@pytest.mark.parametrize(("found", "code"), [({}, 2), ({"check": broken()}, 1)])
def test_the_result_is_shown_whatever_becomes_of_its_files(tmp_path, monkeypatch, found, code):
    place, page = tmp_path / "place", tmp_path / "page.html"
    place.mkdir()

    def run_load(_plan, _console):
        place.rmdir()
        return summary(**found)

    monkeypatch.setattr("loadgen.load.run_load", run_load)
    ended = CliRunner().invoke(cli, [
        "load", "--data", str(tmp_path / "data"), "--save", str(place / "a.json"), "--report", str(page), "--json"])
    assert (ended.exit_code, json.loads(ended.stdout)["run"]) == (code, "run")
    assert "--save: " in ended.stderr
    assert "<svg" in page.read_text()


def test_results_that_were_kept_are_compared_and_drawn_by_commands(tmp_path):
    first, second, page = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "page.html"
    first.write_text(json.dumps(summary().to_json()))
    second.write_text(json.dumps(summary(tally=tally((9_000,))).to_json()))
    compared = CliRunner().invoke(cli, ["load", "compare", str(first), str(second), "--json"])
    assert compared.exit_code == 0
    assert json.loads(compared.output)["figures"]["latency max ms"]["ratio"] == pytest.approx(9 / 50, rel=0.01)
    assert "B / A" in CliRunner().invoke(cli, ["load", "compare", str(first), str(second)]).output
    assert CliRunner().invoke(cli, ["load", "report", str(first), str(page)]).exit_code == 0
    assert "<svg" in page.read_text()
    wrong = CliRunner().invoke(cli, ["load", "compare", str(first), str(page)])
    assert (wrong.exit_code, "no result of raytx load" in wrong.output) == (2, True)
