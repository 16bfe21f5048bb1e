"""The transactions a shard holds open, by id and by key, and the epochs of its partitions."""

from __future__ import annotations

from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.transaction import Transaction

ASIDE_SHARE = 8  # so many transactions that only wait for an operator take one place


class OpenTable:
    """What is open; a key leads to the one transaction that holds it.

    Its length is the number of places taken, at which admission looks. Whatever only waits for an operator, or for a
    ledger to agree with one, takes an eighth of a place: it must not keep new work out, and memory stays bounded.
    """

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}
        self.by_id: dict[str, Transaction] = {}
        self.by_key: dict[str, Transaction] = {}
        self._aside: set[str] = set()

    def __len__(self) -> int:
        return len(self.by_id) - len(self._aside) + len(self._aside) // ASIDE_SHARE

    def add(self, txn: Transaction) -> None:
        """Hold a transaction."""
        self.by_id[txn.id] = self.by_key[txn.begun.key] = txn

    def forget(self, txn: Transaction) -> None:
        """Hold it no longer; harmless when repeated."""
        self.by_id.pop(txn.id, None)
        self._aside.discard(txn.id)
        if self.by_key.get(txn.begun.key) is txn:
            del self.by_key[txn.begun.key]

    def weigh(self, txn: Transaction) -> None:
        """Reckon anew whether a transaction that is held takes a place of its own."""
        if txn.waits_aside and txn.id in self.by_id:
            self._aside.add(txn.id)
        else:
            self._aside.discard(txn.id)

    def find(self, key: str, transaction: str) -> Transaction | None:
        """By id, or by key where that is empty."""
        return self.by_id.get(transaction) if transaction else self.by_key.get(key)

    def holds(self, transaction: str) -> bool:
        """Whether the partition of an id is held."""
        return partition_of(transaction) in self.epochs
