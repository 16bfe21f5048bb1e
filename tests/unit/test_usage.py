from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from loadgen.usage import Meter

BUSY = """
import sys, time
for line in sys.stdin:
    until_s = time.process_time() + float(line)
    while time.process_time() < until_s:
        pass
    print(flush=True)
"""


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


def work(process, cpu_s=0.1):
    process.stdin.write(f"{cpu_s}\n")
    process.stdin.flush()
    process.stdout.readline()


def test_cpu_since_the_start_is_counted_by_role(start):
    first, second = start(), start()
    work(first)
    work(second, 0.0)  # it has started
    meter = Meter(lambda: [status("shard-0", first.pid), status("shard-1", second.pid)])
    work(first)
    work(second)
    usage = meter.stop()
    assert 0.15 < usage.cpu_s["orchestrator"] < 0.28  # twice 0.1, and not what was before
    assert set(usage.cpu_s) == {"orchestrator", "client"}
    assert (usage.restarts, usage.notes) == (0, [])


def test_a_killed_process_keeps_what_was_sampled_and_its_successor_counts(start):
    process = start()
    statuses = [status("shard-0", process.pid, restarts=3)]
    meter = Meter(lambda: statuses)
    work(process, 0.2)
    meter.sample()
    process.kill()
    process.wait()
    statuses = [status("shard-0", None, restarts=None)]
    meter.sample()
    successor = start()
    statuses = [status("shard-0", successor.pid, restarts=4)]
    meter.sample()
    usage = meter.stop()
    assert usage.cpu_s["orchestrator"] > 0.15
    assert usage.restarts == 1
    assert usage.notes == ["shard-0 was restarted: its start-up is counted, the last moments of the one before are not"]


def test_who_samples_does_not_wait_for_the_deployment_while_an_actor_is_gone(start):
    process, successor, answer = start(), start(), threading.Event()
    asked = []

    def statuses():
        asked.append(threading.current_thread())
        if len(asked) == 1:
            return [status("shard-0", process.pid)]
        answer.wait(3)
        return [status("shard-0", successor.pid, restarts=1)]

    meter = Meter(statuses)
    process.kill()
    process.wait()
    for _ in range(3):
        meter.sample()
    assert not answer.is_set()
    assert meter.recovered == 0
    answer.set()
    until_s = time.monotonic() + 3
    while not meter.recovered and time.monotonic() < until_s:
        meter.sample()
        time.sleep(0.01)
    assert meter.recovered == 1
    usage = meter.stop()
    assert (len(usage.deaths), usage.restarts) == (1, 1)
    assert len(asked) == 3  # at the begin, once for the successor, at the end
    assert not asked[1].is_alive()


def test_a_look_that_fails_is_told_to_who_samples(start):
    process = start()
    answers = [[status("shard-0", process.pid)]]
    meter = Meter(answers.pop)
    process.kill()
    process.wait()
    meter.sample()
    with pytest.raises(IndexError):
        meter.stop()


def test_the_clients_clock_can_end_before_that_of_the_others(start):
    """What they still do after the last outcome is theirs; what this process does to wait for that is no cost of an order."""
    process = start()
    meter = Meter(lambda: [status("shard-0", process.pid)])
    meter.end_clients()
    until_s = time.process_time() + 0.1
    while time.process_time() < until_s:
        pass
    work(process)
    meter.sample()
    usage = meter.stop()
    assert usage.cpu_s["client"] < 0.05
    assert usage.cpu_s["orchestrator"] > 0.02
    assert (usage.deaths, usage.notes) == ([], [])


def test_actors_elsewhere_are_named_not_measured():
    meter = Meter(lambda: [status("shard-0", os.getpid(), node="elsewhere")])
    usage = meter.stop()
    assert set(usage.cpu_s) == {"client"}
    assert usage.notes == ["shard-0 runs on another node: its CPU is not counted"]
