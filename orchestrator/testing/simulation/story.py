"""A trace as a person reads it: one line an event, the simulated time in front."""

from __future__ import annotations

from collections.abc import Sequence

LINES_MAX = 400
_ARRIVALS = frozenset({
    "exchange", "append", "answer", "commands", "replies", "outcomes", "take", "load", "owner", "inquire"})


def tell(trace: Sequence[tuple[int, str, str]], lines_max: int = LINES_MAX) -> str:
    """The last lines of a trace.

    Args:
        trace: (simulated ms, what, who), in order.
        lines_max: at most so many lines; what is left out is said.
    """
    lines = [f"{at_ms:>8} ms  {_line(what, who)}" for at_ms, what, who in trace[-lines_max:]]
    left_out = len(trace) - len(lines)
    return "\n".join(([f"({left_out} earlier events left out)"] if left_out else []) + lines)


def _line(what: str, who: str) -> str:
    return f"{who:<16} gets {what}" if what in _ARRIVALS else f"{what}: {who}"
