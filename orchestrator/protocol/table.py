"""The transactions a shard holds open, by id and by key, and the epochs of its partitions."""

from __future__ import annotations

from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.transaction import Transaction


class OpenTable:
    """What is open; a key leads to the one transaction that holds it."""

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}
        self.by_id: dict[str, Transaction] = {}
        self.by_key: dict[str, Transaction] = {}

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, txn: Transaction) -> None:
        """Hold a transaction."""
        self.by_id[txn.id] = self.by_key[txn.begun.key] = txn

    def forget(self, txn: Transaction) -> None:
        """Hold it no longer; harmless when repeated."""
        self.by_id.pop(txn.id, None)
        if self.by_key.get(txn.begun.key) is txn:
            del self.by_key[txn.begun.key]

    def find(self, key: str, transaction: str) -> Transaction | None:
        """By id, or by key where that is empty."""
        return self.by_id.get(transaction) if transaction else self.by_key.get(key)

    def holds(self, transaction: str) -> bool:
        """Whether the partition of an id is held."""
        return partition_of(transaction) in self.epochs
