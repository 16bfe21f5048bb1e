"""The disk as a database of raytx uses it: a port, and the real files behind it.

Everything that `OwnedDatabase`, its mark, its lock and its ballast do to a disk goes through `Files`, so that the same code
runs over a simulated one (`orchestrator.testing.disk.storage`). Where nothing is given it is the real one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from typing import TYPE_CHECKING, Final, Literal, Protocol

from orchestrator.ownership import OwnerLock

if TYPE_CHECKING:
    from pathlib import Path

BUSY_TIMEOUT_S: Final = 5.0
STATEMENTS_MAX: Final = 256  # prepared ones kept by a connection


class DataFile(Protocol):
    """A small file, open for reading and writing."""

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer at the end of the file."""

    def write(self, data: bytes, offset: int) -> None:
        """Write all of `data`; it is in the page cache, not on the disk."""

    def allocate(self, size: int) -> None:
        """Have the disk set aside so many bytes for the file, which becomes so long; durable only once synced."""

    def sync(self) -> None:
        """Make what was written durable."""

    def close(self) -> None:
        """Release the file."""


class Lock(Protocol):
    """The right to write a database, until it is released or its process ends."""

    def release(self) -> None:
        """Give the right up."""


class Files(Protocol):
    """What a database needs of a disk; every method may raise OSError, `connect` sqlite3.Error as well."""

    def connect(self, path: Path, mode: Literal["rw", "ro"]) -> sqlite3.Connection:
        """A connection in autocommit mode to an existing database file."""

    def open(self, path: Path, *, create: bool = False) -> DataFile:
        """Open a file; with `create` it is made anew, empty, whatever was there."""

    def lock(self, path: Path) -> Lock:
        """Become the owner of a lock file.

        Raises:
            HeldError: somebody else is, and could not be ended.
        """

    def identity(self, path: Path) -> int:
        """Which file lies there now, told from any that was renamed over it; 0 = none."""

    def size(self, path: Path) -> int:
        """Length of a file, bytes."""

    def make_directory(self, path: Path) -> None:
        """Make a private directory, and those above it where they are missing."""

    def sync_directory(self, path: Path) -> None:
        """Make what was created, renamed and removed in a directory durable."""

    def rename(self, source: Path, target: Path) -> None:
        """Put a file in another's place at one stroke."""

    def remove(self, path: Path) -> None:
        """Remove a file; nothing happens where there is none."""

    def new_uuid(self) -> str:
        """A name that no other database has."""


class _RealFile:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, offset: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def write(self, data: bytes, offset: int) -> None:
        written = os.pwrite(self._fd, data, offset)
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], offset + written)

    def allocate(self, size: int) -> None:
        os.posix_fallocate(self._fd, 0, size)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class RealFiles:
    """The disk of this machine."""

    def connect(self, path: Path, mode: Literal["rw", "ro"]) -> sqlite3.Connection:
        """See `Files`."""
        return sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False,
            cached_statements=STATEMENTS_MAX, timeout=BUSY_TIMEOUT_S)

    def open(self, path: Path, *, create: bool = False) -> DataFile:
        """See `Files`."""
        flags = os.O_CREAT | os.O_TRUNC if create else 0
        return _RealFile(os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600))

    def lock(self, path: Path) -> Lock:
        """See `Files`."""
        return OwnerLock(path)

    def identity(self, path: Path) -> int:
        """See `Files`."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return path.stat().st_ino
        return 0

    def size(self, path: Path) -> int:
        """See `Files`."""
        return path.stat().st_size

    def make_directory(self, path: Path) -> None:
        """See `Files`."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def sync_directory(self, path: Path) -> None:
        """See `Files`."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See `Files`."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """See `Files`."""
        path.unlink(missing_ok=True)

    def new_uuid(self) -> str:
        """See `Files`."""
        return uuid.uuid4().hex


REAL_FILES: Final[Files] = RealFiles()
