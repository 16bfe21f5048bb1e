"""One Ray node as a process of its own: what a cluster of several nodes on one machine is made of.

Run as `python -m loadgen.nemesis.node`, within a network namespace where it shall be cut off later. It tells one JSON line
when it is up, and ends when its stdin does; the kernel ends the node's servers with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams

OBJECT_STORE_BYTES = 100 * 1024 * 1024


class _Lean(Node):  # type: ignore[misc]  # Ray is untyped
    """Without the dashboard, which nobody here looks at."""

    def start_api_server(self, **_options: Any) -> None:
        """Not among the servers that are started."""
        self._webui_url = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a node until stdin ends; returns the exit code."""
    options = _parse(arguments)
    parameters = RayParams(
        num_cpus=4, object_store_memory=OBJECT_STORE_BYTES, temp_dir=options.temp_dir, node_ip_address=options.ip,
        resources=json.loads(options.resources), dashboard_agent_listen_port=0, no_monitor=True, include_log_monitor=False,
        gcs_address=options.gcs or None, node_manager_port=0)
    node = _Lean(parameters, head=not options.gcs, shutdown_at_exit=False, spawn_reaper=True)
    raylet = node.all_processes["raylet"][0].process.pid
    sys.stdout.write(json.dumps({"gcs": node.gcs_address, "raylet": raylet}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadgen.nemesis.node", description="One Ray node.")
    parser.add_argument("--temp-dir", required=True, help="the cluster's private directory, a short path")
    parser.add_argument("--ip", required=True, help="the node's address")
    parser.add_argument("--gcs", default="", help="address of the GCS; a head where there is none")
    parser.add_argument("--resources", default="{}", help="JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
