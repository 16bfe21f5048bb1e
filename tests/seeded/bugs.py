"""All seeded bugs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from seeded import bugs_of_coordinator, bugs_of_log, bugs_of_operator, bugs_of_participant, bugs_of_recovery
from seeded.patching import Bug

BUGS: Final[tuple[Bug, ...]] = (
    *bugs_of_coordinator.BEFORE_THE_DECISION, *bugs_of_coordinator.AFTER_THE_DECISION,
    *bugs_of_recovery.RECOVERY, *bugs_of_recovery.DOUBT, *bugs_of_recovery.ANSWERS, *bugs_of_recovery.APPENDS,
    *bugs_of_participant.LEDGER, *bugs_of_participant.FENCES, *bugs_of_participant.DISKS, *bugs_of_participant.WAITING,
    *bugs_of_participant.RETENTION, *bugs_of_operator.OPERATOR, *bugs_of_log.LOG,
    *bugs_of_log.REAL_LOG, *bugs_of_operator.REAL_LOG_OPERATOR)
SEEDS: Final = Path(__file__).with_name("seeds.json")  # by name of the bug: one that catches it
