from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest
from loguru import logger

from orchestrator import logs
from orchestrator.config import LogLevel

CARD = "4111111111111111"
TOKEN = "tok_visa_canary"


@pytest.fixture(autouse=True)
def _quiet():
    yield
    logs.configure_logging("test", None, LogLevel.ERROR, stderr=False)


def read(tmp_path, role="shard-0"):
    path = tmp_path / "logs" / f"{role}-{os.getpid()}.jsonl"
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def test_one_json_line_per_event(tmp_path):
    logs.configure_logging("shard-0", tmp_path, LogLevel.INFO, stderr=False)
    logs.log_event("aborted", transaction="ab" * 16, service="payment", step="hold", status="ABORTED", attempt=3,
                   code="E_TIMEOUT", message="too {slow}", waited_ms=12)
    path, (line,) = read(tmp_path)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO", "role": "shard-0", "pid": os.getpid(), "event": "aborted", "transaction": "ab" * 16,
        "service": "payment", "step": "hold", "status": "ABORTED", "attempt": 3, "code": "E_TIMEOUT",
        "message": "too {slow}", "waited_ms": 12}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_disabled_level_writes_nothing(tmp_path):
    logs.configure_logging("shard-0", tmp_path, LogLevel.WARNING, stderr=False)
    logs.log_event("step", level="DEBUG")
    logs.log_event("aborted")
    assert not logs.debug_enabled()
    logs.log_event("parked", level="ERROR")
    logs.log_event("crashed", level="CRITICAL")
    assert [line["event"] for line in read(tmp_path)[1]] == ["parked", "crashed"]


def test_off_writes_nothing_at_all(tmp_path, capsys):
    logs.configure_logging("shard-0", tmp_path, LogLevel.OFF)
    logs.log_event("crashed", level="CRITICAL")
    assert not (tmp_path / "logs").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("level", ["INFO", "WARNING", "ERROR", "CRITICAL"])
def test_every_level_that_the_code_names_can_be_written(tmp_path, level):
    logs.configure_logging("shard-0", tmp_path, LogLevel.INFO, stderr=False)
    logs.log_event("alarm", level=level)
    assert read(tmp_path)[1][0]["level"] == level


def test_debug_enabled_follows_the_level(tmp_path):
    logs.configure_logging("shard-0", tmp_path, LogLevel.DEBUG, stderr=False)
    assert logs.debug_enabled()


def test_nothing_is_written_before_configuration():
    code = "from orchestrator.logs import *; log_event('aborted', level='ERROR'); print(debug_enabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_stderr_line_is_readable(capsys):
    logs.configure_logging("payment", None, LogLevel.INFO)
    logs.log_event("retry", service="payment", attempt=2, message="slow")
    line = capsys.readouterr().err.strip()
    assert line.endswith("INFO    payment retry service=payment attempt=2 message=slow")


def test_lines_of_user_code_are_kept_and_redacted(tmp_path):
    logs.configure_logging("payment", tmp_path, LogLevel.INFO, stderr=False)
    try:
        int(CARD + "x")
    except ValueError:
        logger.exception(f"charging {TOKEN} {{braces}}")
    path, (line,) = read(tmp_path, "payment")
    assert line["event"] == "log"
    assert line["message"] == "charging [redacted] {braces}"
    assert line["error"] == "ValueError: invalid literal for int() with base 10: '[redacted]x'"
    assert CARD not in path.read_text()


@pytest.mark.parametrize("text", [
    f"paid with {TOKEN}", f"({TOKEN})", f"card {CARD} declined", f"pan{CARD}", "4111 1111 1111 1111",
    "4111-1111-1111-1111", "3782 822463 10005", f"{{'card_token': '{TOKEN}'}}", "Authorization: Bearer abc.def-canary",
    "password=canary",
    'password: "two words canary"', "api_key='canary'", "client_secret=canary;",
])
def test_secrets_in_texts(text, occurred):
    redacted = logs.redact(text)
    assert "canary" not in redacted
    assert CARD not in redacted
    assert "1111" not in redacted
    assert "822463" not in redacted
    assert logs.REDACTED in redacted
    occurred("95")


def test_secrets_by_key_at_any_depth(occurred):
    lines = [{"sku": "A", "Password": "canary"}]
    data = {"order": {"card_token": "canary", "lines": lines}, "token": "", "n": 5, "ok": True}
    assert logs.redact(data) == {
        "order": {"card_token": "[redacted]", "lines": [{"sku": "A", "Password": "[redacted]"}]}, "token": "", "n": 5,
        "ok": True}
    occurred("95")


def test_a_card_number_as_a_number():
    assert logs.redact({"card": int(CARD)}) == {"card": "[redacted]"}


@pytest.mark.parametrize("harmless", [
    "0193a7b2c3d40000000100000000000001", "12345678901234567890123456789012", "order 536365 of 17850",
    "2025-11-22T19:51:00.123Z",
    1_763_836_800_000, None, 1.5, "a tokenizer", "stocktok_x",
])
def test_what_is_no_secret_stays(harmless):
    assert logs.redact(harmless) == harmless


def test_files_of_dead_processes_are_dropped(tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()
    dead = 2**22 + 1  # above pid_max
    for number in range(8):
        path = directory / f"log-{dead + number}.jsonl"
        path.touch()
        os.utime(path, (number, number))
    live = directory / f"log-{os.getppid()}.jsonl"
    live.touch()
    os.utime(live, (0, 0))
    other = directory / f"shard-0-{dead}.jsonl"
    other.touch()
    logs.configure_logging("log", tmp_path, LogLevel.INFO, stderr=False)
    left = sorted(path.name for path in directory.iterdir())
    assert live.name in left
    assert other.name in left
    mine = f"log-{os.getpid()}.jsonl"
    dropped_not = [name for name in left if name.startswith("log-") and name not in (live.name, mine)]
    assert dropped_not == [f"log-{dead + number}.jsonl" for number in (4, 5, 6, 7)]
