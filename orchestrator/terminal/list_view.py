"""A page of transactions as a table: what fits into 80 columns, and more where there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from orchestrator.logs import redact
from orchestrator.rendering import STATE_STYLES, iso
from orchestrator.waterfall import told_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.log.reader import TransactionSummary

WIDE = 130


def transactions_table(found: Sequence[TransactionSummary], now_ms: int, width: int) -> Table:
    """The transactions, one a line.

    Args:
        found: in their order.
        now_ms: Unix ms, for how long ago they began.
        width: columns of the terminal.
    """
    cells: dict[str, Callable[[TransactionSummary], Text]] = {
        "transaction": lambda one: Text(one.transaction),
        "state": _state,
        "saga": lambda one: Text(f"{one.saga} v{one.version}"),
        "business key": lambda one: Text(redact(one.business_key) or "-"),
        "began": lambda one: Text(iso(one.began_ms)),
        "age": lambda one: Text(told_ms(max(now_ms - one.began_ms, 0))),
        "code": lambda one: Text(", ".join(dict.fromkeys(code for code, _ in _reasons(one)))),
        "where": lambda one: Text(", ".join(dict.fromkeys(where for _, where in _reasons(one)))),
        "why": lambda one: Text(", ".join(f"{code} {where}" for code, where in _reasons(one))),
    }
    narrow = ["transaction", "state", "age", "why"]
    if len({one.saga for one in found}) > 1:
        narrow.insert(2, "saga")
    headers = [name for name in cells if name != "why"] if width >= WIDE else narrow
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, no_wrap=header in {"transaction", "state", "age"}, overflow="fold")
    for one in found:
        table.add_row(*(cells[header](one) for header in headers))
    return table


def _state(one: TransactionSummary) -> Text:
    state = Text(one.state, STATE_STYLES.get(one.state, ""))
    return state.append(" parked", style="bold yellow") if one.parked else state


def _reasons(one: TransactionSummary) -> list[tuple[str, str]]:
    """Code and place of its abort and of every parked step."""
    reasons = [(one.code, f"{one.service}/{one.step}" if one.service else "")] if one.code else []
    return reasons + [(mark.code, f"{mark.service}/{mark.step}".strip("/")) for mark in one.parked_steps]
