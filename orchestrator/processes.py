"""Processes named so that a reused pid is never mistaken for one, and what is left of a Ray head that was killed."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from orchestrator.ownership import Holder, end_process, this_process

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD_PREFIX = "raytx-"  # of the private directories of Ray heads

_DRIVER_LOG = "python-core-driver-"  # Ray's log of a process that is connected but was not started by the head


def identify(pid: int) -> Holder | None:
    """The process that has this pid now; None where there is none."""
    here = this_process()
    started = _started(pid)
    return Holder(here.boot, here.namespace, pid, started) if started else None


def is_alive(process: Holder) -> bool:
    """Whether exactly that process still runs (a zombie does not)."""
    return identify(process.pid) == process


def ask_to_end(process: Holder, wait_s: float) -> bool:
    """SIGTERM exactly that process and wait for its end; returns whether it is gone."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if not is_alive(process):  # read after pidfd_open: from here on the pid cannot be reused
            return True
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        return bool(select.select([pidfd], [], [], wait_s)[0])
    except ProcessLookupError:
        return True
    finally:
        os.close(pidfd)


def end_all(processes: Iterable[Holder], wait_s: float = 5.0) -> list[Holder]:
    """SIGKILL exactly these processes, never this one; returns those that did not end in `wait_s` seconds."""
    end_s = time.monotonic() + wait_s
    others = [process for process in processes if process.pid != os.getpid() and is_alive(process)]
    return [process for process in others if not end_process(process, end_s - time.monotonic()) and is_alive(process)]


def processes_of_head(temp_dir: Path) -> list[Holder]:
    """Processes that belong to the Ray head with this private directory: each keeps a file of it open.

    Workers overwrite their command line and environment, so that open files are the only sure sign. Drivers that are
    merely connected are left out.
    """
    found = []
    for process in psutil.process_iter():
        files = _open_files(process.pid)
        mine = [name for name in files if name.startswith(f"{temp_dir}/")]
        if mine and not any(_DRIVER_LOG in name for name in mine) and process.pid != os.getpid():
            found.append(process.pid)
    return [holder for pid in found if (holder := identify(pid)) is not None]


def remove_head(temp_dir: Path) -> list[Holder]:
    """End every process of a head by its private directory and remove that; returns what could not be ended."""
    left: list[Holder] = []
    if temp_dir.name.startswith(HEAD_PREFIX) and temp_dir.is_dir() and not temp_dir.is_symlink():
        for _ in range(3):  # a raylet that is being killed may have started one more worker
            found = processes_of_head(temp_dir)
            if not found:
                break
            left = end_all(found)
        shutil.rmtree(temp_dir, ignore_errors=True)
    return left


def _open_files(pid: int) -> list[str]:
    names: list[str] = []
    directory = Path(f"/proc/{pid}/fd")
    with contextlib.suppress(OSError):  # it ended, or is another user's
        for number in os.listdir(directory):  # noqa: PTH208 - names are all that is asked for, thousands of them
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                names.append(str((directory / number).readlink()))
    return names


def _started(pid: int) -> int:
    """Start time in clock ticks after boot, 0 for no process or a zombie: fields 3 and 22 of proc_pid_stat(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
