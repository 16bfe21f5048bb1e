"""Observes a deployment for `orchestrator.advice`: its actors' words, its log, its disk, how it is reached."""

from __future__ import annotations

import ipaddress
import os
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from orchestrator.advice import Observed
from orchestrator.log.reader import LogReader
from orchestrator.logs import redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.deployment import DataDirectory, DeploymentRecord
    from orchestrator.protocol.records import Pause


def observe(directory: DataDirectory, record: DeploymentRecord, actors: Sequence[Mapping[str, Any]]) -> Observed:
    """What `advise` judges, as it is now.

    Args:
        directory: the data directory.
        record: of the deployment that runs there.
        actors: what they have just said of themselves.

    Raises:
        DefiniteError: E_STORE_REFUSED: the log cannot be read.
    """
    now_ms = time.time_ns() // 1_000_000
    with closing(LogReader(directory.log_path)) as log:
        backlog, pauses = log.backlog(now_ms), log.pauses()
    disk = os.statvfs(directory.path)
    return Observed(
        actors=actors, backlog=backlog, now_ms=now_ms, without_ballast=without_ballast(directory, record.services),
        free_bytes=disk.f_bavail * disk.f_frsize, open_to=open_to(record, os.environ),
        paused=[told_pause(pause) for pause in pauses.paused])


def told_pause(pause: Pause) -> str:
    """What is paused, by whom and why."""
    what = f"service {pause.service}" if pause.service else f"saga {pause.saga}"
    return f"{what} (by {redact(pause.who)}{f': {redact(pause.reason)}' if pause.reason else ''})"


def without_ballast(directory: DataDirectory, services: Sequence[str]) -> list[str]:
    """Databases that are here and have given their ballast up, by their paths in the data directory."""
    databases = [directory.log_path, *(directory.service_path(name) for name in services)]
    return [str(path.relative_to(directory.path)) for path in databases
            if path.exists() and not path.with_name(f"{path.name}.ballast").exists()]


def open_to(record: DeploymentRecord, environment: Mapping[str, str]) -> str:
    """The address of a cluster that was joined, is reached from elsewhere and asks nobody for a token; empty if it is not."""
    secured = record.own_head or record.token_path or environment.get("RAY_AUTH_MODE", "") == "token"
    host = record.address.rpartition(":")[0]
    return "" if secured or not host or _is_loopback(host) else record.address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
