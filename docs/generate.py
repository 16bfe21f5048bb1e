"""Writes the generated pages and tables of docs/ from the code: `python docs/generate.py [--check]`."""  # noqa: INP001 - a script

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from actors.ledger import EXPIRED_TABLE, TABLE, RowState
from actors.refusals import REFUSALS
from orchestrator.errors import CATALOGUE
from orchestrator.metrics.registry import METRICS
from orchestrator.protocol.messages import Kind
from orchestrator.protocol.records import State
from orchestrator.protocol.transaction import TRANSITIONS, Event
from orchestrator.testing.catalogue import ROWS, Made

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DOCS: Final = Path(__file__).resolve().parent
ERRORS_HEAD: Final = """# Error codes

Generated from `orchestrator/errors.py` and `actors/refusals.py` by `python docs/generate.py`; edit those.

Every error that raytx raises or answers has one of these codes. The codes are stable: match on them, never on the
message, which is written for a person. **Definite** means that it did not happen: nothing was logged and nothing stays
held (an aborted transaction was rolled back everywhere). **Indefinite** means that it may have happened: ask again by
the same key or id, which is always safe.

## Codes of raytx
"""
REFUSALS_HEAD: Final = """
## Refusals of the services that ship with it

A service says no with a code of its own; the transaction is then aborted with that code, and the outcome names service,
step and attempt. All of them are definite. Your own services choose their own words.
"""
FAILURES_HEAD: Final = """# What can fail, and what must come of it

Generated from `orchestrator/testing/catalogue.py` by `python docs/generate.py`; edit that.

Every row has a mark that fires when the situation has really occurred: in the simulator and the crash sweep by what the
processes held, had sent and had made durable at that moment (`orchestrator/testing/simulation/witness.py`), in a test
once it has made and verified it (the fixture `occurred`). `tests/chaos/catalogue.py` counts the marks, and fails on a row
without any.

simulator: random schedules · sweep: every crash point and every message of a saga · test: a test of the default run ·
chaos: a run on real processes, by the command named.

"""
_MARKED: Final = r"(<!-- generated: {name} -->\n).*?(<!-- end: {name} -->)"


def errors_page() -> str:
    """The whole of docs/errors.md."""
    own = [
        (f"`{code.value}`", "definite" if entry.definite else "indefinite", entry.meaning, entry.raised_by, entry.remedy)
        for code, entry in CATALOGUE.items()
    ]
    refusals = [(f"`{code.value}`", meaning) for code, meaning in REFUSALS.items()]
    return "\n".join([
        ERRORS_HEAD, *_table(("code", "", "meaning", "raised by", "remedy"), own),
        REFUSALS_HEAD, *_table(("code", "meaning"), refusals), ""])


def failures_page() -> str:
    """The whole of docs/failure-modes.md."""
    rows = [
        (row.number, row.happens, row.correct,
         ", ".join(f"`{row.command}`" if made is Made.CHAOS else made.value for made in row.made))
        for row in ROWS.values()]
    excused = [f"- {row.number}: may go unmarked {row.reason}." for row in ROWS.values() if row.reason]
    return FAILURES_HEAD + "\n".join([
        *_table(("row", "what goes wrong", "what must come of it", "made in"), rows), "", *excused, ""])


def transaction_table() -> str:
    """What each durable fact does to a transaction; a dash means that it cannot happen there."""
    rows = [
        (state.name, *(_name(TRANSITIONS.get((state, event))) for event in Event))
        for state in State
    ]
    return "\n".join(_table(("state", *(event.value for event in Event)), rows))


def ledger_table() -> str:
    """What each message does to a ledger row."""
    rows = [
        (_name(row_state) if row_state is not None else "absent", *(TABLE[row_state, kind].value for kind in Kind))
        for row_state in (None, *RowState)
    ]
    rows.append(("absent, older than the watermark", *(EXPIRED_TABLE[kind].value for kind in Kind)))
    return "\n".join(_table(("row", *(kind.name.capitalize() for kind in Kind)), rows))


def protocol_page(page: str) -> str:
    """docs/protocol.md with its tables as the code has them.

    Raises:
        ValueError: the markers of a table are missing.
    """
    for name, table in (("transaction", transaction_table()), ("ledger", ledger_table())):
        marked = re.compile(_MARKED.format(name=name), re.DOTALL)
        if len(marked.findall(page)) != 1:
            raise ValueError(f"docs/protocol.md: the markers of the table {name!r} must stand there once")
        page = marked.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", page)  # type: ignore[misc]
    return page


def metrics_page(page: str) -> str:
    """docs/metrics.md with its table as the registry has it.

    Raises:
        ValueError: the markers of the table are missing.
    """
    rows = [(f"`{metric.name}`", metric.type.value, ", ".join(metric.labels), metric.about) for metric in METRICS.values()]
    table = "\n".join(_table(("name", "type", "labels", "what it is"), rows))
    marked = re.compile(_MARKED.format(name="metrics"), re.DOTALL)
    if len(marked.findall(page)) != 1:
        raise ValueError("docs/metrics.md: the markers of the table 'metrics' must stand there once")
    return marked.sub(lambda found: f"{found[1]}{table}\n{found[2]}", page)


def pages() -> dict[Path, str]:
    """Every generated page as it should be."""
    protocol, metrics = DOCS / "protocol.md", DOCS / "metrics.md"
    return {
        DOCS / "errors.md": errors_page(), DOCS / "failure-modes.md": failures_page(),
        protocol: protocol_page(protocol.read_text()), metrics: metrics_page(metrics.read_text())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` only say which differ (exit code 1)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page differs from the code")
    check = parser.parse_args(arguments).check
    differing = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path in differing:
        if not check:
            path.write_text(pages()[path])
        sys.stdout.write(f"{path.name}: {'differs from the code' if check else 'written'}\n")
    return 1 if check and differing else 0


def _name(state: State | RowState | None) -> str:
    return "-" if state is None else state.name


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    titles = list(header)
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return lines


if __name__ == "__main__":
    sys.exit(main())
