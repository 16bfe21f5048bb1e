"""A small file system for a test, and a way to fill it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def mount(where: Path, mebibytes: int) -> Iterator[Path]:
    """A tmpfs of that size; skips the test where it may not be mounted (it needs root)."""
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", str(where)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs may not be mounted here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def fill(directory: Path) -> None:
    """Take all the room there is."""
    fd = os.open(directory / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(fd, bytes(65536)):
            continue
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(fd)
