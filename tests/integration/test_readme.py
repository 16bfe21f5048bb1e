"""The README's Python as a user runs it: files of those names in an empty directory, and the output that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
RUN_S_MAX = 150
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(README.read_text()) if found == language]


def files() -> dict[str, str]:
    """The Python blocks by the name in their first line."""
    named = {}
    for text in blocks("python"):
        name = text.partition("\n")[0].removeprefix("# ")
        assert re.fullmatch(r"\w+\.py", name), f"a Python block of the README begins with its file's name, not {name!r}"
        named[name] = text
    return named


def runs() -> dict[str, list[str]]:
    """What each script prints, from the console blocks that begin with `$ python NAME`."""
    shown = {}
    for text in blocks("console"):
        command, *output = text.splitlines()
        if command.startswith("$ python "):
            shown[command.removeprefix("$ python ")] = output
    return shown


def write_files(where: Path) -> None:
    for name, text in files().items():
        (where / name).write_text(text)


def run(script: str, where: Path) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    ended = subprocess.run(
        [sys.executable, script], cwd=where, env=environment, capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_readme_has_both_scripts_and_says_what_they_print() -> None:
    assert files().keys() == {"order.py", "trips.py", "travel.py"}
    assert runs().keys() == {"order.py", "travel.py"}
    assert all(runs().values())


def test_placing_an_order_prints_what_the_readme_shows_and_again_the_same(tmp_path: Path) -> None:
    write_files(tmp_path)
    assert run("order.py", tmp_path) == runs()["order.py"]
    assert run("order.py", tmp_path) == runs()["order.py"], "the keys are known: a second run is told the same"


def test_a_service_and_saga_of_ones_own_print_what_the_readme_shows(tmp_path: Path) -> None:
    write_files(tmp_path)
    assert run("travel.py", tmp_path) == runs()["travel.py"]
