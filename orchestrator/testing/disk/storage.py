"""A disk that forgets, fills and fails: what a power loss leaves of a file is what was synced, and any part of the rest.

The production stores run on it (`SimulatedDisk.files` is their files port; SQLite reaches it through
`orchestrator.testing.disk.vfs`), so what is proved here is proved of the product and not of a model of it.

- A write goes to the page cache. A sync of the file makes its writes durable.
- A power loss keeps what is durable and any subset of the unsynced writes. A sector of 512 bytes is written whole, but a
  write of several may be cut between them; the last one that arrives may be cut at any byte.
- What was created, renamed or removed in a directory is durable once the directory was synced; before, any subset is lost.
- The death of a process keeps the page cache.
- A sync that fails marks the pages clean: a later sync succeeds, and a power loss forgets them all the same.

Everything is drawn from the seed, and no time passes. The salts of SQLite's write-ahead log alone are not (they come from
the library's own generator): the bytes differ from run to run, what becomes of them does not.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.testing.disk.inode import Change, Handle, Inode
from orchestrator.testing.disk.simulated_files import SimulatedFiles
from orchestrator.testing.simulation.life import Crashed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.files import Files
    from orchestrator.testing.disk.vfs import SimulatedConnection

Operation = Literal["write", "sync", "truncate", "create", "rename", "remove", "sync_directory"]


class _Fault:
    """A failure that is due."""

    def __init__(self, error: int, path: str, after: int, times: int, applied: bool | None) -> None:  # noqa: FBT001 - all of `fail`
        self.error, self.path, self.after, self.times, self.applied = error, path, after, times, applied


class SimulatedDisk:
    """One disk with its page cache, and the processes that use it: one for each database.

    Args:
        seed: of everything that is drawn.
        capacity: bytes; None = never full.

    Attributes:
        files: the port for the production stores.
        on_point: called with path and operation before each change; it may call `power_loss` or `process_kill`, upon which
            the running code meets `Crashed`.
        capacity: bytes; may be changed at any time.
        crashes: how often each kind of failure has struck, by name.
    """

    def __init__(self, seed: int | str = 0, *, capacity: int | None = None) -> None:
        self.seed = seed
        self.files: Files = SimulatedFiles(self)
        self.on_point: Callable[[str, Operation], None] | None = None
        self.capacity = capacity
        self.crashes: dict[str, int] = {}
        self.connections: list[SimulatedConnection] = []
        self._random = random.Random(f"disk/{seed}")
        self._names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._unsynced_names: list[tuple[tuple[str, Inode | None], ...]] = []  # a rename is one change of two names
        self._handles: list[Handle] = []
        self._faults: dict[str, list[_Fault]] = {}
        self._last_killed: Callable[[str], bool] | None = None
        self._used = 0
        self._number = 0

    def __repr__(self) -> str:
        return f"SimulatedDisk(seed={self.seed!r}, files={len(self._names)}, bytes={self._used})"

    @property
    def used(self) -> int:
        """Bytes taken."""
        return self._used

    # ---- what befalls it ------------------------------------------------------------------------------------------

    def fork(self, seed: int | str) -> SimulatedDisk:
        """A disk of its own that begins with what this one holds now, all of it durable; cheap."""
        other = SimulatedDisk(seed, capacity=self.capacity)
        for path, inode in self._names.items():
            copy = Inode(bytes(inode.cached))
            copy.reserved = inode.reserved
            other._names[path] = other._durable_names[path] = copy
        other._used = self._used
        return other

    def power_loss(self) -> None:
        """Every process is gone, and so is what was not synced, but for any part of it."""
        self._count("power_loss")
        self._kill(lambda _: True)
        share = self._random.choice((0.0, 0.25, 0.5, 0.75, 1.0))
        for named in self._unsynced_names:
            if self._random.random() < share:
                _set_names(self._durable_names, named)
        self._unsynced_names.clear()
        for inode in dict.fromkeys((*self._names.values(), *self._durable_names.values())):
            inode.lose_unsynced(self._random, share)
        self._names = dict(self._durable_names)
        self._used = sum(inode.size for inode in self._names.values())

    def process_kill(self, database: Path) -> None:
        """The process that owns a database is killed; the page cache, and so everything it wrote, stays."""
        self._count("process_kill")
        self._kill(lambda path: _belongs(path, str(database)))

    def fail(
        self, operation: Operation, error: int, *, path: str = "", after: int = 0, times: int = 1, applied: bool | None = None,
    ) -> None:
        """Have operations fail.

        Args:
            operation: which.
            error: an errno.
            path: only on files whose path ends so.
            after: so many of them succeed first.
            times: so many fail then.
            applied: whether the disk did it all the same; None = drawn each time. (Of a failed sync: what was not applied
                is not written by a later one either.)
        """
        self._faults.setdefault(operation, []).append(_Fault(error, path, after, times, applied))

    def heal(self) -> None:
        """Nothing fails any more, unless it is full."""
        self._faults.clear()

    # ---- what the port and SQLite do with it ----------------------------------------------------------------------

    def find(self, path: str) -> Inode | None:
        """The file of that name."""
        return self._names.get(path)

    def contents(self) -> dict[str, bytes]:
        """What every file reads as, by path."""
        return {path: bytes(inode.cached) for path, inode in self._names.items()}

    def store(self, path: str, content: bytes) -> None:
        """Put a durable file there, as somebody would who tampers with it."""
        self._names[path] = self._durable_names[path] = Inode(content)
        self._unsynced_names = [named for named in self._unsynced_names if path not in dict(named)]
        self._used = sum(inode.size for inode in self._names.values())

    def copy_of(self, paths: Iterable[str]) -> SimulatedDisk:
        """A disk with what the page cache holds of some files."""
        other = SimulatedDisk()
        for path in paths:
            inode = self._names.get(path)
            if inode is not None:
                other.store(path, bytes(inode.cached))
        return other

    def open(self, path: str, *, create: bool = False) -> Handle:
        """A handle on a file.

        Raises:
            OSError: it is missing, or cannot be made.
        """
        inode = self._names.get(path)
        if create:
            if inode is None:
                inode = Inode()
                self._change_names("create", path, (path, inode))
        elif inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        handle = Handle(path, inode or Inode())
        self._handles.append(handle)
        return handle

    def close(self, handle: Handle) -> None:
        """Give a handle up."""
        handle.alive = False
        if handle in self._handles:
            self._handles.remove(handle)

    def write(self, handle: Handle, data: bytes, offset: int) -> None:
        """Write to the page cache."""
        self._change(handle, "write", Change(offset, data), offset + len(data))

    def truncate(self, handle: Handle, size: int) -> None:
        """Cut or grow a file."""
        self._change(handle, "truncate", Change(size, None), size)

    def allocate(self, handle: Handle, size: int) -> None:
        """Set blocks aside."""
        self._point(handle, "write")
        self._take(max(size - handle.inode.size, 0))
        handle.inode.reserved = max(handle.inode.reserved, size)

    def sync(self, handle: Handle) -> None:
        """Make a file's writes durable."""
        self._point(handle, "sync")
        inode = handle.inode
        fault = self._due("sync", handle.path)
        if fault is None:
            inode.sync()
            return
        share = {True: 1.0, False: 0.0, None: self._random.random()}[fault.applied]
        inode.sync_part(self._random, share)
        raise OSError(fault.error, os.strerror(fault.error), handle.path)

    def rename(self, source: str, target: str) -> None:
        """Put a file in another's place."""
        inode = self._names.get(source)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        self._change_names("rename", target, (target, inode), (source, None))

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        if path in self._names:
            self._change_names("remove", path, (path, None))

    def sync_directory(self, directory: str) -> None:
        """Make the names in a directory durable."""
        self._point_at(directory, "sync_directory")
        fault = self._due("sync_directory", directory)
        if fault is not None and not fault.applied:
            raise OSError(fault.error, os.strerror(fault.error), directory)
        kept = []
        for named in self._unsynced_names:
            if any(path.rpartition("/")[0] == directory for path, _ in named):
                _set_names(self._durable_names, named)
            else:
                kept.append(named)
        self._unsynced_names = kept
        if fault is not None:
            raise OSError(fault.error, os.strerror(fault.error), directory)

    def lock(self, path: str) -> Handle:
        """Own a lock file; whoever held it is killed, as the production lock does it."""
        if any(handle.path == path for handle in self._handles):
            self.process_kill(Path(path.removesuffix(".lock")))
        handle = Handle(path, Inode())
        self._handles.append(handle)
        return handle

    def number(self) -> int:
        """1, 2, 3, ..."""
        self._number += 1
        return self._number

    # ---- beneath --------------------------------------------------------------------------------------------------

    def _change(self, handle: Handle, operation: Operation, change: Change, size: int) -> None:
        self._point(handle, operation)
        fault = self._due(operation, handle.path) if self._faults else None
        if fault is None or self._draws(fault):
            inode = handle.inode
            before = inode.size
            if size > before:
                self._take(size - before)
            inode.change(change)
            if operation == "truncate":
                inode.reserved = min(inode.reserved, size)
                self._used -= max(before - inode.size, 0)
        if fault is not None:
            raise OSError(fault.error, os.strerror(fault.error), handle.path)

    def _change_names(self, operation: Operation, at: str, *named: tuple[str, Inode | None]) -> None:
        self._point_at(at, operation)
        fault = self._due(operation, at)
        if fault is not None and not fault.applied:
            raise OSError(fault.error, os.strerror(fault.error), at)
        _set_names(self._names, named)
        self._unsynced_names.append(named)
        self._used = sum(inode.size for inode in self._names.values())
        if fault is not None:
            raise OSError(fault.error, os.strerror(fault.error), at)

    def _take(self, grown: int) -> None:
        if self.capacity is not None and self._used + grown > self.capacity:
            self._count("disk_full")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._used += grown

    def _point(self, handle: Handle, operation: Operation) -> None:
        if handle.alive:
            self._call(handle.path, operation)
        if not handle.alive:
            raise Crashed

    def _point_at(self, path: str, operation: Operation) -> None:
        """A point of a name: who acts is told by whose file it is; in a directory it may be anybody."""
        self._last_killed = None
        self._call(path, operation)
        killed = self._last_killed
        if killed is not None and (operation == "sync_directory" or killed(path)):
            raise Crashed

    def _call(self, path: str, operation: Operation) -> None:
        if self.on_point is not None:
            self.on_point(path, operation)

    def _due(self, operation: Operation, path: str) -> _Fault | None:
        for fault in self._faults.get(operation, ()):
            if not path.endswith(fault.path) or not fault.times:
                continue
            if fault.after:
                fault.after -= 1
                continue
            fault.times -= 1
            self._count(f"{operation}_{errno.errorcode[fault.error]}")
            return fault
        return None

    def _draws(self, fault: _Fault) -> bool:
        return bool(self._random.getrandbits(1)) if fault.applied is None else fault.applied

    def _kill(self, chosen: Callable[[str], bool]) -> None:
        self._last_killed = chosen
        for handle in [handle for handle in self._handles if chosen(handle.path)]:
            handle.alive = False
            self._handles.remove(handle)
        for connection in [connection for connection in self.connections if chosen(connection.path)]:
            self.connections.remove(connection)
            connection.kill()

    def _count(self, what: str) -> None:
        self.crashes[what] = self.crashes.get(what, 0) + 1


def _set_names(names: dict[str, Inode], named: tuple[tuple[str, Inode | None], ...]) -> None:
    for path, inode in named:
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


def _belongs(path: str, database: str) -> bool:
    """Whether a file is a database or lies beside one: its write-ahead log, mark, lock, ballast, copies."""
    return path == database or path.startswith((f"{database}-", f"{database}."))
