"""Option texts of `raytx load` as values."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from loadgen.arrivals import Arrivals, Schedule, read_arrivals
from loadgen.shapes import LineRange
from orchestrator.errors import DefiniteError, ErrorCode

LINES_MAX = 1_000
DURATION_S = 10.0
BOUND_MS = 100.0
STEP_WARM_UP_S = 1.0
_FAULT = re.compile(r"([a-z][a-z0-9_]*)\.([a-z][a-z_]*)=([0-9.]+)")
_LINES = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse_faults(texts: list[str]) -> dict[str, dict[str, Any]]:
    """Simulated failures by service from `service.failure=value` texts; which there are is for the settings to say.

    Raises:
        DefiniteError: E_CONFIG.
    """
    faults: dict[str, dict[str, Any]] = {}
    for text in texts:
        found = _FAULT.fullmatch(text)
        try:
            service, failure, number = found.groups() if found else ("", "", "")
            value = int(number) if number.isdigit() else float(number)
        except ValueError:
            raise DefiniteError(
                ErrorCode.CONFIG, f"--fault: {text!r} is not like payment.decline=0.05 (service.failure=number)") from None
        faults.setdefault(service, {})[failure] = value
    return faults


def parse_lines(text: str | None) -> LineRange | None:
    """Lines per made order from `1-3`, or `2` for exactly two.

    Raises:
        DefiniteError: E_INVALID_INPUT.
    """
    if text is None:
        return None
    found = _LINES.fullmatch(text)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most <= LINES_MAX:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"--lines: {text!r} is no range such as 1-3, from 1 to {LINES_MAX}")
    return LineRange(least, most)


def parse_share(text: str | None) -> Decimal | None:
    """A share such as 0.9, exactly.

    Raises:
        DefiniteError: E_INVALID_INPUT.
    """
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"--stock-share: {text!r} is no number such as 0.9") from None


def parse_search(p99_ms: float | None, warm_up_s: float | None, *, find: bool) -> tuple[float | None, float]:
    """The bound of a search for the capacity, None without one, and the warm-up: of its steps 1 s unless said, else none.

    Raises:
        DefiniteError: E_INVALID_INPUT.
    """
    if find:
        return BOUND_MS if p99_ms is None else p99_ms, STEP_WARM_UP_S if warm_up_s is None else warm_up_s
    if p99_ms is not None:
        raise DefiniteError(ErrorCode.INVALID_INPUT, "--p99-ms is the bound of --find-capacity: give that too, or drop it")
    return None, warm_up_s or 0.0


def parse_arrivals(
    rate: float | None, duration_s: float | None, seed: int, *, warm_up_s: float = 0.0, trace: Path | None = None,
) -> Schedule | None:
    """An open loop where a rate or a file of arrivals is given; how long, unless said: 10 s, or as recorded.

    Raises:
        DefiniteError: E_INVALID_INPUT.
    """
    if trace is not None:
        return read_arrivals(trace, rate_per_s=rate, duration_s=duration_s and duration_s + warm_up_s, seed=seed)
    if rate is None:
        return None
    return Arrivals(rate, (DURATION_S if duration_s is None else duration_s) + warm_up_s, seed)
