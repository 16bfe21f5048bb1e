"""Marks: which rows of the catalogue of failures really occurred, how often, and in what.

A mark is fired by whoever has seen the situation, never because an option was on. Marks of many runs and processes come
together in one file, a JSON line each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.testing.catalogue import ROWS


class Marks:
    """How often each row of the catalogue occurred in one thing that ran.

    Attributes:
        counts: by row; only rows that occurred.
    """

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts: dict[str, int] = {}
        self.add(counts or {})

    def __repr__(self) -> str:
        return f"Marks({self.counts})"

    def fire(self, row: str, times: int = 1) -> None:
        """The situation of a row has occurred.

        Raises:
            KeyError: the catalogue has no such row.
        """
        if row not in ROWS:
            raise KeyError(f"the catalogue of failures has no row {row!r}")
        self.counts[row] = self.counts.get(row, 0) + times

    def add(self, counts: Mapping[str, int]) -> None:
        """What occurred elsewhere occurred here too.

        Raises:
            KeyError: the catalogue has no such row.
        """
        for row, times in counts.items():
            self.fire(row, times)

    def to_file(self, path: Path, by: str) -> None:
        """Append them as one line; several processes may write to one file at once.

        Args:
            path: is made if need be.
            by: what it was that ran, for a person.
        """
        line = json.dumps({"by": by, "marks": self.counts})
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class Occurrences:
    """Marks of everything that ran: by row, then by what fired them."""

    def __init__(self) -> None:
        self.by_row: dict[str, dict[str, int]] = {row: {} for row in ROWS}

    def add(self, by: str, counts: Mapping[str, int]) -> None:
        """One more thing that ran.

        Raises:
            KeyError: the catalogue has no such row.
        """
        for row, times in counts.items():
            found = self.by_row[row]
            found[by] = found.get(by, 0) + times

    def read(self, path: Path) -> None:
        """Add what a file of marks holds.

        Raises:
            ValueError: a line is none that `Marks.to_file` writes.
            KeyError: the catalogue has no such row.
        """
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                found = json.loads(line)
                by, counts = str(found["by"]), {str(row): int(times) for row, times in found["marks"].items()}
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ValueError(f"{path}:{number} is no line of marks") from None
            self.add(by, counts)

    def missing(self, rows: Iterable[str] | None = None) -> list[str]:
        """Rows that never occurred and have no reason why they cannot.

        Args:
            rows: only among these; None = all.
        """
        asked = set(ROWS if rows is None else rows)
        return [number for number, row in ROWS.items() if number in asked and not self.by_row[number] and not row.reason]
