"""README and docs name commands, options, settings and events that exist, and all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from benchmarks.cli import cli as benchmarks
from loadgen.cli import cli
from orchestrator.config import FaultSettings, Settings
from orchestrator.loader import WAITING_MAX
from orchestrator.plane.endpoint import HELLO_S_MAX, STRANGERS_MAX
from orchestrator.plane.frames import FRAME_BYTES_MAX, HELLO_BYTES_MAX
from orchestrator.protocol.identifiers import KEY_BYTES_MAX
from orchestrator.saga import DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX, INPUT_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SOURCE = "".join(
    path.read_text() for package in ("orchestrator", "actors", "loadgen") for path in sorted((ROOT / package).rglob("*.py")))
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
CALL = re.compile(r"\braytx +([a-z]+)\b((?:(?!\braytx\b|&&|[|;`]).)*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def commands() -> dict[str, set[str]]:
    """Every command of the command line with its options."""
    group = typer.main.get_command(cli)
    found = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        found[name] = {option for option in options if option.startswith("--")} | {"--help"}
    return found


def benchmark_options() -> set[str]:
    """Options of `python -m benchmarks`."""
    return {option for one in typer.main.get_command(benchmarks).params for option in (*one.opts, *one.secondary_opts)}


def code_of(page: str) -> list[str]:
    """What is set as code: the lines of fenced blocks, and spans."""
    return [line for block in FENCED.findall(page) for line in block.splitlines()] + SPAN.findall(FENCED.sub("", page))


def calls(page: str) -> Iterator[tuple[str, list[str]]]:
    """Commands and the options given to them."""
    for code in code_of(page):
        for command, rest in CALL.findall(code.replace("\n", " ")):
            yield command, OPTION.findall(rest)


def wrong_calls(page: str) -> list[str]:
    known = commands()
    found = [f"raytx {command}" for command, _ in calls(page) if command not in known]
    return found + [
        f"raytx {command} {option}" for command, options in calls(page) if command in known
        for option in options if option not in known[command]]


def wrong_options(page: str) -> list[str]:
    """Options that stand alone in a span and that no command has."""
    scripts = {"--check", "--leak"}  # of docs/generate.py, tests/chaos/canaries.py
    known = set().union(*commands().values(), benchmark_options()) | {"--version"} | scripts
    alone = [span for span in SPAN.findall(FENCED.sub("", page)) if span.startswith("--")]
    return [option for span in alone for option in OPTION.findall(span) if option not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_and_options_that_the_pages_name_exist(page: Path) -> None:
    text = page.read_text()
    assert wrong_calls(text) == []
    assert wrong_options(text) == []


def test_a_wrong_command_or_option_is_found() -> None:
    assert wrong_calls("`raytx fly` and `raytx up --data D && raytx down --gently`") == ["raytx fly", "raytx down --gently"]
    assert wrong_calls("```console\n$ raytx list --data D --colour red\n```") == ["raytx list --colour"]
    assert wrong_options("with `--colour` or `--json`") == ["--colour"]
    assert list(calls("```console\nraytx: starting Ray\n```")) == []


def test_the_operations_page_names_every_command_with_its_options() -> None:
    rows = dict(re.findall(r"^\| `raytx ([a-z]+)[^`]*` \|(.*)\|$", OPERATIONS, re.MULTILINE))
    assert rows.keys() == commands().keys()
    for name, options in commands().items():
        assert options - {"--help", "--data"} == set(OPTION.findall(rows[name])) - {"--data"}, f"raytx {name}"


def test_the_operations_page_names_every_setting_with_its_default() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+?) \|", OPERATIONS, re.MULTILINE))
    for name, default in defaults.items():
        assert rows[name] == (str(default) if default != {} else "none"), name


def test_the_operations_page_names_every_simulated_failure() -> None:
    section = OPERATIONS.partition("## Simulated failures")[2].partition("\n## ")[0]
    assert set(FaultSettings.model_fields) <= set(re.findall(r"`([a-z_]+)`", section))


def test_the_operations_page_names_every_event_and_no_other() -> None:
    section = OPERATIONS.partition("## Logs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?:CRITICAL|ERROR|WARNING|INFO|DEBUG) \|(.*)\|$", section, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    logged = set(re.findall(r'log_event\(\s*"([a-z_]+)"', SOURCE))
    assert logged - named == set(), "events that the page does not name"
    assert [name for name in named if f'"{name}"' not in SOURCE] == [], "events that nobody logs"


def test_the_limits_on_the_architecture_page_are_those_of_the_code() -> None:
    section = (ROOT / "docs" / "architecture.md").read_text().partition("## Limits")[2]
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", section, re.MULTILINE))
    assert rows["retention of transactions, rows and keys"] == f"{Settings().retention_ms // 86_400_000} days"
    assert rows["deadline, default"] == f"{DEADLINE_MS_DEFAULT // 1_000} s"
    assert rows["deadline, longest"] == f"{DEADLINE_MS_MAX // 3_600_000} h"
    assert rows["idempotency key"] == f"{KEY_BYTES_MAX} bytes of UTF-8"
    assert rows["encoded input"] == f"{INPUT_BYTES_MAX // 1024**2} MiB"
    assert rows["open transactions per shard"] == f"{Settings().open_transactions_max:,}"
    assert rows["requests of one client without an answer"] == f"shards x {Settings().open_transactions_max:,}"
    assert rows["lookups that wait in a shard for the log"] == f"{WAITING_MAX:,}"
    assert rows["connections to an actor that have not said who they are"] == str(STRANGERS_MAX)
    assert f"each has {HELLO_S_MAX:g} s to do so" in section
    assert rows["first frame of a connection"] == f"{HELLO_BYTES_MAX} bytes"
    assert rows["later frames"] == f"{FRAME_BYTES_MAX // 1024**2} MiB"
