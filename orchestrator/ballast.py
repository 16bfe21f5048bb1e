"""Disk space set aside beside a database, given back when the disk is full so that what has begun can be finished.

While the ballast is given up nothing new may begin; it is made anew as soon as there is room for all of it.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING, Final

from orchestrator.errors import ErrorCode
from orchestrator.logs import log_event

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.files import Files

BALLAST_BYTES: Final = 24 << 20  # the write-ahead log (16 MiB) folded into a database that grows by all of it, and then some
REFILL_EVERY_MS: Final = 1_000
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Ballast:
    """The ballast of one database, for its one owner.

    Args:
        files: the disk.
        path: of the database.
        size: bytes set aside; 0 = none, and the database never counts as full.

    Attributes:
        held: whether it is there; new work may begin only while it is.
    """

    def __init__(self, files: Files, path: Path, size: int) -> None:
        self._files, self._size = files, size
        self._path = path.with_name(path.name + ".ballast")
        self._due_ms = 0
        self.held = self._make()

    def release(self, error: BaseException) -> bool:
        """Give the space back because of this error; returns False where that was done before."""
        if not self.held or not self._size:
            return False
        self.held = False
        self._due_ms = 0
        self._files.remove(self._path)
        log_event("disk_full", level="ERROR", code=ErrorCode.DISK_FULL,
                  message=f"{self._path}: released; nothing new begins until there is room ({error})")
        return True

    def refill(self, now_ms: int) -> bool:
        """Try to make it anew, at most once a second; returns whether it is held.

        Args:
            now_ms: any clock, ms.
        """
        if self.held or self._due_ms - REFILL_EVERY_MS <= now_ms < self._due_ms:
            return self.held
        first, self._due_ms = not self._due_ms, now_ms + REFILL_EVERY_MS
        if first:
            return False  # it has only just been given up
        self.held = self._make()
        if self.held:
            log_event("room_again", message=f"{self._path}: made anew, new transactions are admitted")
        return self.held

    def _make(self) -> bool:
        """Set the space aside, also where the file is there: a copy of a data directory may have lost its blocks."""
        if not self._size:
            return True
        file = self._files.open(self._path, create=not self._files.identity(self._path))
        try:
            file.allocate(self._size)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
        else:
            return True
        finally:
            file.close()
        self._files.remove(self._path)
        return False


def is_full(error: BaseException) -> bool:
    """Whether the disk has no room: nothing was stored, and no page is taken for clean that is not."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _NO_ROOM
