"""Which process is which: pids of one deployment, found without being connected to its Ray cluster.

An actor's process writes its events to `logs/ROLE-PID.jsonl` from the moment it is made, and keeps that file open: this
names it long before it serves, so that it can be killed in the middle of its recovery, and proves that a pid has not been
given to somebody else. The nemesis is not connected to Ray, for Ray ends every process that is when a head is lost.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from orchestrator.deployment import DataDirectory, DeploymentRecord
from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.ownership import Holder
from orchestrator.processes import identify, is_alive, processes_of_head

POLL_S = 0.005
_LOG_FILE = re.compile(r"(.+)-(\d+)\.jsonl")


class Targets:
    """The processes of the deployment on a data directory.

    Args:
        data: the directory; a deployment serves there.
    """

    def __init__(self, data: Path) -> None:
        self.directory = DataDirectory(data)
        self._pause = threading.Event()  # never set: no event tells of a new process

    def actors(self) -> list[str]:
        """Names of all actors as a plan has them: log, services, shards."""
        record = self.record()
        return ["log", *record.services, *(f"shard-{index}" for index in range(record.shards))]

    def record(self) -> DeploymentRecord:
        """The deployment that runs or ran last.

        Raises:
            IndefiniteError: E_UNREACHABLE: none ever did.
        """
        record = self.directory.record()
        if record is None:
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"nothing ever ran on {self.directory.path}")
        return record

    def actor(self, name: str) -> Holder | None:
        """The youngest process of that actor; None while there is none."""
        found = self.incarnations(name)
        return max(found, key=lambda process: process.started) if found else None

    def incarnations(self, name: str) -> list[Holder]:
        """Every living process of that actor: more than one where an older one has not noticed that it was replaced."""
        found = []
        for path in self.directory.path.joinpath("logs").glob(f"{name}-*.jsonl"):
            match = _LOG_FILE.fullmatch(path.name)
            if match is None or match[1] != name:
                continue
            process = identify(int(match[2]))
            if process is not None and _has_open(process.pid, path):
                found.append(process)
        return found

    def server(self, name: str) -> Holder | None:
        """A server of the own head: gcs_server or raylet."""
        for process in processes_of_head(Path(self.record().temp_dir)):
            with suppress(psutil.NoSuchProcess):
                if psutil.Process(process.pid).name() == name:
                    return process
        return None

    def everything(self) -> list[Holder]:
        """All processes of the deployment, its keeper first."""
        record = self.record()
        return [record.owner, *processes_of_head(Path(record.temp_dir))]

    def successor(self, name: str, before: Holder | None, limit_s: float) -> Holder | None:
        """Wait for a younger process of an actor than `before`; None where there is none in time."""
        return dict(self.successors({name: before}, limit_s)).get(name)

    def successors(self, before: Mapping[str, Holder | None], limit_s: float) -> Iterator[tuple[str, Holder]]:
        """Each actor's younger process as soon as it is seen; not of those that have none in time.

        Args:
            before: the process that is to be succeeded, by actor.
            limit_s: for all of them.
        """
        waiting, end_s = dict(before), time.monotonic() + limit_s
        while waiting and time.monotonic() < end_s:
            for name, old in list(waiting.items()):
                found = self.actor(name)
                if found is not None and found != old and (old is None or found.started >= old.started):
                    del waiting[name]
                    yield name, found
            self._pause.wait(POLL_S)

    def has_logged(self, name: str, process: Holder, event: str) -> bool:
        """Whether that process of an actor has written an event of that name."""
        path = self.directory.path / "logs" / f"{name}-{process.pid}.jsonl"
        return path.is_file() and f'"event":"{event}"' in path.read_text(errors="replace")

    def wait_serving(self, other_than: str, limit_s: float) -> bool:
        """Wait until a deployment with another run than that serves; returns whether it does."""
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            record = self.directory.running()
            if record is not None and record.state == "serving" and record.run != other_than:
                return True
            self._pause.wait(POLL_S * 10)
        return False


def send(process: Holder, number: signal.Signals) -> bool:
    """Send a signal to exactly that process; returns whether it was there."""
    if not is_alive(process):
        return False
    try:
        psutil.Process(process.pid).send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def _has_open(pid: int, path: Path) -> bool:
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if entry.readlink() == path:
                    return True
    return False
