"""Caps and quantities: what was measured, and whether enough happened for a run to prove anything."""

from __future__ import annotations

import pytest
from rich.console import Console

from loadgen.checker.bounds import check_caps, check_enough, gauges
from loadgen.checker.limits import Limits
from loadgen.checker.report import CheckReport, Invariant
from loadgen.history import Note


def notes():
    return [
        Note(1, 1, what="measured", values={"shard-0.rss_bytes": 5, "log.rss_bytes": 9}),
        Note(2, 2, what="measured", values={"shard-0.rss_bytes": 8}),
        Note(3, 3, what="killed", values={"shard-0.rss_bytes": 99})]


def test_gauges_are_the_highest_values_and_the_files(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "log.sqlite").write_bytes(b"1234")
    (tmp_path / "lock").write_bytes(b"1")
    assert gauges(notes(), tmp_path) == {
        "shard-0.rss_bytes": 8, "log.rss_bytes": 9, "file:log/log.sqlite": 4, "file:lock": 1, "files": 5}


@pytest.mark.parametrize(("caps", "told"), [
    ({"*.rss_bytes": 9}, ""), ({"shard-*": 7}, "it reached 8, the cap is 7"), ({"files": 1}, "nothing of that name"),
    ({}, ""), ({"log.rss_bytes": 8, "shard-0.*": 8}, "it reached 9")])
def test_a_cap_is_kept_or_not(caps, told):
    report = CheckReport()
    check_caps(Limits(caps=caps), gauges(notes(), None), report)
    assert report.ok is not bool(told)
    if told:
        assert told in report.findings[Invariant.BOUNDED].first.text


@pytest.mark.parametrize("name", ["commits", "aborts", "recoveries", "duplicates", "reads"])
def test_too_little_proves_nothing(name):
    report = CheckReport()
    report.counts.update(told_committed=5, told_aborted=5, recoveries=5, duplicates=5, reads=5)
    check_enough(Limits(**{f"{name}_min": 5}), report)
    assert report.ok
    check_enough(Limits(**{f"{name}_min": 6}), report)
    assert "at least 6" in report.findings[Invariant.ENOUGH].first.text


def test_the_first_and_the_worst_are_told():
    report = CheckReport()
    assert (report.worst, report.violations, report.ok) == (None, 0, True)
    report.add(Invariant.BOUNDED, "a", "some", weight=5, times=3)
    report.add(Invariant.CONSERVED, "b", "first", weight=1)
    report.add(Invariant.CONSERVED, "c", "worst", weight=7)
    report.add(Invariant.CONSERVED, "d", "last", weight=7)
    report.equal(Invariant.CONSERVED, "e", "it", 1, 1)
    assert report.violations == 6
    assert str(report.worst) == "C c: worst"
    plain = report.to_json()
    assert plain["findings"]["C"] == {"first": "C b: first", "worst": "C c: worst"}
    assert (plain["by_invariant"]["C"], plain["by_invariant"]["B"], plain["by_invariant"]["A"]) == (3, 3, 0)


def test_a_report_reads_well():
    console = Console(width=200)
    report = CheckReport()
    report.counts["reads"] = 1_234
    report.left_out.append("replay of x: rows were purged")
    with console.capture() as captured:
        console.print(report.render())
    assert "history ok" in captured.get()
    assert "reads 1,234" in captured.get()
    assert "not judged: replay of x" in captured.get()
    report.add(Invariant.KEPT, "key", "told COMMITTED, the log says ABORTED")
    with console.capture() as captured:
        console.print(report.render())
    assert "history BROKEN" in captured.get()
    assert "told COMMITTED, the log says ABORTED" in captured.get()
