"""What a transaction log has open, and which of it should long have come further."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.log.finding import TransactionQuery, find

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

OVERDUE_MS = 10_000  # past its deadline, a transaction is decided within seconds wherever shard and log get on
UNFINISHED_MS = 60_000
PARKED_MAX = 1_000  # of more, these are counted

_COUNTS = """
SELECT COUNT(*),
    COALESCE(SUM(decided_ms = 0 AND deadline_ms < :overdue AND parked = 0), 0),
    COALESCE(SUM(decided_ms > 0 AND decided_ms < :unfinished AND parked = 0), 0),
    MIN(CASE WHEN decided_ms > 0 AND parked = 0 THEN decided_ms END)
FROM transactions WHERE ended_sequence = 0"""


class Backlog(NamedTuple):
    """What is open; `parked` counts steps by (service, code)."""

    open: int = 0
    overdue: int = 0  # undecided and not parked, more than `OVERDUE_MS` after their deadline
    unfinished: int = 0  # decided more than `UNFINISHED_MS` ago, and not parked
    oldest_unfinished_ms: int = 0  # the age since the decision
    parked: Mapping[tuple[str, str], int] = {}
    parked_more: bool = False  # there are more than were counted


NO_BACKLOG = Backlog()


def backlog_of(connection: sqlite3.Connection, now_ms: int) -> Backlog:
    """Count what is open.

    Args:
        connection: to a transaction log.
        now_ms: Unix time.
    """
    found = connection.execute(_COUNTS, {"overdue": now_ms - OVERDUE_MS, "unfinished": now_ms - UNFINISHED_MS}).fetchone()
    count, overdue, unfinished, oldest_ms = found
    parked = find(connection, TransactionQuery(parked=True, limit=PARKED_MAX + 1))
    by_cause = Counter((step.service, step.code) for one in parked[:PARKED_MAX] for step in one.parked_steps)
    return Backlog(count, overdue, unfinished, max(now_ms - oldest_ms, 0) if unfinished else 0, by_cause,
        len(parked) > PARKED_MAX)
