"""Whose turn it is: after a restart what was open is driven a little at a time, not all in the same instant.

A shard may find 100,000 open transactions. Driving them all at once would block its loop, flood its services, and have all
their repeats fall due together. So a bounded number leaves at a time, and no more than a bounded number is under way; one
that does not get on (its service is down) gives up its place after a while, so that it does not hold up the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from orchestrator.protocol.records import StoredTransaction
from orchestrator.protocol.transaction import Transaction

TURN_MS = 20
AT_A_TIME = 128  # 6,400 a second
AT_ONCE = 4_096
PLACE_MS = 1_000


class Held(NamedTuple):
    """A stored transaction that is taken up and not driven yet."""

    txn: Transaction
    stored: StoredTransaction


class Pacing:
    """Holds what waits for its turn: what is decided first (somebody may have been told), then by deadline."""

    def __init__(self) -> None:
        self._waiting: deque[Held] = deque()
        self._driven: list[tuple[Transaction, int]] = []
        self._next_ms = 0

    def hold(self, held: Iterable[Held]) -> None:
        """Have these wait for their turns."""
        self._waiting = deque(sorted([*self._waiting, *held], key=_urgency))

    def turns(self, now_ms: int, is_open: Callable[[Transaction], bool]) -> list[Held]:
        """Those whose turn it is.

        Args:
            now_ms: the time.
            is_open: whether a transaction is still held and has not ended.
        """
        if not self._waiting or now_ms < self._next_ms:
            return []
        self._next_ms = now_ms + TURN_MS
        self._driven = [(txn, until_ms) for txn, until_ms in self._driven if until_ms > now_ms and is_open(txn)]
        found: list[Held] = []
        room = min(AT_A_TIME, AT_ONCE - len(self._driven))
        while self._waiting and len(found) < room:
            held = self._waiting.popleft()
            if is_open(held.txn):
                found.append(held)
        self._driven += [(held.txn, now_ms + PLACE_MS) for held in found]
        return found

    @property
    def next_ms(self) -> int | None:
        """When to ask for turns again; None if nobody waits."""
        return self._next_ms if self._waiting else None


def _urgency(held: Held) -> tuple[bool, int]:
    return held.stored.decided is None, held.txn.deadline_ms
