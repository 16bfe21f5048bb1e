"""Waiting until nothing is open: what was decided has reached every participant."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader

POLL_S = 0.05


def wait_for_rest(path: Path, limit_s: float, *, since_ms: int = 0) -> bool:
    """Wait until no transaction is open but for parked ones.

    Args:
        path: of the log's database.
        limit_s: give up after so long.
        since_ms: only those begun since then, Unix ms.

    Returns:
        Whether it is at rest; False when the limit passed first.
    """
    until_s = time.monotonic() + limit_s
    query = TransactionQuery(state="open", parked=False, since_ms=since_ms or None, limit=1)
    pause = threading.Event()  # never set: the log's file tells nobody when it changes
    while True:
        with closing(LogReader(path)) as reader:
            if not reader.find(query):
                return True
        if time.monotonic() >= until_s:
            return False
        pause.wait(POLL_S)
