"""Transaction ids: fixed-width text `ms(12) partition(2) epoch(8) counter(10)`, all lower-case hexadecimal.

Uniqueness rests on (partition, epoch, counter); the time part only keeps index inserts local and carries the age.
"""

from __future__ import annotations

import hashlib
import re

PARTITIONS = 256
ID_LENGTH = 32
KEY_BYTES_MAX = 256
_ID = re.compile(r"[0-9a-f]{32}")


def partition_of_key(key: str) -> int:
    """The partition a key belongs to, for ever: the first byte of its BLAKE2b digest."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()[0]


def fingerprint_of(saga: str, payload: bytes) -> bytes:
    """16 bytes that tell two inputs (or two requests) of one name apart."""
    return hashlib.blake2b(payload, digest_size=16, person=saga.encode()[:16]).digest()


def make_id(began_ms: int, partition: int, epoch: int, counter: int) -> str:
    """Compose an id; `began_ms` is Unix time in milliseconds."""
    return f"{began_ms:012x}{partition:02x}{epoch:08x}{counter:010x}"


def is_id(text: str) -> bool:
    """Whether the text has the shape of a transaction id."""
    return _ID.fullmatch(text) is not None


def began_ms_of(transaction: str) -> int:
    """Unix time in milliseconds at which the id was allocated."""
    return int(transaction[:12], 16)


def partition_of(transaction: str) -> int:
    """The partition the id belongs to."""
    return int(transaction[12:14], 16)


def epoch_of(transaction: str) -> int:
    """The partition's epoch under which the id was allocated."""
    return int(transaction[14:22], 16)


def oldest_id(began_ms: int) -> str:
    """The lowest id of that millisecond: every older transaction's id sorts below it."""
    return f"{max(began_ms, 0):012x}"
