from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from loadgen.usage import Meter

BUSY = "import sys\nfor line in sys.stdin:\n sum(range(int(line)))\n print(flush=True)"


def status(name, pid, *, restarts=0, node=None, role="orchestrator"):
    return {"role": role, "name": name, "pid": pid, "node": node or socket.gethostname(), "restarts": restarts}


@pytest.fixture
def start():
    started = []

    def start():
        process = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def work(process, amount=5_000_000):
    process.stdin.write(f"{amount}\n")
    process.stdin.flush()
    process.stdout.readline()


def test_cpu_since_the_start_is_counted_by_role(start):
    first, second = start(), start()
    work(first)
    meter = Meter(lambda: [status("shard-0", first.pid), status("shard-1", second.pid)])
    work(first)
    work(second)
    usage = meter.stop()
    assert usage.cpu_s["orchestrator"] > 0.02
    assert set(usage.cpu_s) == {"orchestrator", "client"}
    assert (usage.restarts, usage.notes) == (0, [])


def test_a_killed_process_keeps_what_was_sampled_and_its_successor_counts(start):
    process = start()
    statuses = [status("shard-0", process.pid, restarts=3)]
    meter = Meter(lambda: statuses)
    work(process, 10_000_000)
    meter.sample()
    process.kill()
    process.wait()
    statuses = [status("shard-0", None, restarts=None)]
    meter.sample()
    successor = start()
    statuses = [status("shard-0", successor.pid, restarts=4)]
    meter.sample()
    usage = meter.stop()
    assert usage.cpu_s["orchestrator"] > 0.05
    assert usage.restarts == 1
    assert usage.notes == ["shard-0 was restarted: its start-up is counted, the last moments of the one before are not"]


def test_actors_elsewhere_are_named_not_measured():
    meter = Meter(lambda: [status("shard-0", os.getpid(), node="elsewhere")])
    usage = meter.stop()
    assert set(usage.cpu_s) == {"client"}
    assert usage.notes == ["shard-0 runs on another node: its CPU is not counted"]
