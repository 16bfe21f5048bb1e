"""A PostgreSQL server for one run: a new cluster in a temporary directory, on a Unix socket, as an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

USER = "postgres"  # the account that the packages make; a server refuses to run as root
INSTALLED = Path("/usr/lib/postgresql")
START_S_MAX = 60


class Server:
    """A running server.

    Attributes:
        url: for SQLAlchemy with psycopg.
    """

    def __init__(self, directory: Path) -> None:
        self.url = f"postgresql+psycopg://{USER}@/{USER}?host={directory}"
        self._pid = int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])

    def cpu_s(self) -> float:
        """CPU of the server and of its processes that live, user and system, in seconds."""
        server = psutil.Process(self._pid)
        return sum(_cpu_s(process) for process in [server, *server.children(recursive=True)])


def programs() -> Path | None:
    """Where the newest installed server's programs lie; None where none is."""
    found = sorted(INSTALLED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def postgres_server(scratch: str = "") -> Iterator[Server]:
    """A server with the default settings (so that every commit is synced), which listens on a Unix socket only.

    Args:
        scratch: directory to make its own in; "": the system's.

    Raises:
        FileNotFoundError: none is installed.
        subprocess.CalledProcessError: it did not start.
    """
    installed = programs()
    if installed is None:
        raise FileNotFoundError(f"no PostgreSQL server in {INSTALLED}: install the package postgresql")
    directory = Path(tempfile.mkdtemp(prefix="raytx-pg-", dir=scratch or None))
    try:
        if os.getuid() == 0:
            owner = pwd.getpwnam(USER)
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        data = directory / "data"
        _run([installed / "initdb", "-D", data, "-U", USER, "-A", "trust", "--no-instructions"], directory)
        options = f"-k {directory} -c listen_addresses=''"
        _run([installed / "pg_ctl", "-D", data, "-l", directory / "log", "-t", START_S_MAX, "-w", "-o", options, "start"],
             directory)
        try:
            yield Server(directory)
        finally:
            _run([installed / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], directory)
    finally:
        shutil.rmtree(directory)


def _run(command: list[object], directory: Path) -> None:
    words = [str(word) for word in command]
    as_user = {"user": USER, "group": USER, "extra_groups": []} if os.getuid() == 0 else {}
    subprocess.run(  # noqa: S603 - PostgreSQL's own programs
        words, check=True, cwd=directory, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **as_user)  # type: ignore[call-overload]


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
