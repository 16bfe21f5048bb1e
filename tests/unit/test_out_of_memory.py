"""The kernel kills a store's process because its memory is used up: what it had acknowledged is there."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, open_reader

SCHEMA = "CREATE TABLE items (number INTEGER PRIMARY KEY, filler BLOB)"
LIMIT_BYTES = 96 * 2**20
GROWING = """
import os, pathlib, sys
pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))
from orchestrator.database import OwnedDatabase
database = OwnedDatabase(pathlib.Path(sys.argv[1]), "shop", "run")
held = []
for number in range(1_000):
    held.append(os.urandom(2**20))
    database.begin()
    database.connection.execute("INSERT INTO items VALUES (?, ?)", (number, held[-1][:1_000]))
    database.commit()
    print(number, flush=True)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory cgroup with little room; yields the file into which a process writes its id to be in it."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    where = Path("/sys/fs/cgroup" if unified else "/sys/fs/cgroup/memory") / f"raytx-{secrets.token_hex(4)}"
    try:
        where.mkdir()
        (where / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(LIMIT_BYTES))
        with suppress(OSError):
            (where / ("memory.swap.max" if unified else "memory.memsw.limit_in_bytes")).write_text(
                "0" if unified else str(LIMIT_BYTES))
    except OSError as error:
        with suppress(OSError):
            where.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error.strerror}")
    yield where / "cgroup.procs"
    where.rmdir()


def test_what_was_acknowledged_before_memory_ran_out_is_there(
    tmp_path: Path, group: Path, occurred: Callable[..., None],
) -> None:
    path = tmp_path / "shop.sqlite"
    create_database(path, SCHEMA, "shop")
    done = subprocess.run(
        [sys.executable, "-c", GROWING, str(path), str(group)], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == -9, done.stderr
    acknowledged = done.stdout.split()
    assert 10 < len(acknowledged) < 200
    OwnedDatabase(path, "shop", "run").close()
    reader = open_reader(path)
    found = [number for (number,) in reader.execute("SELECT number FROM items ORDER BY number")]
    reader.close()
    assert found in (list(range(len(acknowledged))), list(range(len(acknowledged) + 1)))  # the last one may be unsaid
    occurred("80")
