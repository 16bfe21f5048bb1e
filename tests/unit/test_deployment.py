from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import sysconfig
from types import SimpleNamespace

import msgspec
import pytest

from orchestrator import deployment
from orchestrator.config import FaultSettings, Settings
from orchestrator.creation import create_database
from orchestrator.deployment import DataDirectory, DeploymentRecord, stopped
from orchestrator.errors import DefiniteError
from orchestrator.ownership import Holder, this_process
from orchestrator.processes import identify


class Service:
    def __init__(self, name):
        self.name = name

    def create(self, path):
        return create_database(path, "CREATE TABLE t (a);", self.name)


def create_log(path):
    return create_database(path, "CREATE TABLE t (a);", "log")


def app_of(*names):
    return SimpleNamespace(services=[Service(name) for name in names])


def record_of(**changes):
    fields = {
        "schema": 1, "protocol": 1, "state": "serving", "namespace": "raytx-x", "run": "r", "app": "shop:app",
        "app_path": [], "settings": {}, "owner": this_process(), "keeper": True, "services": ["payment"], "shards": 1}
    return DeploymentRecord(**(fields | changes))


@pytest.fixture
def directory(tmp_path):
    found = DataDirectory(tmp_path / "data")
    found.prepare()
    return found


def code_of(call, *arguments):
    with pytest.raises(DefiniteError) as caught:
        call(*arguments)
    return caught.value.code, caught.value.message


def test_prepare_makes_a_private_directory(directory):
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert list(directory.path.iterdir()) == []


def test_a_file_is_no_data_directory(tmp_path):
    path = tmp_path / "file"
    path.touch()
    code, message = code_of(DataDirectory(path).prepare)
    assert code == "E_DATA_DIR"
    assert str(path) in message


@pytest.mark.parametrize("path", ["/proc/raytx-data", "/dev/null/data"])
def test_a_place_that_cannot_be_written(path):
    assert code_of(DataDirectory(path).prepare)[0] == "E_DATA_DIR"


def test_one_deployment_at_a_time(directory, occurred):
    lock = directory.lock()
    code, message = code_of(directory.lock)
    assert code == "E_DATA_DIR_IN_USE"
    assert f"process {os.getpid()}" in message
    lock.release()
    directory.lock().release()
    occurred("86")


def test_the_lock_of_a_killed_process_is_free(directory):
    script = f"""
import os, signal
from orchestrator.deployment import DataDirectory
DataDirectory({str(directory.path)!r}).lock()
print("held", flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert f"process {holder.pid}" in code_of(directory.lock)[1]
        holder.kill()
        holder.wait()
        directory.lock().release()


def test_databases_are_created_once(directory):
    first = directory.create_databases(app_of("payment", "shipping"), create_log)
    told = []
    assert directory.create_databases(app_of("payment", "shipping"), create_log, told.append) == first
    assert told == []
    assert set(first.services) == {"payment", "shipping"}
    marker = directory.path / "created.json"
    assert json.loads(marker.read_bytes())["log"] == first.log
    assert stat.S_IMODE(marker.stat().st_mode) == 0o600


def test_a_new_service_gets_its_database_later(directory):
    first = directory.create_databases(app_of("payment"), create_log)
    second = directory.create_databases(app_of("payment", "gifts"), create_log)
    assert second.services["payment"] == first.services["payment"]
    assert directory.service_path("gifts").is_file()
    assert set(directory.create_databases(app_of("gifts"), create_log).services) == {"payment", "gifts"}


def test_creation_is_resumed_where_it_was_cut(directory):
    create = Service("payment").create

    def fail(path):
        raise OSError(28, "No space left on device")

    broken = SimpleNamespace(services=[SimpleNamespace(name="payment", create=create),
                                       SimpleNamespace(name="shipping", create=fail)])
    assert code_of(directory.create_databases, broken, create_log) == (
        "E_DATA_DIR", f"data directory {directory.path}: No space left on device")
    assert directory.manifest() is None
    before = create(directory.service_path("payment"))
    assert directory.create_databases(app_of("payment", "shipping"), create_log).services["payment"] == before


@pytest.mark.parametrize("lost", ["log", "payment"])
def test_a_missing_database_is_never_created_again(directory, lost):
    directory.create_databases(app_of("payment"), create_log)
    path = directory.log_path if lost == "log" else directory.service_path(lost)
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    code, message = code_of(directory.create_databases, app_of("payment"), create_log)
    assert code == "E_STORE_REFUSED"
    assert str(path) in message
    assert not path.exists()


def test_another_database_in_its_place_is_refused(directory):
    directory.create_databases(app_of("payment"), create_log)
    path = directory.service_path("payment")
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    Service("payment").create(path)
    assert code_of(directory.create_databases, app_of("payment"), create_log)[0] == "E_STORE_REFUSED"


def test_the_record_is_private_and_survives(directory):
    record = record_of(processes=[this_process()])
    directory.write_record(record)
    assert directory.record() == record
    assert [path.name for path in directory.path.iterdir()] == ["deployment.json"]
    assert stat.S_IMODE((directory.path / "deployment.json").stat().st_mode) == 0o600


def test_settings_of_the_last_start_are_kept_but_for_simulated_failures(directory):
    assert directory.settings() == {}
    last = Settings(shards=3, retention_ms=9_000, faults={"payment": FaultSettings(decline=0.5)})
    directory.write_record(record_of(settings=last.model_dump(mode="json") | {"gone_since": 1}))
    assert Settings(**directory.settings()) == Settings(shards=3, retention_ms=9_000)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", b'{"schema": "x"}'])
def test_a_strange_record_is_refused(directory, content):
    (directory.path / "deployment.json").write_bytes(content)
    code, message = code_of(directory.record)
    assert code == "E_DATA_DIR"
    assert "deployment.json" in message


def test_a_record_of_a_newer_program_is_refused(directory):
    (directory.path / "deployment.json").write_bytes(b'{"schema": 99, "of": "another shape"}')
    assert code_of(directory.record) == (
        "E_DATA_DIR", f"data directory {directory.path}: deployment.json has schema 99, newer than this program; upgrade")


def test_running_means_that_its_owner_is_alive(directory):
    assert directory.running() is None
    directory.write_record(record_of())
    assert directory.running() is not None
    directory.write_record(stopped(record_of()))
    assert directory.running() is None
    reused = msgspec.structs.replace(this_process(), started=1)  # the same pid, another process
    directory.write_record(record_of(owner=reused))
    assert directory.running() is None
    directory.write_record(record_of(owner=msgspec.structs.replace(this_process(), boot="another boot")))
    assert directory.running() is None


def test_clean_up_ends_exactly_what_was_recorded(directory):
    sleepers = [subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) for _ in range(2)]
    mine, other = (identify(process.pid) for process in sleepers)
    dead = Holder("another boot", "", 1, 1)
    reused = msgspec.structs.replace(other, started=other.started - 1)
    directory.write_record(record_of(owner=dead, own_head=True, processes=[mine, reused]))
    assert directory.clean_up().state == "serving"
    assert sleepers[0].wait(10) == -9
    assert sleepers[1].poll() is None
    assert directory.record().state == "stopped"
    assert directory.clean_up() is None
    sleepers[1].kill()
    sleepers[1].wait()


def test_clean_up_ends_what_holds_files_of_the_head(directory, tmp_path):
    head = tmp_path / "raytx-head"
    head.mkdir()
    script = "import signal, sys; f = open(sys.argv[1], 'w'); print('open', flush=True); signal.pause()"
    names = ("worker-1.out", "python-core-driver-1.log")
    running = []
    for name in names:
        process = subprocess.Popen([sys.executable, "-c", script, str(head / name)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"open\n"
        running.append(process)
    worker, driver = running
    directory.write_record(record_of(owner=Holder("another boot", "", 1, 1), own_head=True, temp_dir=str(head)))
    directory.clean_up()
    assert worker.wait(10) == -9
    assert driver.poll() is None
    assert not head.exists()
    driver.kill()
    for process in running:
        process.wait()
        process.stdout.close()


def test_clean_up_touches_no_directory_but_a_head(directory, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    directory.write_record(record_of(owner=Holder("another boot", "", 1, 1), own_head=True, temp_dir=str(precious)))
    directory.clean_up()
    assert precious.is_dir()


def test_import_path_leaves_out_what_is_installed(monkeypatch, tmp_path):
    package = tmp_path / "lib" / "site-packages"
    package.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(tmp_path / "absent"), str(package), sysconfig.get_path("stdlib")])
    monkeypatch.chdir(tmp_path)
    assert deployment.import_path() == [str(tmp_path)]
