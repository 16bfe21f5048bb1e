"""Every command's help says what it does, with an example that uses only what there is."""

from __future__ import annotations

import re

import pytest
import typer

from loadgen.cli import cli

COMMANDS = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
OPTION = re.compile(r"--[a-z][a-z-]+")


def about(command) -> str:
    return (command.callback.__doc__ if command.name == "load" else command.help) or ""


def wrong_example(name: str, text: str, known: set[str]) -> str:
    """What is wrong with the example in a help text; empty if nothing."""
    found = re.search(rf"Example: raytx {name}\b(.*)", text)
    if found is None:
        return "no example"
    unknown = set(OPTION.findall(found[1])) - known
    return f"unknown {sorted(unknown)}" if unknown else ""


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help(name: str) -> None:
    command = COMMANDS[name]
    text = about(command)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert wrong_example(name, text, known) == ""
    assert text.splitlines()[0].endswith("."), "the first line is a sentence"
    assert [p.name for p in command.params if not getattr(p, "help", None)] == [], "every option says what it is"


def test_a_wrong_example_is_found() -> None:
    assert wrong_example("top", "Shows it.", {"--once"}) == "no example"
    assert wrong_example("top", "Example: raytx top --twice", {"--once"}) == "unknown ['--twice']"
    assert wrong_example("top", "Example: raytx top --once", {"--once"}) == ""
