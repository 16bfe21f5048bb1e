"""High-water mark of a database, kept outside its file: an older copy of the file is below it and is refused.

Two checksummed slots in sectors of their own are overwritten in turn, so a torn write costs one slot and never the
older value. It is written after the commit and not synced: it may lag behind the database, never run ahead of it.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from orchestrator.files import REAL_FILES

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.files import DataFile, Files

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
        files: the disk.

    Raises:
        OSError: it is missing or cannot be opened; definite.
        ValueError: neither slot is valid; definite.
    """

    def __init__(self, path: Path, files: Files = REAL_FILES) -> None:
        self._file = files.open(path)
        try:
            self.uuid, self.sequence, self._newest = _newest_slot(self._file)
        except BaseException:
            self._file.close()
            raise

    def write(self, sequence: int) -> None:
        """Raise the mark to a committed sequence."""
        self._newest ^= 1
        self._file.write(_encode(self.uuid, sequence), self._newest * _SLOT_STRIDE)
        self.sequence = sequence

    def sync(self) -> None:
        """Make the mark durable."""
        self._file.sync()

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def create_mark(path: Path, uuid: str, files: Files = REAL_FILES) -> None:
    """Write a mark at sequence 0 at full size and sync it; the caller syncs the directory."""
    _write_whole(path, uuid, 0, files)


def renew_mark(path: Path, files: Files) -> None:
    """Write the mark anew into a file of its own, since the disk under the old one has failed; the caller syncs the directory.

    Raises:
        OSError: of unknown outcome: the mark is the old one or the new one, and says the same.
        ValueError: neither slot is valid; definite.
    """
    uuid, sequence = read_mark(path, files)
    draft = path.with_name(path.name + ".new")
    _write_whole(draft, uuid, sequence, files)
    files.rename(draft, path)


def read_mark(path: Path, files: Files = REAL_FILES) -> tuple[str, int]:
    """The database uuid and the sequence of a mark file.

    Raises:
        OSError: it is missing or unreadable; definite.
        ValueError: neither slot is valid; definite.
    """
    file = files.open(path)
    try:
        uuid, sequence, _ = _newest_slot(file)
    finally:
        file.close()
    return uuid, sequence


def _write_whole(path: Path, uuid: str, sequence: int, files: Files) -> None:
    file = files.open(path, create=True)
    try:
        file.write(_encode(uuid, sequence).ljust(_SLOT_STRIDE, b"\0") * 2, 0)
        file.sync()
    finally:
        file.close()


def _encode(uuid: str, sequence: int) -> bytes:
    head = _SLOT.pack(_MAGIC, uuid.encode(), sequence, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "little")


def _newest_slot(file: DataFile) -> tuple[str, int, int]:
    content = file.read(_FILE_BYTES, 0)
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
