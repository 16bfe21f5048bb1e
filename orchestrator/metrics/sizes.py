"""How much room files take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def database_bytes(path: Path) -> int:
    """Size of a SQLite database with its write-ahead log; what is not there counts nothing."""
    return sum(_bytes(name) for name in (str(path), f"{path}-wal"))


def directory_bytes(path: Path) -> int:
    """Size of the files in a directory; what is not there counts nothing."""
    try:
        with os.scandir(path) as entries:
            return sum(_bytes(entry.path) for entry in entries)
    except OSError:
        return 0


def free_bytes(path: Path) -> int:
    """Room left on the disk of a directory; 0 where the disk does not even tell that."""
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _bytes(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - many small looks, no Path for each
    except OSError:  # rotated or folded meanwhile
        return 0
