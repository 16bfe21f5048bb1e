"""A spare worker process: what an actor that died is restarted in, without waiting for Python and its imports.

Starting an interpreter with Ray and an app in it is most of the time between an actor's death and its successor's first
reply. Ray takes an idle worker for a restarted actor if it has one that has run nothing yet; so one is always kept, on an
own head. The modules in it are loaded beforehand by Ray (`preload_python_modules`, see `orchestrator.head`).
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated.common_pb2 import Language
from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

PERIOD_S = 1.0  # Ray has no event for "the spare worker was taken"
_KEPT_S = 3_600  # while idle; it is asked for again long before
_ANSWER_S = 60.0  # Ray answers once the worker is there


class SpareWorker:
    """Keeps one idle worker on the node of this process until it is closed.

    Failing at it is harmless: an actor then waits for a process to start.
    """

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._channel = init_grpc_channel(_address())
        threading.Thread(target=self._keep, args=(_request(),), name="raytx-spare", daemon=True).start()

    def close(self) -> None:
        """Keep none any more; a request under way is given up."""
        self._closed.set()
        self._channel.close()

    def _keep(self, request: Any) -> None:
        prestart = NodeManagerServiceStub(self._channel).PrestartWorkers
        while not self._closed.is_set():
            with contextlib.suppress(grpc.RpcError, ValueError):  # the raylet is gone, or the channel closed
                prestart(request, timeout=_ANSWER_S)
            self._closed.wait(PERIOD_S)


def _request() -> Any:
    """For one worker with this job's empty environment; if it is there already, Ray starts none."""
    request = PrestartWorkersRequest(
        language=Language.PYTHON, job_id=ray.get_runtime_context().job_id.binary(), keep_alive_duration_secs=_KEPT_S,
        num_workers=1)
    request.runtime_env_info.serialized_runtime_env = "{}"
    return request


def _address() -> str:
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
