from __future__ import annotations

import importlib.util
import socket
from contextlib import closing

import pytest
from typer.testing import CliRunner

from actors.orders import app as shop
from orchestrator.cli import build_cli
from orchestrator.console import command
from orchestrator.console.sessions import AccessToken
from orchestrator.deployment import DataDirectory
from orchestrator.log.store import create_log

SERVED = {}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = DataDirectory(tmp_path_factory.mktemp("command") / "data")
    directory.prepare()
    directory.create_databases(shop, create_log)
    return directory.path


@pytest.fixture
def run(data, monkeypatch):
    """Runs the command; instead of serving it keeps what would have been served."""
    def keep(directory, app, access, listener, certificate, private_key):  # noqa: PLR0917 - as it is called
        SERVED.update(app=app, access=access, address=listener.getsockname(), certificate=certificate)

    SERVED.clear()
    monkeypatch.setattr(command, "_serve", keep)
    runner, commands = CliRunner(), build_cli("actors.orders:app")
    return lambda *arguments, to=data: runner.invoke(commands, ["console", "--data", str(to), "--port", "0", *arguments])


def test_on_loopback_nobody_is_asked(run):
    result = run()
    assert result.exit_code == 0, result.stderr
    host, port = SERVED["address"]
    assert host == "127.0.0.1"
    assert f"http://127.0.0.1:{port}/" in result.stdout
    assert SERVED["app"] == "actors.orders:app"
    assert SERVED["access"].token is None
    assert not SERVED["access"].is_host("192.0.2.7")
    assert "token" not in result.stdout


def test_elsewhere_the_token_is_made_and_told_once(run, data):
    first = run("--host", "0.0.0.0", "--allow-host", "Shop.example")
    assert first.exit_code == 0, first.stderr
    token = AccessToken(data / command.TOKEN_FILE).text
    assert f"token: {token} " in first.stdout
    assert "unencrypted" in first.stderr
    access = SERVED["access"]
    assert access.token.matches(token)
    assert access.is_host("shop.example")
    assert access.is_host("192.0.2.7")
    again = run("--host", "0.0.0.0")
    assert token not in again.stdout
    assert str(data / command.TOKEN_FILE) in again.stdout
    renewed = run("--new-token")
    assert token not in renewed.stdout
    assert not SERVED["access"].token.matches(token)
    assert "unencrypted" not in renewed.stderr


def test_login_on_loopback_when_it_is_asked_for(run):
    assert run("--login").exit_code == 0
    assert SERVED["access"].token is not None


def test_with_a_certificate_cookies_are_for_tls_only(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_check_tls", lambda *_: None)  # there is none
    result = run("--host", "0.0.0.0", "--certificate", str(tmp_path / "c.pem"), "--private-key", str(tmp_path / "k.pem"))
    assert "https://" in result.stdout
    assert "unencrypted" not in result.stderr
    assert SERVED["access"].over_tls


def test_refusals_say_what_to_do(run, tmp_path, monkeypatch):
    result = run(to=tmp_path / "absent")
    assert (result.exit_code, result.stderr.startswith("error E_DATA_DIR: ")) == (2, True)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        result = run("--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "choose another port" in result.stderr
    result = run("--host", "no.such.host.invalid")
    assert (result.exit_code, result.stderr.startswith("error E_CONFIG: --host no.such.host.invalid")) == (2, True)
    result = run("--private-key", str(tmp_path / "k.pem"))
    assert (result.exit_code, "give its --certificate too" in result.stderr) == (2, True)
    result = run("--certificate", str(tmp_path / "c.pem"))
    assert (result.exit_code, "they cannot be used" in result.stderr) == (2, True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = run()
    assert result.exit_code == 2
    assert "pip install 'raytx[console]'" in result.stderr


@pytest.mark.parametrize(("host", "expected"), [
    ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
    ("", False), ("192.0.2.7", False), ("no.such.host.invalid", False)])
def test_what_only_this_machine_reaches(host, expected):
    assert command.is_loopback(host) is expected
