"""The fixture `occurred`: a test marks a row of the catalogue of failures once it has made the situation and verified it.

`pytest --marks FILE` appends what occurred in tests that passed; tests/chaos/catalogue.py reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.testing.catalogue import ROWS, Made
from orchestrator.testing.marks import Marks


class MarksWriter:
    """Writes down what occurred, test by test."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        rows = [row for name, row in report.user_properties if name == "occurred"]
        if rows and report.when == "call" and report.passed:
            Marks(dict.fromkeys(map(str, rows), 1)).to_file(self._path, report.nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--marks", metavar="FILE", help="append which rows of the catalogue of failures occurred")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--marks")
    if path:
        config.pluginmanager.register(MarksWriter(Path(path)))


@pytest.fixture
def occurred(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Marks rows: their situation was made in this test and what must come of it was verified."""

    def mark(*rows: str) -> None:
        for row in rows:
            assert Made.TEST in ROWS[row].made, f"row {row} is not one that tests make: say so in the catalogue"
            request.node.user_properties.append(("occurred", row))

    return mark
