"""L: after the last fault healed, every transaction ends within a bound."""

from __future__ import annotations

from loadgen.checker.logged import Transactions
from loadgen.checker.report import CheckReport, Invariant
from loadgen.history import History

HEALED = "healed"


def check_liveness(history: History, found: Transactions, settle_ms: int | None, report: CheckReport) -> None:
    """Judge how long transactions took to end.

    Args:
        history: its last note `healed` says when the faults were over.
        found: the log's transactions.
        settle_ms: all ends within so long after that, or after the begin; None: only counted.
        report: told what is or was open for longer.
    """
    healed_ms = max((note.wall_ms for note in history.noted(HEALED)), default=0)
    longest_ms = 0
    for logged in found.by_id.values():
        since_ms = max(healed_ms, logged.begun_ms)
        if not logged.ended_ms:
            report.counts["parked" if logged.parked else "open"] += 1
            if settle_ms is not None:
                report.add(Invariant.LIVE, logged.transaction, f"it is still {logged}{' and parked' if logged.parked else ''}")
            continue
        took_ms = logged.ended_ms - since_ms
        longest_ms = max(longest_ms, took_ms)
        if settle_ms is not None and took_ms > settle_ms:
            text = f"it ended {took_ms} ms after the last fault was healed, {settle_ms} ms are allowed"
            report.add(Invariant.LIVE, logged.transaction, text, weight=took_ms)
    report.counts["longest_to_end_ms"] = longest_ms
