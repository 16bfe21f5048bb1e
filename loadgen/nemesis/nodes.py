"""A Ray cluster of several nodes on this machine, each a process that can be stopped, cut off and replaced."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.head import write_private
from orchestrator.ownership import Holder
from orchestrator.processes import end_all, identify

STORE, SHARD = "raytx_store", "raytx_shard"  # resources of the nodes that may hold databases, and shards
_MANY = 1_000
_STOP_S_MAX = 20.0
_STARTS_MAX = 3
_ENVIRONMENT = {  # as orchestrator.head sets it, and health checks that notice a death of a node in about 2 s
    "RAY_worker_niceness": "0",
    "RAY_timeout_ms_task_wait_for_death_info": "50",
    "RAY_core_worker_internal_heartbeat_ms": "50",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_AUTH_MODE": "token",
}


@dataclass(slots=True)
class RayNode:
    """One node that runs."""

    ip: str
    gcs: str
    raylet: Holder
    process: subprocess.Popen[bytes]

    def hosts(self, process: Holder) -> bool:
        """Whether that process is a worker of this node: a raylet is the parent of its workers."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(process.pid).ppid() == self.raylet.pid
        return False

    def processes(self) -> list[Holder]:
        """The node's process and all below it."""
        try:
            tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        return [found for child in tree if (found := identify(child.pid)) is not None]


class Nodes:
    """The nodes of one cluster; the first one that is started is its head.

    Args:
        directory: a private directory with a short path, for sockets, logs and the token.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, token = directory, directory / "token"
        write_private(token, secrets.token_hex(32))
        self.environment: Mapping[str, str] = os.environ | _ENVIRONMENT | {"RAY_AUTH_TOKEN_PATH": str(token)}
        self.gcs = ""
        self._all: list[RayNode] = []

    def start(self, ip: str, resources: Sequence[str] = (), command: Sequence[str] = ()) -> RayNode:
        """Start a node and wait until it is up.

        Args:
            ip: the node's address; no two nodes share one.
            resources: `STORE`, `SHARD`.
            command: what comes before its command, such as `ip netns exec NAME`.

        Raises:
            IndefiniteError: E_UNREACHABLE: it did not come up, more than once.
        """
        arguments = [
            *command, sys.executable, "-m", "loadgen.nemesis.node", "--temp-dir", str(self._directory), "--ip", ip,
            "--gcs", self.gcs, "--resources", json.dumps(dict.fromkeys(resources, _MANY))]
        for _ in range(_STARTS_MAX):  # Ray gives a node 30 s, which a machine that is full of work may exceed
            node = self._try(ip, arguments)
            if node is not None:
                self.gcs = self.gcs or node.gcs
                self._all.append(node)
                return node
        last = self._said(ip).read_text(errors="replace").strip().rpartition("\n")[2]
        raise IndefiniteError(ErrorCode.UNREACHABLE, f"no Ray node came up at {ip}: {last}")

    def _try(self, ip: str, arguments: Sequence[str]) -> RayNode | None:
        with self._said(ip).open("ab") as errors:
            process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(self.environment))
        assert process.stdout is not None
        told: dict[str, Any] = json.loads(process.stdout.readline() or b"{}")
        raylet = identify(told["raylet"]) if told else None
        if raylet is None:
            _end(process)
            return None
        return RayNode(ip, told["gcs"], raylet, process)

    def _said(self, ip: str) -> Path:
        return self._directory / f"node-{ip}.log"

    def end(self, node: RayNode) -> None:
        """End a node and everything that is left of it."""
        self._all.remove(node)
        left = node.processes()
        _end(node.process)
        end_all(left)

    def close(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(list(self._all)):
            self.end(node)


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
