"""What a run is held to beside the invariants: how soon it must be at rest, its caps, and how much must have happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Arguments of a check; by default nothing is demanded that every run does not promise.

    Attributes:
        commits_min: transactions that were told COMMITTED.
        aborts_min: likewise ABORTED.
        recoveries_min: notes `recovered`.
        duplicates_min: keys that were asked for more than once.
        reads_min: snapshots that a reader took.
        settle_ms: every transaction ends within so long after the last note `healed`, or its begin; None: not judged.
        caps: most by gauge, names with * and ?; gauges are the highest values of `measured` notes, and `file:PATH` and
            `files` in bytes. A cap that no gauge has is a violation.
        clock_ms: how far the clock may have been set back while the run lasted.
        replay_rows_max: a ledger with more rows is not replayed.
    """

    commits_min: int = 0
    aborts_min: int = 0
    recoveries_min: int = 0
    duplicates_min: int = 0
    reads_min: int = 0
    settle_ms: int | None = None
    caps: Mapping[str, int] = field(default_factory=dict)
    clock_ms: int = 0
    replay_rows_max: int = 100_000
