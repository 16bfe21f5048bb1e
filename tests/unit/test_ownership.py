"""A file has one owner; a successor kills the holder, and nobody who is not the holder."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from orchestrator import ownership
from orchestrator.ownership import HeldError, OwnerLock, end_process
from orchestrator.processes import identify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import pathlib, sys
from orchestrator.ownership import OwnerLock
lock = OwnerLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the file, gives it up when told, and lives on."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        hear(process, "held")
        yield process
        process.kill()


def hear(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    hear(process, "released")


def test_a_live_holder_is_killed(path: Path, holder: subprocess.Popen[str]) -> None:
    OwnerLock(path).release()
    assert holder.wait(timeout=10) == -signal.SIGKILL


def test_a_released_lock_names_nobody(path: Path) -> None:
    OwnerLock(path).release()
    assert path.read_bytes() == b""


def test_who_released_it_is_not_killed_in_its_successors_place(
    path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_go(holder)
    successor = os.open(path, os.O_RDWR)
    fcntl.flock(successor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # and it has not recorded itself yet
    monkeypatch.setattr(ownership, "ACQUIRE_S_MAX", 0.1)
    with pytest.raises(HeldError, match="has not recorded itself"):
        OwnerLock(path)
    assert holder.poll() is None
    os.close(successor)


def test_a_holder_that_is_letting_go_is_not_killed(
    path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        if not pauses:
            let_go(holder)
        pauses.append(seconds)

    monkeypatch.setattr(ownership.time, "sleep", pause)
    OwnerLock(path).release()
    assert holder.poll() is None


def test_nobody_is_killed_who_is_no_longer_the_holder_at_the_last_moment(holder: subprocess.Popen[str]) -> None:
    process = identify(holder.pid)
    assert process is not None
    assert not end_process(process, 0.1, still=lambda: False)
    assert holder.poll() is None


def test_a_lock_that_a_dead_holders_child_keeps_is_waited_for_without_spinning(
    path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    holder.kill()
    holder.wait()
    child = os.open(path, os.O_RDWR)
    fcntl.flock(child, fcntl.LOCK_EX | fcntl.LOCK_NB)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            os.close(child)

    monkeypatch.setattr(ownership.time, "sleep", pause)
    OwnerLock(path).release()
    assert len(pauses) == 3
