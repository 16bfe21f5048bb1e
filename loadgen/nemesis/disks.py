"""Faults of the disk under a running deployment: what strace injects into an actor's system calls, and a full file system."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.ownership import Holder
from orchestrator.processes import is_alive

DELAY_US = 400_000
FULL_BYTES_MAX = 4 * 1024**3  # a larger file system is not one made for this
_CHUNK = 1024 * 1024
_STOP_S_MAX = 5.0


def strace_is_there() -> bool:
    """Whether strace can be run."""
    return shutil.which("strace") is not None


@contextmanager
def injected(process: Holder, calls: Sequence[str], what: str) -> Iterator[None]:
    """While in the context, strace injects `what` into those system calls of a process, all its threads included.

    Args:
        process: whose.
        calls: names of system calls.
        what: in strace's words: `signal=SIGKILL:when=7`, `error=EIO:when=3`, `delay_enter=400000`.
    """
    names = ",".join(calls)
    tracer = subprocess.Popen(  # noqa: S603 - a fixed command
        ["strace", "-f", "-qq", "-p", str(process.pid), "-o", "/dev/null",  # noqa: S607 - found on the path
         "-e", f"trace={names}", "-e", f"inject={names}:{what}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        tracer.terminate()  # it lets its process go
        try:
            tracer.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT) if is_alive(process) else None


def wait_end(process: Holder, limit_s: float) -> bool:
    """Wait for a process's end; returns whether it ended."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        return not is_alive(process) or bool(select.select([pidfd], [], [], limit_s)[0])
    finally:
        os.close(pidfd)


@contextmanager
def full_disk(directory: Path) -> Iterator[int]:
    """While in the context, no byte is free on the directory's file system; gives how many were taken.

    Raises:
        DefiniteError: E_CONFIG: it is too large a file system to be one made for this.
    """
    there = os.statvfs(directory)
    if there.f_blocks * there.f_frsize > FULL_BYTES_MAX:
        raise DefiniteError(
            ErrorCode.CONFIG, f"{directory} lies on a file system of more than {FULL_BYTES_MAX >> 30} GB: it is not filled")
    fd, name = tempfile.mkstemp(dir=directory, prefix="filler-")
    taken = 0
    try:
        for chunk in (_CHUNK, 4096):
            with suppress(OSError):  # ENOSPC ends it
                while True:
                    os.posix_fallocate(fd, taken, chunk)
                    taken += chunk
        yield taken
    finally:
        os.close(fd)
        Path(name).unlink()


@contextmanager
def small_disk(size_mb: int) -> Iterator[Path]:
    """A tmpfs of that size, for the life of the context.

    Raises:
        DefiniteError: E_CONFIG: it cannot be mounted here.
    """
    where = Path(tempfile.mkdtemp(prefix="raytx-disk-"))
    try:
        made = subprocess.run(  # noqa: S603 - a fixed command
            ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700", "tmpfs", str(where)],  # noqa: S607
            capture_output=True, text=True, check=False)
        if made.returncode:
            raise DefiniteError(ErrorCode.CONFIG, f"no tmpfs can be mounted here ({made.stderr.strip()}): run it as root")
        try:
            yield where
        finally:
            subprocess.run(["umount", "-l", str(where)], check=False)  # noqa: S603, S607 - as above
    finally:
        where.rmdir()
