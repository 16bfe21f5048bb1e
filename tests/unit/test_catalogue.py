"""The catalogue of failures, its marks, and the command that says which rows never occurred."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import catalogue as command
from orchestrator.testing.catalogue import REASONS_MAX, ROWS, Made
from orchestrator.testing.marks import Marks, Occurrences

TESTS = Path(__file__).resolve().parents[1]


def rows_of_tests() -> set[str]:
    """Every row that some test says it makes."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "occurred":
                found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def everything() -> Marks:
    return Marks(dict.fromkeys(ROWS, 1))


def test_the_catalogue_holds_every_row() -> None:
    assert len(ROWS) == 98
    numbers = {int(number) for number in ROWS if number.isdecimal()}
    assert set(range(1, 96)) - numbers == {68, 84, 89, 93}
    assert {number for number in ROWS if not number.isdecimal()} == {"10b", "10c", "10d", "47b", "50b", "50c", "56b"}


def test_every_row_is_made_somewhere() -> None:
    assert [row.number for row in ROWS.values() if not row.made] == []
    assert [row.number for row in ROWS.values() if (row.made == (Made.CHAOS,)) is not bool(row.command)] == []
    assert sum(bool(row.reason) for row in ROWS.values()) <= REASONS_MAX


def test_tests_make_the_rows_that_the_catalogue_says_they_make() -> None:
    assert rows_of_tests() == {row.number for row in ROWS.values() if Made.TEST in row.made}


def test_marks_add_up_and_know_their_rows(tmp_path: Path) -> None:
    marks = Marks({"1": 2})
    marks.fire("1")
    marks.add({"10b": 4})
    assert marks.counts == {"1": 3, "10b": 4}
    with pytest.raises(KeyError, match="no row '68'"):
        marks.fire("68")
    for by in ("a run", "another run", "a run"):
        marks.to_file(tmp_path / "marks", by)
    occurrences = Occurrences()
    occurrences.read(tmp_path / "marks")
    assert occurrences.by_row["1"] == {"a run": 6, "another run": 3}
    assert set(occurrences.missing()) == {number for number, row in ROWS.items() if not row.reason} - {"1", "10b"}


@pytest.mark.parametrize(("line", "error"), [
    ("not JSON", ValueError), ('{"by": "x"}', ValueError), ('{"by": "x", "marks": {"1": "often"}}', ValueError),
    ('{"by": "x", "marks": {"68": 1}}', KeyError), ("[]", ValueError)])
def test_a_file_that_is_none_of_marks_is_refused(tmp_path: Path, line: str, error: type[Exception]) -> None:
    (tmp_path / "marks").write_text(line + "\n")
    with pytest.raises(error):
        Occurrences().read(tmp_path / "marks")


def test_a_row_that_never_occurred_fails_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "marks"
    everything().to_file(path, "all")
    assert command.main(["--seeds", "0", "--marks", str(path)]) == 0
    assert f"{len(ROWS)} of {len(ROWS)} rows occurred" in capsys.readouterr().out
    path.unlink()
    Marks({row: 1 for row in ROWS if row != "42"}).to_file(path, "all but one")
    assert command.main(["--seeds", "0", "--marks", str(path)]) == 1
    assert "never occurred: 42" in capsys.readouterr().out


def test_what_takes_a_chaos_run_is_left_out_only_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    path, report = tmp_path / "marks", tmp_path / "report"
    Marks({row.number: 1 for row in ROWS.values() if not row.command}).to_file(path, "without chaos")
    asked = ["--seeds", "0", "--marks", str(path)]
    assert command.main(asked) == 1
    assert command.main([*asked, "--short"]) == 0
    assert "left to chaos runs: 81 (raytx chaos --zombies 2)" in capsys.readouterr().out
    for ok, lost, expected in ((True, 2, 0), (False, 2, 1), (True, 0, 1)):
        report.write_text(json.dumps({"ok": ok, "counted": {"nodes_lost": lost, "zombie_shards": lost}, "other_faults": {}}))
        assert command.main([*asked, "--chaos", str(report)]) == expected


def test_a_test_marks_what_it_made_once_it_has_passed(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_some.py").write_text("""
def test_passes(occurred): occurred("25", "41")
def test_fails(occurred):
    occurred("69")
    assert False
def test_unknown(occurred): occurred("68")
def test_not_its_own(occurred): occurred("40")
""")
    marks = tmp_path / "marks.jsonl"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "--rootdir", str(tmp_path), "--marks", str(marks)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, check=False,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)})
    assert "3 failed, 1 passed" in done.stdout
    (line,) = marks.read_text().splitlines()
    assert json.loads(line) == {"by": "test_some.py::test_passes", "marks": {"25": 1, "41": 1}}
