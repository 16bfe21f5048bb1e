"""Answers to a client that are no outcome: refused for good, or to be asked again."""

from __future__ import annotations

from orchestrator.errors import ErrorCode
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.messages import OutcomeMessage, OutcomeStatus

DRAINING_RETRY_MS = 1_000  # a successor serves some seconds later


def rejection(waiter: Waiter, code: str, message: str, retry_after_ms: int = 0, service: str = "") -> OutcomeMessage:
    """A definite refusal, perhaps because of one service: nothing was begun."""
    return OutcomeMessage(
        waiter.number, "", OutcomeStatus.REJECTED, [], str(code), message, service, retry_after_ms=retry_after_ms)


def reject(effects: Effects, waiter: Waiter, code: str, message: str) -> None:
    """Refuse a request for good."""
    effects.outcomes.append((waiter, rejection(waiter, code, message)))


def draining(waiter: Waiter) -> OutcomeMessage:
    """Refuse what would be begun just before the deployment is stopped."""
    return rejection(
        waiter, ErrorCode.DRAINING, "the deployment is about to be stopped and begins nothing new", DRAINING_RETRY_MS)


def conflict(effects: Effects, waiter: Waiter, transaction: str) -> None:
    """Refuse a key that stands for something else."""
    message = f"the key is bound to transaction {transaction}, with another saga or input"
    reject(effects, waiter, ErrorCode.KEY_CONFLICT, message)


def no_room(effects: Effects, waiter: Waiter) -> None:
    """Refuse what the log's disk has no room for."""
    message = "the transaction log's disk is full; nothing was begun: make room, then ask again with the same key"
    reject(effects, waiter, ErrorCode.DISK_FULL, message)


def retry(waiter: Waiter) -> OutcomeMessage:
    """Ask again, perhaps elsewhere."""
    return OutcomeMessage(
        waiter.number, "", OutcomeStatus.RETRY, [], ErrorCode.NOT_READY, "this shard does not hold the partition (yet)")


def not_ready(effects: Effects, waiter: Waiter) -> None:
    """Have the client ask again."""
    effects.outcomes.append((waiter, retry(waiter)))
