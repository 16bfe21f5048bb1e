from __future__ import annotations

import json
import time

import pytest
from typer.testing import CliRunner

from actors.orders import app as shop
from orchestrator.cli import build_cli, parse_settings
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import (
    AppendRequest,
    Begun,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    TakeRequest,
)
from orchestrator.submission import read_submissions
from orchestrator.terminal.options import parse_time

BEGAN_MS = 1_763_836_800_000  # 2025-11-22T18:40:00Z
OLDER, NEWER = make_id(BEGAN_MS, 7, 1, 1), make_id(BEGAN_MS + 60_000, 7, 1, 2)
BOOKS = {"stock": [{"sku": "A1", "quantity": 10}], "accounts": []}


@pytest.fixture
def run():
    runner, commands = CliRunner(), build_cli("actors.orders:app")
    return lambda *arguments, **more: runner.invoke(commands, [str(one) for one in arguments], **more)


@pytest.fixture
def data(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    directory.create_databases(shop, create_log)
    return directory.path


@pytest.fixture
def with_transactions(data):
    """The log knows an aborted and a committed transaction, of which no ledger has a row."""
    store = LogStore(DataDirectory(data).log_path, "run", 7 * 24 * 3_600_000)
    store.take(TakeRequest(1, 0, "first", [7], 1, "run"), BEGAN_MS)
    records = []
    for number, transaction in enumerate((OLDER, NEWER)):
        records.append(Begun(
            transaction, f"tok_key_{number}", b"f" * 16, "open_books", 1, b"\x80", BEGAN_MS, BEGAN_MS + 1, 1,
            f"order-{number}"))
    records += [Decided(OLDER, Decision.ABORT, BEGAN_MS, "OUT_OF_STOCK", "none of A1", "inventory", "receive", 1),
                Decided(NEWER, Decision.COMMIT, BEGAN_MS), Ended(OLDER, BEGAN_MS), Ended(NEWER, BEGAN_MS)]
    store.append([AppendRequest(1, 0, "first", 1, [EpochRecord(1, record) for record in records])], BEGAN_MS)
    store.close()
    return data


def listed(result):
    assert result.exit_code == 0, result.stderr
    return [one["transaction"] for one in json.loads(result.stdout)["transactions"]]


def test_list_newest_first_without_secrets(run, with_transactions):
    result = run("list", "--data", with_transactions, "--json")
    assert listed(result) == [NEWER, OLDER]
    first = json.loads(result.stdout)["transactions"][0]
    assert (first["state"], first["saga"], first["business_key"]) == ("committed", "open_books", "order-1")
    assert "tok_key" not in result.stdout


@pytest.mark.parametrize(("options", "expected"), [
    (["--state", "aborted"], [OLDER]),
    (["--state", "COMMITTED"], [NEWER]),
    (["--state", "open"], []),
    (["--code", "OUT_OF_STOCK"], [OLDER]),
    (["--key", "order-1"], [NEWER]),
    (["--key", "tok_key_0"], [OLDER]),
    (["--service", "inventory"], [OLDER]),
    (["--service", "payment"], []),
    (["--older-than", "1m"], [NEWER, OLDER]),
    (["--older-than", "9999d"], []),
    (["--parked"], []),
    (["--saga", "place_order"], []),
    (["--since", "2025-11-22T18:41:00"], [NEWER]),
    (["--until", "2025-11-22T18:40:59+00:00"], [OLDER]),
    (["--limit", "1"], [NEWER]),
    (["--after", NEWER], [OLDER]),
])
def test_list_filters(run, with_transactions, options, expected):
    assert listed(run("list", "--data", with_transactions, "--json", *options)) == expected


@pytest.mark.parametrize(("options", "told"), [
    (["--older-than", "yesterday"], "--older-than"), (["--older-than", "5"], "90s, 15m"),
    (["--state", "done"], "--state must be"),
    (["--older-than", "5m", "--until", "1m"], "give one of them")])
def test_list_refuses(run, with_transactions, options, told):
    result = run("list", "--data", with_transactions, *options)
    assert result.exit_code == 2
    assert told in result.stderr


def test_list_for_a_person(run, with_transactions):
    result = run("list", "--data", with_transactions)
    assert result.exit_code == 0
    assert f"{OLDER}  aborted" in result.stdout
    assert "inventory/receive" in result.stdout


def test_show_tells_one_transaction(run, with_transactions):
    result = run("show", OLDER, "--data", with_transactions, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["state"] == "ABORTED"
    assert "OUT_OF_STOCK" in run("show", OLDER, "--data", with_transactions).stdout


@pytest.mark.parametrize(("transaction", "code"), [("nonsense", "E_INVALID_INPUT"), ("0" * 32, "E_UNKNOWN")])
def test_show_refuses(run, with_transactions, transaction, code):
    result = run("show", transaction, "--data", with_transactions)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error {code}: ")
    assert result.stdout == ""


def test_audit_of_nothing_is_ok(run, data):
    result = run("audit", "--data", data, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["ok"], report["violations"], report["open"]) == (True, 0, 0)
    assert "audit ok" in run("audit", "--data", data).stdout


def test_audit_that_fails(run, with_transactions):
    result = run("audit", "--data", with_transactions, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["worst_violation"]["transaction"] == NEWER
    result = run("audit", "--data", with_transactions)
    assert result.exit_code == 1
    assert "audit failed" in result.stdout


def test_audit_with_a_lost_database(run, data):
    DataDirectory(data).service_path("payment").unlink()
    result = run("audit", "--data", data)
    assert result.exit_code == 2
    assert result.stderr.startswith("error E_STORE_REFUSED: ")


@pytest.mark.parametrize("command", [["list"], ["show", OLDER], ["audit"]])
def test_reading_where_nothing_ever_ran(run, tmp_path, command):
    result = run(*command, "--data", tmp_path / "absent")
    assert result.exit_code == 2
    assert result.stderr.startswith("error E_DATA_DIR: ")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("command", [["status"], ["cancel", OLDER]])
def test_nothing_runs(run, tmp_path, command):
    result = run(*command, "--data", tmp_path, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stderr)["error"]["code"] == "E_UNREACHABLE"
    assert result.stdout == ""


def test_submit_where_nothing_runs(run, tmp_path):
    result = run("submit", "-", "--data", tmp_path, input=json.dumps(BOOKS))
    assert result.exit_code == 3
    assert result.stderr.startswith("error E_UNREACHABLE: ")


def test_submit_of_a_file_that_is_not_there(run, tmp_path):
    result = run("submit", tmp_path / "absent.json", "--data", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("error E_INVALID_INPUT: ")


def test_down_where_nothing_runs_is_no_error(run, tmp_path):
    result = run("down", "--data", tmp_path / "absent", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"data": str(tmp_path / "absent"), "stopped": False}
    assert not (tmp_path / "absent").exists()


def test_up_refuses_before_it_starts_anything(run, tmp_path, data):
    file = tmp_path / "file"
    file.touch()
    lock = DataDirectory(data).lock()
    for arguments, code in (
            (["--data", file], "E_DATA_DIR"), (["--data", data], "E_DATA_DIR_IN_USE"),
            (["--data", tmp_path / "new", "--set", "shards=0"], "E_CONFIG"),
            (["--data", tmp_path / "new", "--set", "colour=red"], "E_CONFIG")):
        result = run("up", *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error {code}: ")
    lock.release()


@pytest.mark.parametrize("arguments", [
    ["list", "--limit", "0"], ["list", "--limit", "x"], ["up", "--shards", "65"], ["nonsense"], ["show"], ["submit"],
    ["up", "--log-level", "LOUD"],
])
def test_wrong_use(run, arguments):
    assert run(*arguments).exit_code == 2


def test_version_and_help(run):
    assert run("--version").stdout.startswith("raytx ")
    assert "submit" in run("--help").stdout


def test_settings_from_options():
    settings = parse_settings(['faults={"payment": {"decline": 0.5}}', "log_level=DEBUG"], {}, shards=3, log_level=None)
    assert (settings.shards, settings.log_level, settings.faults["payment"].decline) == (3, "DEBUG", 0.5)
    with pytest.raises(DefiniteError, match="NAME=VALUE"):
        parse_settings(["shards"], {})


def test_settings_are_those_of_the_last_start_unless_given():
    last = {"shards": 4, "retention_ms": 5_000}
    settings = parse_settings(["retention_ms=9000"], last, shards=None, log_level=None)
    assert (settings.shards, settings.retention_ms) == (4, 9_000)


def test_times():
    assert parse_time("--since", None) is None
    assert parse_time("--since", "2025-11-22T18:40:00") == BEGAN_MS
    assert parse_time("--since", "2025-11-22T19:40:00+01:00") == BEGAN_MS
    now_ms = time.time_ns() // 1_000_000
    assert now_ms - 120_000 - 10_000 < parse_time("--since", "2m") <= now_ms - 120_000 + 10_000
    with pytest.raises(DefiniteError, match="--until"):
        parse_time("--until", "yesterday")


@pytest.mark.parametrize("text", [
    json.dumps(BOOKS), json.dumps([BOOKS, BOOKS]), json.dumps({"saga": "open_books", "input": BOOKS, "key": "k"}),
    f"{json.dumps(BOOKS)}\n\n{json.dumps({'input': BOOKS, 'deadline_ms': 5})}\n", json.dumps(BOOKS, indent=2),
])
def test_submissions_in_every_shape(text):
    found = read_submissions(text, shop, "open_books")
    assert {one.saga for one in found} == {"open_books"}
    assert all(one.input == BOOKS for one in found)


@pytest.mark.parametrize(("text", "code", "told"), [
    ("", "E_INVALID_INPUT", "not JSON"),
    ("[]", "E_INVALID_INPUT", "no transaction"),
    ("{", "E_INVALID_INPUT", "not JSON"),
    ("3", "E_INVALID_INPUT", "transaction 1: an object"),
    ('{"stock": [], "accounts": NaN}', "E_INVALID_INPUT", "NaN"),
    ('{"stock": []}\n{"stock": [}', "E_INVALID_INPUT", "line 2"),
    (json.dumps([BOOKS, {"stock": 3}]), "E_INVALID_INPUT", "transaction 2: open_books: stock"),
    ('{"saga": "nonsense", "input": {}}', "E_UNKNOWN_SAGA", "nonsense"),
    ('{"saga": 3, "input": {}}', "E_INVALID_INPUT", "saga"),
    ("[" * 100_000, "E_INVALID_INPUT", ""),
])
def test_submissions_that_are_refused_whole(text, code, told):
    with pytest.raises(DefiniteError) as caught:
        read_submissions(text, shop, "open_books")
    assert caught.value.code == code
    assert told in caught.value.message
