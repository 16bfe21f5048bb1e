"""The command `raytx` as a user runs it: processes of its own, killed in every way, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.orders import app as shop
from orchestrator.deployment import DataDirectory
from orchestrator.log.reader import LogReader
from orchestrator.log.rest import wait_for_rest
from orchestrator.log.store import create_log
from orchestrator.processes import is_alive, processes_of_head
from orchestrator.spare import PERIOD_S, SPARES

UP_S_MAX = 120.0
BOOKS = {"stock": [{"sku": "A1", "quantity": 10}], "accounts": [{"account": "alice", "amount_minor": 10_000}]}
PLENTY = {
    "stock": [{"sku": "A1", "quantity": 10_000_000}], "accounts": [{"account": "alice", "amount_minor": 10_000_000_000}]}
ORDER = {
    "order_id": "o-1", "customer": "alice", "lines": [{"sku": "A1", "quantity": 2, "unit_price_minor": 250}],
    "amount_minor": 500, "card_token": "tok_canary", "email": "alice@example.com",
    "address": {"name": "Alice", "street": "1 High Street", "city": "Leeds", "country": "GB"}}


class Raytx:
    """Runs the command on one data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.directory = DataDirectory(data)

    def __call__(self, *arguments: str, expect: int = 0, given: str | None = None) -> str:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, input=given, timeout=UP_S_MAX, check=False)
        assert done.returncode == expect, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, expect: int = 0, given: str | None = None) -> dict:
        return json.loads(self(*arguments, "--json", expect=expect, given=given))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "loadgen.cli", *arguments, "--data", str(self.data)]

    def up(self) -> dict:
        return self.json("up", "--no-dashboard")


@pytest.fixture
def raytx(tmp_path):
    found = Raytx(tmp_path / "data")
    yield found
    subprocess.run(found.command("down"), capture_output=True, timeout=UP_S_MAX, check=False)


def gone(processes, within_s=10.0):
    end_s = time.monotonic() + within_s
    while any(map(is_alive, processes)) and time.monotonic() < end_s:
        time.sleep(0.05)
    return [process for process in processes if is_alive(process)] == []


def test_up_status_submit_show_audit_down(raytx):
    told = raytx.up()
    record = raytx.directory.record()
    assert (told["data"], told["app"], told["shards"]) == (str(raytx.data), "actors.orders:app", 1)
    status = raytx.json("status")
    assert status["deployment"]["namespace"] == told["namespace"]
    assert status["healthy"]
    assert [(actor["name"], actor["role"], actor["state"], actor["restarts"]) for actor in status["actors"]] == [
        ("log", "log", "serving", 0), *((f"service-{name}", name, "serving", 0) for name in told["services"]),
        ("shard-0", "orchestrator", "serving", 0)]
    assert raytx.json("submit", "-", "--saga", "open_books", given=json.dumps(BOOKS))["committed"] == 1
    outcomes = raytx.json("submit", "-", expect=1, given=json.dumps([ORDER, {**ORDER, "order_id": "o-2", "customer": "bob"}]))
    assert (outcomes["committed"], outcomes["aborted"]) == (1, 1)
    transaction = outcomes["outcomes"][0]["transaction"]
    (refused,) = raytx.json("cancel", transaction, expect=1)["transactions"]
    assert (refused["done"], refused["code"], refused["state"]) == ("refused", "E_TOO_LATE", "committed")
    raytx("up", expect=2)
    raytx("down")
    assert gone([record.owner, *record.processes])
    assert not Path(record.temp_dir).exists()
    assert not raytx.directory.token_path.exists()
    raytx("status", expect=3)
    assert raytx.json("show", transaction)["state"] == "COMMITTED"
    assert "tok_canary" not in raytx("show", transaction, "--json")
    assert raytx.json("audit")["units_sold"] == 2


DRIVER = """
import itertools, json, sys, threading
from orchestrator import connect
data, acknowledged, order = sys.argv[1], open(sys.argv[2], "w"), json.loads(sys.argv[3])
room = threading.Semaphore(500)
def told(handle):
    outcome = handle.outcome(0)
    acknowledged.write(f"{handle.key} {outcome.transaction} {outcome.status}\\n")
    acknowledged.flush()
    room.release()
with connect(data) as client:
    for n in itertools.count():
        room.acquire()
        client.submit("place_order", {**order, "order_id": f"o-{n}"}, key=f"k-{n}").add_done_callback(told)
"""


@contextlib.contextmanager
def acknowledging(raytx, path, count):
    """A driver with 500 orders in flight for as long as it lives, once it has been told so many outcomes."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(raytx.data), str(path), json.dumps(ORDER)])
    try:
        end_s = time.monotonic() + UP_S_MAX
        while not path.exists() or path.read_text().count("\n") < count:
            assert driver.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.01)
        yield driver
    finally:
        driver.kill()
        driver.wait()


def told_in(path):
    return [line.split() for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_everything_killed_under_load_and_up_again(raytx, tmp_path, occurred):
    raytx.up()
    raytx("submit", "-", "--saga", "open_books", given=json.dumps(PLENTY))
    record = raytx.directory.record()
    acknowledged = tmp_path / "acknowledged"
    with acknowledging(raytx, acknowledged, 300) as driver:
        for pid in [record.owner.pid, *(process.pid for process in record.processes), driver.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    told = told_in(acknowledged)
    assert len(told) >= 300
    raytx("status", expect=3)
    again = raytx.up()
    assert again["run"] != record.run
    assert not Path(record.temp_dir).exists()
    assert wait_for_rest(raytx.directory.log_path, 60)
    with contextlib.closing(LogReader(raytx.directory.log_path)) as log:
        for key, transaction, status in told:
            found = log.by_key(key)
            assert (found.begun.transaction, found.state.name) == (transaction, status)
    audit = raytx.json("audit")
    assert (audit["ok"], audit["open"]) == (True, 0)
    record = raytx.directory.record()
    os.kill(record.owner.pid, signal.SIGKILL)  # only the keeper: what it leaves behind is for down to end
    assert raytx.json("down")["stopped"]
    assert gone(record.processes)
    assert not Path(record.temp_dir).exists()
    assert not raytx.json("down")["stopped"]
    assert raytx.json("audit")["committed"] == audit["committed"]
    occurred("83")


def test_stopped_under_load_it_keeps_what_it_acknowledged(raytx, tmp_path, occurred):
    raytx.up()
    raytx("submit", "-", "--saga", "open_books", given=json.dumps(PLENTY))
    record, acknowledged = raytx.directory.record(), tmp_path / "acknowledged"
    with acknowledging(raytx, acknowledged, 100) as driver:
        os.kill(record.owner.pid, signal.SIGTERM)  # as down does, without the time that a command takes to start
        assert gone([record.owner, *record.processes], UP_S_MAX)
        assert driver.poll() is None  # it still waits: there was load to the end
    told = told_in(acknowledged)
    assert len(told) >= 100
    with contextlib.closing(LogReader(raytx.directory.log_path)) as log:
        for key, transaction, status in told:
            found = log.by_key(key)
            assert (found.begun.transaction, found.decided.decision.name) == (
                transaction, {"COMMITTED": "COMMIT", "ABORTED": "ABORT"}[status])
    assert raytx.json("audit")["ok"]
    occurred("92")


def test_a_head_that_loses_a_server_is_started_anew(raytx, occurred):
    raytx.up()
    record = raytx.directory.record()
    raylet = next(p for p in record.processes if Path(f"/proc/{p.pid}/comm").read_text().strip() == "raylet")
    os.kill(raylet.pid, signal.SIGKILL)
    end_s = time.monotonic() + UP_S_MAX
    while raytx.directory.record().run == record.run and time.monotonic() < end_s:
        time.sleep(0.05)
    status = raytx.json("status")  # waits until it serves
    assert status["healthy"]
    assert status["deployment"]["pid"] == record.owner.pid
    assert gone(record.processes)
    occurred("82")


def idle_workers(record):
    """Pids of workers that have no actor: Ray names such a process so."""
    return {found.pid for found in processes_of_head(Path(record.temp_dir))
            if Path(f"/proc/{found.pid}/cmdline").read_bytes().startswith(b"ray::IDLE")}


def shard_pid(raytx):
    return next(actor["pid"] for actor in raytx.json("status")["actors"] if actor["name"] == "shard-0")


def test_an_actor_that_dies_is_restarted_in_a_process_that_waits_for_it(raytx):
    raytx.up()
    record, end_s = raytx.directory.record(), time.monotonic() + UP_S_MAX
    for _ in range(3):
        while not (idle := idle_workers(record)):
            assert time.monotonic() < end_s
            time.sleep(0.05)
        os.kill(shard_pid(raytx), signal.SIGKILL)
        while (pid := shard_pid(raytx)) is None:
            assert time.monotonic() < end_s
        assert pid in idle
    time.sleep(2 * PERIOD_S + 2)  # time enough to start too many
    assert len(idle_workers(record)) <= SPARES


def test_foreground_with_an_app_beside_the_user(raytx, tmp_path, monkeypatch):
    (tmp_path / "myshop.py").write_text("from actors.orders import app\n")
    monkeypatch.chdir(tmp_path)
    command = raytx.command("up", "--foreground", "--no-dashboard", "--app", "myshop:app", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        told = json.loads(process.stdout.readline())
        assert told["app"] == "myshop:app"
        monkeypatch.chdir("/")
        assert raytx.json("status")["healthy"]
        record = raytx.directory.record()
        process.send_signal(signal.SIGTERM)
        assert process.wait(UP_S_MAX) == 0
    assert gone([record.owner, *record.processes])
    assert raytx.json("audit")["ok"]


def test_a_lost_database_is_refused_and_nothing_stays(raytx, occurred):
    raytx.directory.prepare()
    raytx.directory.create_databases(shop, create_log)
    raytx.directory.service_path("payment").unlink()
    done = subprocess.run(raytx.command("up"), capture_output=True, text=True, timeout=UP_S_MAX, check=False)
    assert done.returncode == 2
    assert "error E_STORE_REFUSED: " in done.stderr
    assert raytx.directory.running() is None
    occurred("69")
