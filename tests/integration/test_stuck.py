"""Alive and stuck, on a real Ray: the process ends by itself, its successor finishes what was under way."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator import Settings, connect

STUCK_MS = 2_000


def test_a_stuck_service_and_a_stuck_shard_are_started_again(head: None, tmp_path: Path, occurred) -> None:
    data = tmp_path / "data"
    with connect(data, app="integration.stuck_app:app", settings=Settings(stuck_after_ms=STUCK_MS)) as client:
        for where in ("handler", "builder"):
            once = {"where": where, "once": str(tmp_path / where)}
            assert client.submit("put", once, deadline_ms=120_000).outcome(90).committed, where
        restarts = {status["role"]: status["restarts"] for status in client.deployment.statuses()}
    assert restarts == {"log": 0, "drawer": 1, "orchestrator": 1}
    lines = [json.loads(line) for file in (data / "logs").iterdir() for line in file.read_text().splitlines()]
    stuck = {line["role"]: line for line in lines if line["event"] == "stuck"}
    assert {role: line["status"] for role, line in stuck.items()} == {"drawer": "writer", "shard-0": "event loop"}
    assert all("in stick" in line["traceback"] for line in stuck.values())
    occurred("71")
