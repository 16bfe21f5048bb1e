"""Whether a run counts: what was asked for was done, is audited, and went the way that was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.observed import committed_since
from benchmarks.plan import Measured
from loadgen.workload import PLACE_ORDER
from orchestrator.audit import audit
from orchestrator.deployment import DataDirectory

INDIRECT = "indirect"


def judge_stored(measured: Measured, data: Path, app: Any, *, began_ms: int, told: int) -> None:
    """The audit is ok, and the log has committed what callers were told, no more and no less."""
    audited = audit(data, app)
    if not audited.ok:
        refuse(measured, f"the audit found violations: {audited.to_json().get('first_violation')}")
    stored = committed_since(DataDirectory(data).log_path, PLACE_ORDER, began_ms)
    if stored != told:
        refuse(measured, f"{told} orders were told to be committed, the log has {stored}")


def judge_books(measured: Measured, *, adds_up: bool) -> None:
    """Of the others: their own books stand in for the audit."""
    if not adds_up:
        refuse(measured, "the services' books do not add up")


def judge_done(measured: Measured, asked: int) -> None:
    """Every order that was asked for has an outcome, and has committed: nobody declines, and there is stock for all.

    Args:
        measured: what came of them.
        asked: how many.
    """
    if measured.orders != asked:
        refuse(measured, f"{asked} orders were placed, {measured.orders} have an outcome: the rest was refused or is unknown")
    if measured.committed != measured.orders:
        refuse(measured, f"{measured.orders - measured.committed} orders were aborted: not the work that was asked for")


def judge_rest(measured: Measured, limit_s: float, *, rested: bool) -> None:
    """Everything has ended: else the time and the cost of the end were not measured, but the limit."""
    if not rested:
        refuse(measured, f"transactions were open still {limit_s:.0f} s after the last outcome")


def judge_plane(measured: Measured, data: Path, began_ms: int) -> None:
    """A run over the direct plane must not have gone over Ray calls, which stand in where a connection cannot be had.

    An earlier run on the same data directory says nothing of this one.
    """
    indirect = sum(1 for told in _events(data, began_ms) if told.get("event") == INDIRECT)
    measured.figures[INDIRECT] = float(indirect)
    if indirect:
        refuse(measured, f"{indirect} times a connection could not be had, and Ray calls stood in for some seconds")


def refuse(measured: Measured, why: str) -> None:
    """The run does not count."""
    measured.ok = False
    measured.notes.append(why)


def _events(data: Path, since_ms: int) -> Iterator[dict[str, Any]]:
    for path in (data / "logs").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            if f'"{INDIRECT}"' in line:  # few lines are worth reading
                told = json.loads(line)
                if datetime.fromisoformat(told["time"]).timestamp() * 1_000 >= since_ms:
                    yield told
