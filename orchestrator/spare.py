"""Spare worker processes: what an actor that died is restarted in, without waiting for Python and its imports.

Starting an interpreter with Ray and an app in it is most of the time between an actor's death and its successor's first
reply. Ray takes an idle worker for a restarted actor if it has one that has run nothing yet; so some are kept, on an own
head. The modules in them are loaded beforehand by Ray (`preload_python_modules`, see `orchestrator.head`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated.common_pb2 import Language
from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

SPARES = 2  # a service, and the shard or the log that dies with it
PERIOD_S = 2.0  # Ray has no event for "it was taken"; and the next one's start must not compete with the recovery
_LOOK_S = 0.05  # nor for "it is ready"
_KEPT_S = 24 * 3_600  # idle for so long, they are replaced
_ANSWER_S = 60.0
_READY, _STARTING = b"ray::IDLE", b"default_worker.py"  # how an unassigned worker is called once it is ready, and before


class SpareWorkers:
    """Keeps idle workers on the node of this process until it is closed.

    Failing at it is harmless: an actor then waits for a process to start.

    Args:
        raylet: pid of the node's raylet, whose children all workers are.
    """

    def __init__(self, raylet: int) -> None:
        self._raylet = raylet
        self._closed = threading.Event()
        self._channel = init_grpc_channel(_address())
        job = bytes.fromhex(ray.get_runtime_context().get_job_id())
        threading.Thread(target=self._keep, args=(job,), name="raytx-spare", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until all of them are ready; returns whether they are."""
        end_s = time.monotonic() + timeout_s
        while sum(_called(pid, _READY) for pid in unassigned_workers(self._raylet)) < SPARES:
            if time.monotonic() > end_s or self._closed.wait(_LOOK_S):
                return False
        return True

    def close(self) -> None:
        """Keep none any more; a request under way is given up."""
        self._closed.set()
        self._channel.close()

    def _keep(self, job: bytes) -> None:
        prestart = NodeManagerServiceStub(self._channel).PrestartWorkers
        while not self._closed.wait(PERIOD_S):
            missing = SPARES - len(unassigned_workers(self._raylet))
            if missing > 0:
                with contextlib.suppress(grpc.RpcError, ValueError):  # the raylet is gone, or the channel closed
                    prestart(_request(job, missing), timeout=_ANSWER_S)


def unassigned_workers(raylet: int) -> list[int]:
    """Pids of the workers of a raylet that have no actor; those that are just starting, too."""
    found = []
    for thread in Path(f"/proc/{raylet}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found += [int(pid) for pid in thread.read_text(encoding="ascii").split() if _called(int(pid), _READY, _STARTING)]
    return found


def _called(pid: int, *names: bytes) -> bool:
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return any(name in command for name in names)
    return False


def _request(job: bytes, number: int) -> Any:
    """For so many more workers with this job's empty environment."""
    request = PrestartWorkersRequest(
        language=Language.PYTHON, job_id=job, keep_alive_duration_secs=_KEPT_S, num_workers=number)
    request.runtime_env_info.serialized_runtime_env = "{}"
    return request


def _address() -> str:
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
