"""The generated pages say what the code says; every code that the source names is in the catalogue."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from actors.ledger import TABLE, RowState
from actors.refusals import REFUSALS, RefusalCode
from loadgen.nemesis.plan import ON_ACTORS, PLANNED
from orchestrator.errors import CATALOGUE, ErrorCode
from orchestrator.protocol.messages import Kind
from orchestrator.protocol.transaction import TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for package in ("orchestrator", "actors", "loadgen") for path in sorted((ROOT / package).rglob("*.py"))]
CODE = re.compile(r"\bE_[A-Z][A-Z_]*[A-Z]\b")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_generator_writes(generator: ModuleType) -> None:
    for path, text in generator.pages().items():
        assert path.read_text() == text, f"run `python docs/generate.py`: {path.name} differs"
    assert generator.main(["--check"]) == 0


def test_every_error_code_is_in_the_catalogue_and_on_the_page(generator: ModuleType) -> None:
    assert set(CATALOGUE) == set(ErrorCode)
    page = generator.errors_page()
    assert [code for code in ErrorCode if f"`{code.value}`" not in page] == []


def test_every_refusal_is_on_the_page(generator: ModuleType) -> None:
    assert set(REFUSALS) == set(RefusalCode)
    assert [code for code in RefusalCode if f"`{code.value}`" not in generator.errors_page()] == []


def test_entries_say_something() -> None:
    for code, entry in CATALOGUE.items():
        assert entry.meaning, code
        assert entry.raised_by, code
        assert entry.remedy, code


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_code_that_the_source_names_exists(path: Path) -> None:
    known = {code.value for code in ErrorCode}
    assert set(CODE.findall(path.read_text())) - known == set()


def test_the_pages_name_only_codes_that_exist() -> None:
    known = {code.value for code in ErrorCode}
    for path in sorted((ROOT / "docs").glob("*.md")):
        assert set(CODE.findall(path.read_text())) - known == set(), path.name


def test_the_testing_page_names_every_fault_those_on_actors_first() -> None:
    section = (ROOT / "docs" / "testing.md").read_text().partition("| fault | what is done |")[2].partition("\n\n")[0]
    first_cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    named = [name for cell in first_cells for name in re.findall(r"`([a-z-]+)`", cell)]
    assert sorted(named) == sorted(PLANNED)
    assert set(named[:len(ON_ACTORS)]) == ON_ACTORS


def test_the_tables_hold_every_cell(generator: ModuleType) -> None:
    assert set(TABLE) == {(state, kind) for state in (None, *RowState) for kind in Kind}
    ledger, transaction = generator.ledger_table(), generator.transaction_table()
    assert len(ledger.splitlines()) == 2 + 1 + len(RowState) + 1
    assert all(following.name in transaction for following in TRANSITIONS.values())


def test_a_page_that_differs_is_noticed(generator: ModuleType) -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    assert generator.protocol_page(page.replace("COMMITTING", "CONFIRMING")) != page.replace("COMMITTING", "CONFIRMING")


def test_missing_markers_are_an_error(generator: ModuleType) -> None:
    with pytest.raises(ValueError, match="markers"):
        generator.protocol_page("# a page without tables")
