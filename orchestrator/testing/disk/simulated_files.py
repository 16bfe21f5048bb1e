"""The files port over a simulated disk."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Literal

from orchestrator.testing.disk.vfs import open_connection
from orchestrator.testing.simulation.life import Crashed

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from orchestrator.files import DataFile, Lock
    from orchestrator.testing.disk.inode import Handle
    from orchestrator.testing.disk.storage import SimulatedDisk


class SimulatedFiles:
    """The files port over a simulated disk; see `orchestrator.files.Files`."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def connect(self, path: Path, mode: Literal["rw", "ro"]) -> sqlite3.Connection:
        """See `Files`; a reader gets what the page cache holds at this moment."""
        if mode == "rw":
            return open_connection(self._disk, str(path))
        return open_connection(self._disk.copy_of((str(path), f"{path}-wal")), str(path))

    def open(self, path: Path, *, create: bool = False) -> DataFile:
        """See `Files`."""
        handle = self._disk.open(str(path), create=create)
        if create and handle.inode.size:
            self._disk.truncate(handle, 0)
        return _SimulatedFile(self._disk, handle)

    def lock(self, path: Path) -> Lock:
        """See `Files`."""
        return _SimulatedLock(self._disk, self._disk.lock(str(path)))

    def identity(self, path: Path) -> int:
        """See `Files`."""
        inode = self._disk.find(str(path))
        return 0 if inode is None else id(inode)

    def size(self, path: Path) -> int:
        """See `Files`."""
        inode = self._disk.find(str(path))
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return inode.size

    def make_directory(self, path: Path) -> None:
        """See `Files`; directories are always there."""

    def sync_directory(self, path: Path) -> None:
        """See `Files`."""
        self._disk.sync_directory(str(path))

    def rename(self, source: Path, target: Path) -> None:
        """See `Files`."""
        self._disk.rename(str(source), str(target))

    def remove(self, path: Path) -> None:
        """See `Files`."""
        self._disk.remove(str(path))

    def new_uuid(self) -> str:
        """See `Files`; the same in every run."""
        return f"{self._disk.number():032x}"


class _SimulatedFile:
    def __init__(self, disk: SimulatedDisk, handle: Handle) -> None:
        self._disk, self._handle = disk, handle

    def read(self, size: int, offset: int) -> bytes:
        if not self._handle.alive:
            raise Crashed
        return bytes(self._handle.inode.cached[offset : offset + size])

    def write(self, data: bytes, offset: int) -> None:
        self._disk.write(self._handle, data, offset)

    def allocate(self, size: int) -> None:
        self._disk.allocate(self._handle, size)

    def sync(self) -> None:
        self._disk.sync(self._handle)

    def close(self) -> None:
        self._disk.close(self._handle)


class _SimulatedLock:
    def __init__(self, disk: SimulatedDisk, handle: Handle) -> None:
        self._disk, self._handle = disk, handle

    def release(self) -> None:
        self._disk.close(self._handle)
