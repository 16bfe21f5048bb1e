"""A batch on a disk that may be full: what has begun is finished within the ballast, nothing new is begun."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actors.runner import BatchRunner, Outcome, Work
    from actors.store import Retention, Store


def run_batch(
    runner: BatchRunner, store: Store, works: Sequence[Work], retention: Retention, now_ms: int,
) -> list[Outcome]:
    """Run a batch; where the disk turns out to be full, once more on the ballast, without what is new.

    Raises:
        sqlite3.Error, OSError: outcome unknown, or the ballast is used up as well; this process must end.
        SupersededError, DefiniteError: see `BatchRunner.run`.
    """
    admitting = store.database.has_room(now_ms)
    try:
        return runner.run(works, retention, now_ms, admitting=admitting)
    except sqlite3.OperationalError as error:
        store.undo()
        if not store.database.make_room(error):
            raise
    runner.reread()
    return runner.run(works, retention, now_ms, admitting=False)
