"""Versions of a saga in flight through restarts, on a real Ray: each ends by its own definition.

What becomes of one that is not deployed is in `unit/test_saga_versions.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from integration import versions_app
from orchestrator.audit import audit
from orchestrator.client import Client
from orchestrator.cluster import attach, start_deployment
from orchestrator.deployment import DataDirectory
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader
from orchestrator.timeline import timeline

WAIT_S = 60


@contextmanager
def running(data: Path, app: str) -> Iterator[Client]:
    """A deployment that is stopped with whatever is open in it."""
    deployment = start_deployment(data, f"integration.versions_app:{app}")
    client = Client(attach(data))
    try:
        yield client
    finally:
        client.close()
        deployment.stop()


def found(data: Path, **query: Any) -> list[Any]:
    with closing(LogReader(DataDirectory(data).log_path)) as log:
        return log.find(TransactionQuery(**query))


def wait_until(is_so: Callable[[], Any]) -> Any:
    """What is true in the end; the log's file tells nobody when it changes."""
    end_s = time.monotonic() + WAIT_S
    while not (so := is_so()):
        assert time.monotonic() < end_s
        time.sleep(0.02)
    return so


def test_two_versions_in_flight_end_by_their_own_definitions(head: None, tmp_path: Path, occurred: Any) -> None:
    data, gate = tmp_path / "data", tmp_path / "gate"
    with running(data, "old") as client:
        client.submit("book", {"gate": str(gate)}, key="one")
        wait_until(lambda: found(data, state="preparing"))
    with running(data, "both") as client:
        client.submit("book", {"gate": str(gate), "colour": "red"}, key="two")  # the newest version
        wait_until(lambda: len(found(data, state="preparing")) == 2)
    assert sorted((one.key, one.version) for one in found(data, state="open")) == [("one", 1), ("two", 2)]
    with running(data, "both") as client:
        gate.touch()
        outcomes = [client.lookup(key=key).outcome(WAIT_S) for key in ("one", "two")]
        assert [(outcome.committed, outcome.results) for outcome in outcomes] == [
            (True, {"text": {"what": "plain text"}}),
            (True, {"text": {"what": "red text"}, "cover": {"what": "red cover"}})]
        wait_until(lambda: not found(data, state="open"))
    steps = {one.version: [step["step"] for step in timeline(data, versions_app.both, one.transaction).to_json()["steps"]]
             for one in found(data)}
    assert steps == {1: ["text"], 2: ["text", "cover"]}
    assert audit(data, versions_app.both).ok
    occurred("87")
