"""What a log has open, and which of it should long have come further."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from orchestrator.log import backlog as backlog_module
from orchestrator.log.backlog import NO_BACKLOG, OVERDUE_MS, UNFINISHED_MS, Backlog
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import (
    AppendRequest,
    Begun,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Parked,
    Record,
    TakeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = 1_700_000_000_000
DEADLINE_MS = NOW + 30_000
UNDECIDED, LATE, COMMITTED, ENDED, PARKED = (make_id(NOW + number, 7, 1, number) for number in range(5))
HISTORY: list[Record] = [
    *(Begun(txn, f"key-{txn}", b"", "order", 1, b"", NOW, DEADLINE_MS, 30_000)
      for txn in (UNDECIDED, LATE, COMMITTED, ENDED, PARKED)),
    Decided(LATE, Decision.ABORT, NOW + 40_000, "E_TIMEOUT"),
    *(Decided(txn, Decision.COMMIT, NOW + 100) for txn in (COMMITTED, ENDED, PARKED)),
    Ended(ENDED, NOW + 200),
    Parked(PARKED, "notify", "E_SERVICE_ERROR", "no", NOW + 300, "mail"),
    Parked(PARKED, "label", "JAMMED", "no", NOW + 300, "printer"),
]


def backlog_at(path: Path) -> Callable[[int], Backlog]:
    create_log(path)
    store = LogStore(path, "run", 7 * 24 * 3_600_000)
    store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW)
    store.append([AppendRequest(1, 0, "first", 1, [EpochRecord(1, record) for record in HISTORY])], NOW)
    store.close()
    return LogReader(path).backlog


def test_it_counts_what_is_late(tmp_path: Path) -> None:
    backlog = backlog_at(tmp_path / "log.sqlite")
    parked = {("mail", "E_SERVICE_ERROR"): 1, ("printer", "JAMMED"): 1}
    assert backlog(NOW + 1_000) == Backlog(4, 0, 0, 0, parked)
    assert backlog(DEADLINE_MS + OVERDUE_MS) == Backlog(4, 0, 0, 0, parked)
    assert backlog(DEADLINE_MS + OVERDUE_MS + 1) == Backlog(4, 1, 0, 0, parked)
    one = backlog(NOW + 100 + UNFINISHED_MS + 1)
    assert (one.unfinished, one.oldest_unfinished_ms) == (1, UNFINISHED_MS + 1)  # the parked one is told as such
    assert backlog(NOW + 40_000 + UNFINISHED_MS + 1).unfinished == 2


def test_more_than_are_counted_are_told_as_such(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(backlog_module, "PARKED_MAX", 1)
    path = tmp_path / "log.sqlite"
    found = backlog_at(path)(NOW + 1_000)
    assert not found.parked_more
    with closing(LogStore(path, "run", 7 * 24 * 3_600_000)) as store:
        parked = Parked(COMMITTED, "notify", "NO", "", NOW, "mail")
        store.append([AppendRequest(1, 0, "first", 2, [EpochRecord(1, parked)])], NOW)
    found = LogReader(path).backlog(NOW + 1_000)
    assert (found.parked_more, sum(found.parked.values())) == (True, 2)  # both are of the newest one


def test_one_that_is_parked_undecided_is_not_late(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    backlog_at(path)
    with closing(LogStore(path, "run", 7 * 24 * 3_600_000)) as store:
        parked = Parked(UNDECIDED, "", "E_UNKNOWN_SAGA", "", NOW, "")
        store.append([AppendRequest(1, 0, "first", 2, [EpochRecord(1, parked)])], NOW)
    assert LogReader(path).backlog(DEADLINE_MS + OVERDUE_MS + 1).overdue == 0


def test_an_empty_log_has_none(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    create_log(path)
    LogStore(path, "run", 7 * 24 * 3_600_000).close()
    assert LogReader(path).backlog(NOW) == NO_BACKLOG
