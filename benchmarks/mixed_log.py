"""Writes a transaction log alone, of many outcomes, through the product's own store: what lists are measured on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.errors import ErrorCode
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import PARTITIONS, make_id, partition_of, partition_of_key
from orchestrator.protocol.messages import SCHEMA_VERSION
from orchestrator.protocol.records import (
    AppendRequest,
    AppendStatus,
    Begun,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Parked,
    Record,
    TakeRequest,
)

GROUP = 500  # transactions in one append
WEEK_MS = 7 * 24 * 3_600_000
APART_MS = 5  # transactions begin so long after each other
TOOK_MS = 40
INPUT = b"\x81\xa8order_id" + b"\xd9\x20" + b"x" * 32  # small: no list reads it
RARE_EVERY = 200_000  # the saga `rare` and the code `RARE` occur so seldom, and in the older half only
RETURNS_EVERY = 50
OPEN, UNDECIDED, PARKED_EVERY = 2_000, 1_000, 10  # of the newest ones
REFUSALS = (("OUT_OF_STOCK", "inventory", "reserve"), ("INSUFFICIENT_FUNDS", "payment", "authorize"),
            (ErrorCode.TIMEOUT, "shipping", "ship"))

Progress = Callable[[str], None]


def write_mixed_log(path: Path, transactions: int, *, abort_percent: int = 10, progress: Progress = lambda _: None) -> None:
    """Write a log that ends now: 2 % returns, one saga and one code that are rare, 2,000 open ones of which 100 are parked.

    Args:
        path: of the log's database, which is created.
        transactions: how many.
        abort_percent: how many of a hundred abort, by three services' refusals.
        progress: told now and then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    create_log(path)
    store = LogStore(path, "mixed", WEEK_MS)
    first_ms = time.time_ns() // 1_000_000 - transactions * APART_MS
    taken = store.take(TakeRequest(SCHEMA_VERSION, 0, "writer", list(range(PARTITIONS)), 1, "mixed"), first_ms)
    try:
        for sequence, first in enumerate(range(0, transactions, GROUP), 1):
            numbers = range(first, min(first + GROUP, transactions))
            records = [EpochRecord(taken.epochs[partition_of(record.transaction)], record)
                       for number in numbers for record in _records(number, transactions, first_ms, abort_percent)]
            (reply,) = store.append([AppendRequest(SCHEMA_VERSION, 0, "writer", sequence, records)], first_ms)
            assert all(result.status is AppendStatus.STORED for result in reply.results)
            if first and first % (200 * GROUP) == 0:
                progress(f"{first:,} of {transactions:,} transactions written")
    finally:
        store.close()


def _records(number: int, transactions: int, first_ms: int, abort_percent: int) -> Iterator[Record]:
    began_ms, key = first_ms + number * APART_MS, f"key-{number}-{number * 7919 % 1_000_003:06d}"
    rare = number < transactions // 2 and number % RARE_EVERY == 1
    saga = "rare" if rare else "return_items" if number % RETURNS_EVERY == 0 else "place_order"
    txn = make_id(began_ms, partition_of_key(key), 1, number + 1)
    yield Begun(txn, key, b"f" * 16, saga, 1, INPUT, began_ms, began_ms + 30_000, 30_000, f"order-{number}")
    left = transactions - number
    if left <= UNDECIDED:
        return
    if rare:
        yield Decided(txn, Decision.ABORT, began_ms + TOOK_MS, "RARE", "it hardly ever happens", "notification", "send", 1)
    elif number * 37 % 100 < abort_percent:
        code, service, step = REFUSALS[number % len(REFUSALS)]
        yield Decided(txn, Decision.ABORT, began_ms + TOOK_MS, code, f"refused by {service}", service, step, 1)
    else:
        yield Decided(txn, Decision.COMMIT, began_ms + TOOK_MS, attempts=1)
    if left <= OPEN:
        if left % PARKED_EVERY == 0:
            yield Parked(txn, "notify", "UNDELIVERABLE", "nobody is there", began_ms + 2 * TOOK_MS, "notification")
        return
    yield Ended(txn, began_ms + 2 * TOOK_MS)
