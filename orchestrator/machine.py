"""What `raytx doctor` reads of a machine: versions, disk, clock, limits; every reading is taken once, as it is asked for."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import resource
import socket
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

FSYNCS = 20
FSYNC_BYTES = 4_096
CLOCK_WATCH_S = 0.2


class Machine:
    """This machine, as the checks of `orchestrator.checkup` see it.

    Args:
        data: the data directory, which need not exist.
        watch_s: for how long the clock is watched.
    """

    def __init__(self, data: Path, watch_s: float = CLOCK_WATCH_S) -> None:
        self.data = data.expanduser().absolute()
        self._watch_s = watch_s

    def python(self) -> tuple[int, int, int]:
        """The version of this interpreter."""
        return sys.version_info[:3]

    def package(self, name: str) -> str:
        """The installed version of a package; empty if there is none."""
        try:
            return version(name)
        except PackageNotFoundError:
            return ""

    def imports(self, module: str) -> str:
        """Why a module cannot be imported; empty if it can."""
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return f"{type(error).__name__}: {error}"
        return ""

    def sqlite(self) -> tuple[int, ...]:
        """The version of the SQLite library."""
        return sqlite3.sqlite_version_info

    # ---- disk -----------------------------------------------------------------------------------------------------

    @property
    def place(self) -> Path:
        """The data directory, or where it would be made: the nearest directory above it that exists."""
        return next(path for path in (self.data, *self.data.parents) if path.exists())

    def file_system(self) -> str:
        """The kind of file system of the data directory, as the kernel names it; empty where it cannot be told."""
        place = self.place.resolve()
        mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
        return next((mounts[path] for path in (place, *place.parents) if path in mounts), "")

    def free_bytes(self) -> int:
        """Room for this user on the disk of the data directory."""
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize

    def fsync_ms(self) -> list[float]:
        """How long each of some small appends with fsync takes, sorted.

        Raises:
            OSError: the disk refuses it.
        """
        taken = []
        with self._scratch() as file:
            for _ in range(FSYNCS):
                os.write(file, b"\0" * FSYNC_BYTES)
                began_ns = time.perf_counter_ns()
                os.fsync(file)
                taken.append((time.perf_counter_ns() - began_ns) / 1e6)
        return sorted(taken)

    def locks(self) -> bool:
        """Whether a second flock of one file is refused, as it must be.

        Raises:
            OSError: there are no locks at all.
        """
        with self._scratch() as first:
            second = os.open(f"/proc/self/fd/{first}", os.O_RDWR)
            try:
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(second)
        return False

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[int]:
        with tempfile.NamedTemporaryFile(dir=self.place, prefix=".raytx-doctor-") as file:
            yield file.fileno()

    def mode(self) -> int | None:
        """The permission bits of the data directory; None if it is not there."""
        return stat.S_IMODE(self.data.stat().st_mode) if self.data.exists() else None

    def is_directory(self) -> bool:
        """Whether the data directory is one, or nothing yet."""
        return self.data.is_dir() or not self.data.exists()

    def readable_by_others(self) -> list[str]:
        """Files of the data directory that others than their owner may read or write, at most ten."""
        if not self.data.is_dir():
            return []
        found = (path for path in self.data.rglob("*") if path.is_file() and path.stat().st_mode & 0o077)
        return [str(path.relative_to(self.data)) for path, _ in zip(found, range(10), strict=False)]

    def not_mine(self) -> list[str]:
        """Files of the data directory that belong to another user, at most ten."""
        if not self.data.is_dir():
            return []
        found = (path for path in (self.data, *self.data.rglob("*")) if path.lstat().st_uid != os.geteuid())
        return [str(path) for path, _ in zip(found, range(10), strict=False)]

    # ---- clock and limits -----------------------------------------------------------------------------------------

    def clock(self) -> tuple[float, float]:
        """By how many ms the wall clock went otherwise than the monotonic one in a short while, and the monotonic step."""
        wall_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        time.sleep(self._watch_s)
        wall, mono = time.time_ns() - wall_ns, time.monotonic_ns() - mono_ns
        return (wall - mono) / 1e6, mono / 1e6

    def now_ms(self) -> int:
        """Unix time."""
        return time.time_ns() // 1_000_000

    def newest_ms(self) -> int | None:
        """The newest modification of a file of the data directory, Unix ms; None where there is none."""
        if not self.data.is_dir():
            return None
        return max((int(path.stat().st_mtime * 1_000) for path in self.data.rglob("*") if path.is_file()), default=None)

    def open_files(self) -> int:
        """How many files a process may have open."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def memory_bytes(self) -> int:
        """Memory that processes can still get without swapping; in a container what its limit leaves."""
        return min(psutil.virtual_memory().available, _left_in_group())

    def processors(self) -> int:
        """How many this process may run on."""
        return len(os.sched_getaffinity(0))

    # ---- ports and Ray --------------------------------------------------------------------------------------------

    def listens(self, port: int) -> str:
        """Why nobody can listen on a port of the loopback interface; empty if one can. Port 0 is any."""
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
                one.listen()
            except OSError as error:
                return error.strerror or str(error)
        return ""

    def resolves(self) -> str:
        """Why this host's own name has no address; empty if it has one."""
        try:
            socket.getaddrinfo(socket.gethostname(), None)
        except OSError as error:
            return str(error)
        return ""

    def socket_directory(self) -> str:
        """Where sockets are made."""
        return tempfile.gettempdir()

    def variable(self, name: str) -> str:
        """A variable of the environment; empty where it is not set."""
        return os.environ.get(name, "")

    def starts_ray(self) -> float:
        """Start an own head, connect, stop it again; seconds.

        Raises:
            RaytxError: it did not start.
        """
        from orchestrator.head import leave, open_head  # noqa: PLC0415 - Ray takes a second to import

        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="raytx-doctor-") as place:
            try:
                open_head(Path(place) / "token", [], dashboard=False)
                return time.monotonic() - began_s
            finally:
                leave()


def _left_in_group() -> int:
    """What the memory limit of this process's control group leaves; without one, more than there is."""
    group = Path("/sys/fs/cgroup")
    for limit, used in ((group / "memory.max", group / "memory.current"),
                        (group / "memory/memory.limit_in_bytes", group / "memory/memory.usage_in_bytes")):
        with contextlib.suppress(OSError, ValueError):
            return max(int(limit.read_text()) - int(used.read_text()), 0)
    return sys.maxsize
