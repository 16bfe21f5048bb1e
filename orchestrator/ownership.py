"""Who owns a file: an flock that the kernel frees, and a record of its holder that serves only to kill a live one.

Two incarnations of one actor at once are real on Ray: a successor can start while the old process still runs behind a
stopped raylet. The successor must not wait for it for ever, so it kills the recorded holder, but only where boot, pid
namespace and start time prove that the pid still names that very process. A holder takes its name off before it lets go:
whoever is named holds the lock, or is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

ACQUIRE_S_MAX = 10.0
_RECORD_BYTES = 512
_POLL_S = 0.02  # also the grace for a holder that is letting go


class Holder(msgspec.Struct, frozen=True):
    """A process, named so that a reused pid is not mistaken for it."""

    boot: str
    namespace: str  # of pids
    pid: int
    started: int  # clock ticks after boot


class HeldError(Exception):
    """The lock is held by a process that could not be ended: see the message."""


class OwnerLock:
    """An exclusive lock on a file for the life of this process (or until `release`).

    Args:
        path: the lock file; created with mode 0600 where it is missing.

    Raises:
        HeldError: another process holds it and cannot be ended from here; definite.
        OSError: the file cannot be opened; definite.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(path)
            os.pwrite(self._fd, msgspec.json.encode(this_process()).ljust(_RECORD_BYTES), 0)  # in place: no room is needed
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Free the lock; its next holder may not have recorded itself yet when somebody asks whom to kill."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _acquire(self, path: Path) -> None:
        end_s = time.monotonic() + ACQUIRE_S_MAX
        seen: Holder | None = None
        while not _try_lock(self._fd):
            holder = _read_holder(self._fd)
            if holder == this_process():
                raise HeldError(f"{path} is held by this very process")
            if time.monotonic() > end_s:
                raise HeldError(f"{path} is held by {_describe(holder)}")
            if holder is not None and holder == seen and self._end(holder, end_s):
                seen = None
                continue
            seen = holder
            time.sleep(_POLL_S)

    def _end(self, holder: Holder, end_s: float) -> bool:
        return end_process(holder, end_s - time.monotonic(), still=lambda: _read_holder(self._fd) == holder)


def this_process() -> Holder:
    """This process as a holder."""
    return Holder(boot_id(), _namespace(), os.getpid(), _started(os.getpid()))


def end_process(holder: Holder, wait_s: float, *, still: Callable[[], bool] = lambda: True) -> bool:
    """SIGKILL exactly that process and wait for its end.

    Args:
        holder: the process.
        wait_s: how long to wait, seconds.
        still: asked at the last moment whether it is to be killed.

    Returns:
        Whether it is gone; False also where that is not ours to judge.
    """
    if (holder.boot, holder.namespace) != (boot_id(), _namespace()):
        return False
    try:
        pidfd = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return True
    try:
        if _started(holder.pid) != holder.started:  # read after pidfd_open: from here on the pid cannot be reused
            return True
        if not still():
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        ended, _, _ = select.select([pidfd], [], [], max(wait_s, 0))
        return bool(ended)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(pidfd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(fd: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
    except msgspec.DecodeError:
        return None


def _describe(holder: Holder | None) -> str:
    return "a process that has not recorded itself" if holder is None else f"process {holder.pid} (boot {holder.boot})"


def boot_id() -> str:
    """Of this boot of the kernel; another one after every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boot_ms() -> int:
    """Milliseconds since the machine booted, those in which it was suspended included; nobody can set this clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


def _started(pid: int) -> int:
    """Start time of a process in clock ticks after boot, 0 where there is none: field 22 of proc_pid_stat(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[19])
