"""The tie to a deployment: attached processes that fail, fall silent, die and come again."""

from __future__ import annotations

import sys
import threading

import msgspec
import pytest

from orchestrator.config import PROTOCOL_VERSION
from orchestrator.console.link import AGAIN_S_MAX, DeploymentLink, Tie
from orchestrator.deployment import DIRECTORY_SCHEMA, DataDirectory, DeploymentRecord, stopped
from orchestrator.errors import DefiniteError, IndefiniteError
from orchestrator.ownership import this_process

WAIT_S = 60.0
PLAYED = """
import json, os, socket, sys
line = socket.socket(fileno=int(sys.argv[2])).makefile("rw")
def say(**message):
    line.write(json.dumps(message) + "\\n"); line.flush()
"""
ANSWERS = PLAYED + """
say(kind="attached", run="r")
say(kind="sample", at_ms=__import__("time").time_ns() // 10**6, statuses=[{"name": "log", "state": "serving"}])
for text in line:
    asked = json.loads(text)
    if asked["act"] == "die":
        os._exit(1)
    elif asked["act"] == "refuse":
        say(kind="answer", number=asked["number"], error={"code": "E_UNKNOWN", "message": "who?", "definite": True})
    elif asked["act"] != "nothing":
        say(kind="answer", number=asked["number"], value=asked["arguments"])
"""
FAILS = PLAYED + """say(kind="failed", code="E_UNREACHABLE", message="no answer", definite=False); sys.exit(1)"""


def record_of(run="one", state="serving"):
    return DeploymentRecord(
        schema=DIRECTORY_SCHEMA, protocol=PROTOCOL_VERSION, state=state, namespace="n", run=run, app="a:b", app_path=[],
        settings={}, owner=this_process(), keeper=False, services=[], shards=1)


class Played:
    """A data directory whose record the test writes, and a link that plays `script` as its attached process."""

    def __init__(self, directory: DataDirectory, script: str) -> None:
        self.directory = directory
        self.link = DeploymentLink(directory, [sys.executable, "-c", script])
        self.link.start()

    def run(self, **changes) -> None:
        self.directory.write_record(record_of(**changes))

    def until(self, true) -> None:
        pace = threading.Event()
        for _ in range(int(WAIT_S / 0.02)):
            if true():
                return
            pace.wait(0.02)
        raise AssertionError(self.link.standing)


@pytest.fixture
def play(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    played = []

    def start(script=ANSWERS):
        played.append(Played(directory, script))
        return played[-1]

    yield start
    for one in played:
        one.link.close()


def test_it_attaches_samples_asks_and_notices_the_end(play):
    played = play()
    link = played.link
    assert link.standing.tie is Tie.DOWN
    with pytest.raises(DefiniteError, match="nothing was done"):
        link.ask("retry", {})
    played.run()
    played.until(lambda: link.latest() is not None)
    assert link.standing.tie is Tie.ATTACHED
    assert link.latest().statuses == [{"name": "log", "state": "serving"}]
    assert link.ask("retry", {"who": "ann"}) == {"who": "ann"}
    with pytest.raises(DefiniteError, match="E_UNKNOWN: who"):
        link.ask("refuse", {})
    with pytest.raises(IndefiniteError, match="may have been done"):
        link.ask("nothing", {}, timeout_s=0.05)
    played.directory.write_record(stopped(record_of()))
    played.until(lambda: link.standing.tie is Tie.DOWN)


def test_an_answer_that_is_lost_is_unknown_and_the_tie_is_made_anew(play):
    played = play()
    played.run()
    played.until(lambda: played.link.standing.tie is Tie.ATTACHED)
    with pytest.raises(IndefiniteError, match="may have been done"):
        played.link.ask("die", {})
    played.until(lambda: played.link.standing.tie is Tie.LOST)
    played.until(lambda: played.link.standing.tie is Tie.ATTACHED)
    assert played.link.ask("retry", {"again": True}) == {"again": True}


def test_another_run_is_attached_to_anew(play):
    played = play()
    played.run()
    played.until(lambda: played.link.standing.tie is Tie.ATTACHED)
    played.run(run="two", state="starting")
    played.until(lambda: played.link.standing.tie is Tie.STARTING)
    played.run(run="two")
    played.until(lambda: played.link.standing.tie is Tie.ATTACHED)


def test_a_deployment_that_cannot_be_reached_is_said_to_be_lost(play):
    played = play(FAILS)
    played.run()
    played.until(lambda: played.link.standing.tie is Tie.LOST)
    assert played.link.standing.why == "E_UNREACHABLE: no answer"
    assert AGAIN_S_MAX < 60


def test_a_record_that_cannot_be_read_is_said(play):
    played = play()
    (played.directory.path / "deployment.json").write_bytes(msgspec.json.encode({"schema": 1}))
    played.until(lambda: played.link.standing.tie is Tie.LOST)
    assert "deployment.json" in played.link.standing.why
