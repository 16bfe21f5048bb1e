"""What a shard that was called stale makes of the log's word on who owns a partition."""

from __future__ import annotations

from enum import Enum


class Standing(Enum):
    """What a shard is to a partition."""

    HOLDS = "it owns the partition under the epoch that it speaks under: whoever called it stale has heard of none other"
    MOVED = "another shard owns the partition: drop it"
    SUPERSEDED = "what this process knows is stale, it must end: its successor takes the partitions anew"


def standing_of(
    owner: tuple[int, int, str], *, shard: int, incarnation: str, epoch: int,
) -> Standing:
    """Judge the log's answer.

    A partition may be this very incarnation's and the epoch a higher one all the same: a request to take it, of this
    process or of a dead predecessor, was late or was repeated, and each taking that changes the owner raises the epoch.

    Args:
        owner: shard, epoch and incarnation, as the log has them.
        shard: who asks.
        incarnation: of the asker.
        epoch: under which the asker holds the partition.
    """
    owning_shard, owning_epoch, owning_incarnation = owner
    if owning_shard != shard:
        return Standing.MOVED
    if owning_incarnation != incarnation or owning_epoch != epoch:
        return Standing.SUPERSEDED
    return Standing.HOLDS
