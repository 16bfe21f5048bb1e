"""System calls of running processes, counted by strace; it slows them down, so it is never on while time is measured."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

SYNCS = ("fsync", "fdatasync")
COUNTED = (*SYNCS, "sendto", "sendmsg", "recvfrom", "recvmsg", "write", "writev", "read", "pwrite64", "pread64", "epoll_wait",
           "epoll_pwait", "futex")
_ATTACH_S_MAX = 20.0
_END_S_MAX = 20.0


def available() -> bool:
    """Whether strace is installed."""
    return shutil.which("strace") is not None


@contextmanager
def counted(pids: Mapping[str, int]) -> Iterator[dict[str, dict[str, int]]]:
    """Count while the block runs.

    Args:
        pids: processes by name.

    Yields:
        Calls by process and system call, filled at the end of the block; a process that could not be attached to is missing.
    """
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="raytx-strace-") as directory, ExitStack() as ending:
        for name, pid in pids.items():
            report = Path(directory) / name
            process = _attach(pid, report)
            if process is not None:
                ending.callback(_end, process, report, name, found)
        yield found


def parse(report: str) -> dict[str, int]:
    """Calls by name from the table that `strace -c` writes."""
    calls = {}
    for line in report.splitlines():
        words = line.split()
        if len(words) >= 5 and words[-1] in COUNTED and words[3].isdigit():  # noqa: PLR2004 - share, s, us, calls, [errors,] name
            calls[words[-1]] = int(words[3])
    return calls


def _attach(pid: int, report: Path) -> subprocess.Popen[str] | None:
    """Attach, and wait until strace says that it has; None where it may not."""
    command = ["strace", "-f", "-c", "-e", f"trace={','.join(COUNTED)}", "-o", str(report), "-p", str(pid)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603 - fixed words
    assert process.stderr is not None
    line = process.stderr.readline()
    if "attached" in line:
        return process
    process.wait(_ATTACH_S_MAX)
    return None


def _end(process: subprocess.Popen[str], report: Path, name: str, found: dict[str, dict[str, int]]) -> None:
    process.send_signal(signal.SIGINT)  # it detaches and writes its table
    process.wait(_END_S_MAX)
    assert process.stderr is not None
    process.stderr.close()
    found[name] = parse(report.read_text()) if report.exists() else {}
