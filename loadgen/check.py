"""Holds what the driver was told against the transaction log: nobody may have been told a wrong outcome."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from loadgen.workload import Told, Workload

EXAMPLES_MAX = 10
_COMMITTED = frozenset({"committing", "committed"})
_ABORTED = frozenset({"aborting", "aborted"})


class Logged(Protocol):
    """A transaction as the log lists it."""

    @property
    def key(self) -> str:
        """The idempotency key."""

    @property
    def state(self) -> str:
        """preparing, committing, committed, aborting or aborted."""


@dataclass(slots=True)
class Verdict:
    """Wrong outcomes (how many, and the first few in words), and what the unknown ones turned out to be."""

    wrong: int = 0
    examples: list[str] = field(default_factory=list)
    unknown_committed: int = 0
    unknown_aborted: int = 0
    unknown_open: int = 0
    unknown_absent: int = 0

    def blame(self, text: str) -> None:
        """Count a wrong outcome."""
        self.wrong += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(text)


def check_outcomes(workload: Workload, told: bytes | bytearray, logged: Iterable[Logged]) -> Verdict:
    """Compare every outcome that was told with the log.

    Args:
        workload: the run's transactions.
        told: one `Told` a transaction, by number.
        logged: the log's transactions, streamed; those of other runs are passed over.
    """
    verdict = Verdict()
    seen = bytearray(len(told))
    for item in logged:
        number = workload.number_of(item.key)
        if number is not None:
            seen[number] = 1
            _compare(verdict, item.key, Told(told[number]), item.state)
    for number, (was_told, was_seen) in enumerate(zip(told, seen, strict=True)):
        if was_seen:
            continue
        if was_told in (Told.COMMITTED, Told.ABORTED):
            verdict.blame(f"{workload.work(number).key}: told {Told(was_told).name}, the log does not know it")
        verdict.unknown_absent += was_told == Told.UNKNOWN
    return verdict


def _compare(verdict: Verdict, key: str, told: Told, state: str) -> None:
    if told is Told.UNKNOWN:
        verdict.unknown_committed += state in _COMMITTED
        verdict.unknown_aborted += state in _ABORTED
        verdict.unknown_open += state not in _COMMITTED | _ABORTED
        return
    right = {Told.COMMITTED: _COMMITTED, Told.ABORTED: _ABORTED}.get(told, frozenset())
    if state not in right:
        verdict.blame(f"{key}: told {told.name}, the log says {state}")
