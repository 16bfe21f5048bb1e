"""Finding the victims, and what is done to them: with processes, disks and namespaces of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from loadgen.nemesis.disks import full_disk, injected, small_disk, wait_end
from loadgen.nemesis.faults import Nemesis, see_outcomes
from loadgen.nemesis.network import Cut, network
from loadgen.nemesis.plan import Kind, Step
from loadgen.nemesis.targets import Targets, send
from orchestrator.errors import DefiniteError
from orchestrator.processes import identify, is_alive

HOLD = "import sys, time; f = open(sys.argv[1], 'a'); print('up', flush=True); time.sleep(60)"
SYNC = ("import os, sys, time; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); print('up', flush=True)\n"
        "sys.stdin.readline()\nfor n in range(1000):\n os.write(f, b'x')\n os.fdatasync(f)\n print(n + 1, flush=True)")
strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and network namespaces are for root")


@contextmanager
def child(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


@contextmanager
def actor(data, name):
    """A process that writes to a log file of that actor, which the file is named after it only then."""
    logs = data / "logs"
    logs.mkdir(exist_ok=True)
    waiting = logs / "unnamed"
    with child(HOLD, waiting) as process:
        waiting.rename(logs / f"{name}-{process.pid}.jsonl")
        yield identify(process.pid)


class Load:
    """Everybody is served at once, but for those who are not."""

    def __init__(self, silent=()):
        self.marked, self.lives, self._silent = [], 1, silent

    def mark(self, actor, at_ns):
        self.marked.append(actor)
        return len(self.marked) - 1

    def took_ms(self, mark, limit_s):
        return None if self.marked[mark] in self._silent else 1.0

    def ray_kill(self, actor):
        return 0

    def kill(self):
        return identify(os.getpid())

    def start(self):
        self.lives += 1


def nemesis_on(data, load):
    return Nemesis(Targets(data), load, lambda: None, lambda _: None)


def test_an_actor_is_the_youngest_process_that_has_its_log_open(tmp_path):
    targets = Targets(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"log-{os.getpid()}.jsonl").touch()  # a pid that is somebody else's now
    assert targets.actor("log") is None
    with actor(tmp_path, "shard-1") as first:
        assert targets.actor("shard-1") == first
        assert targets.actor("shard") is None
        with actor(tmp_path, "shard-1") as second:
            assert sorted(targets.incarnations("shard-1"), key=lambda one: one.pid) == sorted(
                [first, second], key=lambda one: one.pid)
            assert targets.successor("shard-1", first, 5.0) == second
        assert targets.actor("shard-1") == first
    assert targets.actor("shard-1") is None
    assert targets.successor("shard-1", first, 0.05) is None


def test_kill_stop_and_wake_exactly_that_process(tmp_path):
    load = Load(silent=("payment",))
    nemesis = nemesis_on(tmp_path, load)
    with actor(tmp_path, "log") as log, actor(tmp_path, "payment") as payment:
        [strike] = nemesis.carry_out(Step(1, Kind.STOP, 0, ("log",), hold_ms=50))
        assert (strike.killed, strike.missed, strike.took_ms) == (False, False, 1.0)
        assert is_alive(log)
        struck = nemesis.carry_out(Step(2, Kind.TOGETHER, 0, ("log", "payment")))
        assert [one.killed for one in struck] == [True, True]
        assert [one.took_ms for one in struck] == [1.0, None]
        assert wait_end(log, 5)
        assert wait_end(payment, 5)
    [strike] = nemesis.carry_out(Step(3, Kind.KILL, 0, ("log",)))
    assert strike.missed
    assert not strike.killed
    assert nemesis.strikes[-1] is strike


def test_an_actor_with_two_processes_loses_both(tmp_path):
    nemesis = nemesis_on(tmp_path, Load())
    with actor(tmp_path, "log") as first, actor(tmp_path, "log") as second:
        [strike] = nemesis.carry_out(Step(1, Kind.KILL, 0, ("log",)))
        assert strike.killed
        assert wait_end(first, 5)
        assert wait_end(second, 5)


def test_a_nested_kill_waits_for_the_successor(tmp_path):
    nemesis, struck = nemesis_on(tmp_path, Load()), []
    with actor(tmp_path, "log") as first:
        striking = threading.Thread(
            target=lambda: struck.extend(nemesis.carry_out(Step(1, Kind.NESTED, 0, ("log",), times=2))))
        striking.start()
        assert wait_end(first, 5)
        with actor(tmp_path, "log") as second:
            assert wait_end(second, 5)
            striking.join(5)
    assert [(one.killed, one.waited, one.took_ms) for one in struck] == [(True, False, None), (True, True, 1.0)]


def test_a_driver_is_started_again_after_its_kill(tmp_path):
    load = Load()
    [strike] = nemesis_on(tmp_path, load).carry_out(Step(1, Kind.DRIVER, 0))
    assert (load.lives, load.marked, strike.took_ms) == (2, ["log"], 1.0)


def test_what_is_stopped_is_woken_up_when_it_is_healed(tmp_path):
    nemesis = nemesis_on(tmp_path, Load())
    with actor(tmp_path, "log") as log:
        nemesis.heal()
        began_s = time.monotonic()
        nemesis.carry_out(Step(1, Kind.STOP, 60_000, ("log",), hold_ms=60_000))
        assert time.monotonic() - began_s < 5
        assert send(log, signal.SIGKILL)
        assert wait_end(log, 5)
        assert not send(log, signal.SIGKILL)


def test_nobody_is_waited_for_whom_nobody_waits_for(tmp_path):
    nemesis, load = nemesis_on(tmp_path, Load()), Load()
    with actor(tmp_path, "notification"):
        struck = nemesis.carry_out(Step(1, Kind.KILL, 0, ("notification",)))
    see_outcomes(load, struck, lambda _: None)
    assert load.marked == []


@strace
def test_a_process_dies_at_the_sync_that_was_named(tmp_path):
    with child(SYNC, tmp_path / "file") as process:
        victim = identify(process.pid)
        with injected(victim, ("fsync", "fdatasync"), "signal=SIGKILL:when=5"):
            time.sleep(0.5)  # strace has no event for having attached
            process.stdin.write("\n")
            process.stdin.flush()
            assert wait_end(victim, 10)
        assert process.stdout.read().split() == ["1", "2", "3", "4"]


@root
def test_a_disk_is_full_and_has_room_again():
    with small_disk(8) as disk:
        with full_disk(disk) as taken:
            assert taken > 7 << 20
            with pytest.raises(OSError, match="No space left"):
                (disk / "more").write_bytes(b"x" * 8192)
        (disk / "more").write_bytes(b"x" * 8192)
        assert [path.name for path in disk.iterdir()] == ["more"]


def test_a_disk_that_was_not_made_for_it_is_not_filled(monkeypatch, tmp_path):
    monkeypatch.setattr("loadgen.nemesis.disks.FULL_BYTES_MAX", 1)
    with pytest.raises(DefiniteError, match="not filled"), full_disk(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@root
@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
def test_packets_are_dropped_one_way_or_both_ways():
    listen = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9000))\n"
              "print('up', flush=True)\nwhile True: print(s.recv(9).decode(), flush=True)")
    say = ("import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
           "s.sendto(sys.argv[2].encode(), (sys.argv[1], 9000))")
    with network(f"rtt{os.getpid() % 10_000}", 2) as net:
        heard = []
        for here, there in ((0, 1), (1, 0)):
            listener = [*net.command(there), sys.executable, "-c", listen]
            with subprocess.Popen(listener, stdout=subprocess.PIPE, text=True) as ear:
                assert ear.stdout.readline() == "up\n"
                for cut in (*Cut, None):
                    if cut is not None:
                        net.cut(1, cut)
                    subprocess.run([*net.command(here), sys.executable, "-c", say, net.ip(there), cut or "none"], check=True)
                    net.mend(1)
                heard.append([ear.stdout.readline().strip(), ear.stdout.readline().strip()])
                ear.kill()
    assert heard == [["from", "none"], ["to", "none"]]
