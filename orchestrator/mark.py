"""High-water mark of a database, kept outside its file: an older copy of the file is below it and is refused.

Two checksummed slots in sectors of their own are overwritten in turn, so a torn write costs one slot and never the
older value. It is written after the commit and not synced: it may lag behind the database, never run ahead of it.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"raytx-m1"
_SLOT = struct.Struct("<8s32sQI")
_SLOT_STRIDE = 4096
_FILE_BYTES = 2 * _SLOT_STRIDE


def mark_path(database: Path) -> Path:
    """Where the mark of a database lies."""
    return database.with_name(database.name + ".mark")


class Mark:
    """The mark of one database, open for its one writer.

    Args:
        path: an existing mark file, see `create_mark`.

    Raises:
        OSError: it is missing or cannot be opened; definite.
        ValueError: neither slot is valid; definite.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.uuid, self.sequence, self._newest = _newest_slot(self._fd)
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, sequence: int) -> None:
        """Raise the mark to a committed sequence."""
        self._newest ^= 1
        os.pwrite(self._fd, _encode(self.uuid, sequence), self._newest * _SLOT_STRIDE)
        self.sequence = sequence

    def sync(self) -> None:
        """Make the mark durable."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)


def create_mark(path: Path, uuid: str) -> None:
    """Write a mark at sequence 0 at full size and sync it; the caller syncs the directory."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        slot = _encode(uuid, 0).ljust(_SLOT_STRIDE, b"\0")
        os.pwrite(fd, slot * 2, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def read_mark(path: Path) -> tuple[str, int]:
    """The database uuid and the sequence of a mark file.

    Raises:
        OSError: it is missing or unreadable; definite.
        ValueError: neither slot is valid; definite.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        uuid, sequence, _ = _newest_slot(fd)
    finally:
        os.close(fd)
    return uuid, sequence


def _encode(uuid: str, sequence: int) -> bytes:
    head = _SLOT.pack(_MAGIC, uuid.encode(), sequence, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "little")


def _newest_slot(fd: int) -> tuple[str, int, int]:
    content = os.pread(fd, _FILE_BYTES, 0)
    found = [(slot[1], slot[0], index) for index in (0, 1) if (slot := _decode(content, index * _SLOT_STRIDE))]
    if not found:
        raise ValueError("neither slot of the mark is valid")
    sequence, uuid, index = max(found)
    return uuid, sequence, index


def _decode(content: bytes, offset: int) -> tuple[str, int] | None:
    slot = content[offset : offset + _SLOT.size]
    if len(slot) < _SLOT.size:
        return None
    magic, uuid, sequence, crc = _SLOT.unpack(slot)
    if magic != _MAGIC or zlib.crc32(slot[:-4]) != crc:
        return None
    return uuid.decode(), sequence
