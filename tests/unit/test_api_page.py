"""docs/api.md names everything that is public, and its examples do what the page says."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import actors.service
import orchestrator
from actors.testing import ServiceBench
from orchestrator.app import App, LedgerRow
from orchestrator.client import Client
from orchestrator.outcome import Handle, Outcome
from orchestrator.protocol.retry import RetryPolicy
from orchestrator.saga import Context, Saga, Step
from orchestrator.testing import check_app

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
BLOCK = re.compile(r"^```python\n# (\w+)\.py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = dict(BLOCK.findall(PAGE))
OPERATORS_ONLY = {"act", "abandon", "cancel_handle"}  # of a client: what `Operator` is made of
SHELL_ONLY = {"settle", "number", "encoded"}  # of handle and outcome: what the client is made of


def names(page: str) -> set[str]:
    """Every word that is set as code outside the examples."""
    return {word for span in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page)) for word in re.findall(r"\w+", span)}


def left_out(page: str, public: set[str]) -> set[str]:
    return public - names(page)


def members(kind: type) -> set[str]:
    """Public methods and fields of a class."""
    given = {field.name for field in fields(kind) if field.init} if hasattr(kind, "__dataclass_fields__") else set()
    return given | {name for name, found in vars(kind).items() if inspect.isfunction(found) and not name.startswith("_")}


def wrong_imports(source: str) -> list[str]:
    """What a text imports and nobody has, other examples of the page aside."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if importlib.util.find_spec(alias.name) is None]
        elif isinstance(node, ast.ImportFrom) and node.module not in EXAMPLES:
            module = importlib.import_module(str(node.module))
            found += [f"{node.module}.{alias.name}" for alias in node.names if not hasattr(module, alias.name)]
    return found


def test_every_public_name_stands_on_the_page() -> None:
    assert left_out(PAGE, set(orchestrator.__all__)) == set()
    assert left_out(PAGE, {"Service", "State", "Refused", "NotYet"}) == set()
    assert set(actors.service.__all__) - {"Operation"} == {"Service", "State", "Refused", "NotYet"}


@pytest.mark.parametrize("name", orchestrator.__all__)
def test_a_name_that_is_left_out_is_missed(name: str) -> None:
    assert left_out(re.sub(rf"\b{name}\b", "", PAGE), set(orchestrator.__all__)) == {name}


@pytest.mark.parametrize(("kind", "besides"), [
    (Client, OPERATORS_ONLY), (Handle, SHELL_ONLY), (Outcome, SHELL_ONLY), (Context, set()), (RetryPolicy, {
        "delay_ms", "postponed_ms", "exhausted"}), (LedgerRow, set()), (ServiceBench, set())])
def test_every_member_stands_on_the_page(kind: type, besides: set[str]) -> None:
    own = members(kind) | set(getattr(kind, "__struct_fields__", ()))
    assert own - besides
    assert left_out(PAGE, own - besides) == set()


@pytest.mark.parametrize("kind", [Saga, Step, App])
def test_every_field_of_a_definition_stands_on_the_page(kind: type) -> None:
    assert left_out(PAGE, {field.name for field in fields(kind) if field.init}) == set()


def test_the_defaults_of_the_retries_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([\d,]+ \| [\d,]+) \|", PAGE, re.MULTILINE))
    step = {field.name: field.default for field in fields(Step)}
    for field in fields(RetryPolicy):
        both = [getattr(step[name], field.name) for name in ("prepare_retry", "finish_retry")]
        assert rows[field.name] == " | ".join(f"{value:,}" for value in both), field.name


def test_every_example_compiles_and_finds_what_it_imports() -> None:
    assert EXAMPLES.keys() == {"place", "purses", "test_purses"}
    assert PAGE.count("```python") == len(EXAMPLES)
    for name, source in EXAMPLES.items():
        compile(source, f"{name}.py", "exec")
        assert wrong_imports(source) == [], name


def test_an_import_of_what_is_not_there_is_found() -> None:
    assert wrong_imports("import nowhere\nfrom orchestrator import Client, Saga, Sega") == ["nowhere", "orchestrator.Sega"]


def test_the_service_of_the_page_keeps_its_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        importlib.import_module("test_purses").test_a_rollback_gives_back_what_was_taken()
        for report in check_app(importlib.import_module("purses").app, cases=20):
            assert report.ok, report
    finally:
        for name in EXAMPLES:
            sys.modules.pop(name, None)
