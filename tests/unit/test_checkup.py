"""`raytx doctor`: every check passes on a good machine and fails on one that is not; the readings are real."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from orchestrator import checkup
from orchestrator.checkup import CHECKS, SLOW, Finding, Health, examine
from orchestrator.errors import IndefiniteError
from orchestrator.machine import FSYNCS, Machine
from orchestrator.terminal.doctor import doctor

GOOD: dict[str, Any] = {
    "python": (3, 11, 9), "package": "2.60.1", "imports": "", "sqlite": (3, 40, 1), "file_system": "ext4",
    "free_bytes": 50 << 30, "fsync_ms": [0.2, 0.3, 1.0], "locks": True, "mode": 0o700, "is_directory": True,
    "readable_by_others": [], "not_mine": [], "clock": (0.01, 200.0), "now_ms": 1_000_000_000, "newest_ms": 999_999_000,
    "open_files": 65_536, "memory_bytes": 8 << 30, "processors": 4, "listens": "", "resolves": "", "socket_directory": "/tmp",
    "starts_ray": 3.2, "variable": ""}


class Told:
    """A machine that reads what it is told; an exception is raised."""

    def __init__(self, **changed: Any) -> None:
        self.data = Path("/srv/orders")
        self._told = GOOD | changed
        assert self._told.keys() == GOOD.keys()

    def __getattr__(self, name: str) -> Any:
        value = self._told[name]

        def read(*_: object) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        return read


CASES: list[tuple[Any, dict[str, Any], Health, str]] = [
    (checkup.python, {"python": (3, 10, 12)}, Health.BAD, "3.10.12"),
    (checkup.ray, {"package": "2.61.0"}, Health.BAD, "2.61.0"),
    (checkup.ray, {"package": ""}, Health.BAD, "not installed"),
    (checkup.sqlite, {"sqlite": (3, 31, 1)}, Health.BAD, "3.31.1"),
    (checkup.msgspec, {"imports": "ModuleNotFoundError: _core"}, Health.BAD, "_core"),
    (checkup.uvloop, {"imports": "ModuleNotFoundError: loop"}, Health.BAD, "loop"),
    (checkup.permissions, {"is_directory": False}, Health.BAD, "is a file"),
    (checkup.permissions, {"not_mine": ["/srv/orders/log"]}, Health.BAD, "another user's"),
    (checkup.permissions, {"mode": 0o755, "readable_by_others": ["ray.token"]}, Health.BAD, "others may read ray.token"),
    (checkup.permissions, {"mode": 0o755}, Health.WARN, "0755"),
    (checkup.file_system, {"file_system": "nfs4"}, Health.BAD, "nfs4"),
    (checkup.file_system, {"file_system": "9p"}, Health.BAD, "9p"),
    (checkup.file_system, {"file_system": "tmpfs"}, Health.WARN, "in memory"),
    (checkup.file_system, {"file_system": "overlay"}, Health.WARN, "overlay"),
    (checkup.room, {"free_bytes": 100 << 20}, Health.BAD, "0.1 GiB"),
    (checkup.room, {"free_bytes": 1 << 30}, Health.WARN, "1.0 GiB"),
    (checkup.fsync, {"fsync_ms": OSError(5, "Input/output error")}, Health.BAD, "Input/output error"),
    (checkup.fsync, {"fsync_ms": [1_500.0] * 3}, Health.BAD, "1500.00 ms"),
    (checkup.fsync, {"fsync_ms": [30.0] * 3}, Health.WARN, "30.00 ms"),
    (checkup.fsync, {"fsync_ms": [0.001] * 3}, Health.WARN, "median 0.00 ms"),
    (checkup.locks, {"locks": False}, Health.BAD, "two processes"),
    (checkup.locks, {"locks": OSError(95, "Operation not supported")}, Health.BAD, "not supported"),
    (checkup.clock, {"clock": (0.0, 0.0)}, Health.BAD, "stands still"),
    (checkup.clock, {"clock": (-3_600_000.0, 200.0)}, Health.WARN, "stepped by -3600000 ms"),
    (checkup.clock, {"newest_ms": 1_000_120_000}, Health.WARN, "120 s in the future"),
    (checkup.open_files, {"open_files": 128}, Health.BAD, "128"),
    (checkup.open_files, {"open_files": 1_000}, Health.WARN, "1000"),
    (checkup.memory, {"memory_bytes": 256 << 20}, Health.BAD, "0.2 GiB"),
    (checkup.memory, {"memory_bytes": 1 << 30}, Health.WARN, "1.0 GiB"),
    (checkup.processors, {"processors": 1}, Health.WARN, "1"),
    (checkup.ports, {"listens": "Permission denied"}, Health.BAD, "Permission denied"),
    (checkup.ports, {"resolves": "Name or service not known"}, Health.WARN, "no address"),
    (checkup.dashboard, {"listens": "Address already in use"}, Health.WARN, "8265"),
    (checkup.sockets, {"socket_directory": "/tmp/" + "x" * 40}, Health.BAD, "45 characters"),
    (checkup.authentication, {"variable": "192.0.2.7:6379"}, Health.WARN, "RAY_ADDRESS is 192.0.2.7:6379"),
    (checkup.starts_ray, {"starts_ray": IndefiniteError("E_UNREACHABLE", "Ray did not start: no room")}, Health.BAD, "no room"),
]


def test_a_good_machine_passes_every_check() -> None:
    findings = list(examine(Told(), with_ray=True))
    assert [finding for finding in findings if finding.health is not Health.OK or finding.do] == []
    assert len({finding.check for finding in findings}) == len(CHECKS) + len(SLOW)


@pytest.mark.parametrize(("check", "changed", "health", "found"), CASES)
def test_a_check_fails_where_it_should(check: Any, changed: dict[str, Any], health: Health, found: str) -> None:
    finding = check(Told(**changed))
    assert finding.health is health
    assert found in finding.found
    assert finding.do


def test_every_check_has_a_machine_on_which_it_fails() -> None:
    assert {case[0] for case in CASES} == {*CHECKS, *SLOW}


def test_a_check_that_cannot_be_made_is_bad() -> None:
    findings = {f.check: f for f in examine(Told(free_bytes=PermissionError(13, "Permission denied")), with_ray=False)}
    assert findings["room"].health is Health.BAD
    assert "Permission denied" in findings["room"].found
    assert "Ray starts" not in findings


def test_a_directory_that_is_not_made_yet_is_fine() -> None:
    assert checkup.permissions(Told(mode=None)).health is Health.OK
    assert checkup.clock(Told(newest_ms=None)).health is Health.OK


def test_the_readings_of_this_machine(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "data", watch_s=0.001)
    assert machine.python() >= (3, 11, 0)
    assert machine.package("msgspec")
    assert not machine.package("no-such-package")
    assert machine.imports("msgspec._core") == ""
    assert machine.imports("no_such_module").startswith("ModuleNotFoundError")
    assert machine.file_system()
    assert machine.free_bytes() > 0
    assert len(machine.fsync_ms()) == FSYNCS
    assert machine.locks()
    assert abs(machine.clock()[0]) < 10
    assert machine.open_files() > 0
    assert machine.memory_bytes() > 0
    assert machine.processors() > 0
    assert machine.listens(0) == ""
    assert list(tmp_path.iterdir()) == []  # nothing is left behind, and nothing was made


def test_a_port_that_is_taken_is_seen(tmp_path: Path) -> None:
    import socket  # noqa: PLC0415 - here only

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert Machine(tmp_path).listens(taken.getsockname()[1])


def test_what_others_may_read_and_what_is_newest_are_seen(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "data")
    assert (machine.mode(), machine.newest_ms(), machine.is_directory()) == (None, None, True)
    machine.data.mkdir(mode=0o700)
    secret = machine.data / "ray.token"
    secret.write_text("x")
    secret.chmod(0o644)
    later_s = time.time() + 3_600
    os.utime(secret, (later_s, later_s))
    assert machine.mode() == 0o700
    assert machine.readable_by_others() == ["ray.token"]
    assert machine.not_mine() == []
    assert machine.newest_ms() == int(later_s * 1_000)
    assert not Machine(secret).is_directory()


def told(arguments: list[str]) -> Any:
    cli = typer.Typer()
    cli.command()(doctor)
    return CliRunner().invoke(cli, arguments)


def test_the_command_tells_json_and_ends_with_1_where_something_is_bad(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    bad = told(["--data", str(file), "--no-ray", "--json"])
    assert bad.exit_code == 1
    found = json.loads(bad.stdout)
    assert not found["ok"]
    (finding,) = [Finding(**one) for one in found["checks"] if one["check"] == "data directory"]
    assert (finding.health, finding.do) == ("bad", "name a directory")


def test_the_command_shows_a_table(tmp_path: Path) -> None:
    shown = told(["--data", str(tmp_path / "data"), "--no-ray"])
    assert "what to do" in shown.stdout
    assert "flock excludes a second owner" in shown.stdout


def test_a_cluster_that_asks_for_a_token_is_fine() -> None:
    found = {"RAY_ADDRESS": "192.0.2.7:6379", "RAY_AUTH_MODE": "token"}

    class Joined(Told):
        def variable(self, name: str) -> str:
            return found[name]

    assert checkup.authentication(Joined()).health is Health.OK
