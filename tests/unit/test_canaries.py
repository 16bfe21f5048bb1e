"""The search for canary secrets finds what is planted, wherever and however it is written."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from chaos.canaries import Raytx, crawl, judge, search

SECRET = "CANARY0123456789abcdef"
WANTED = {"pin": SECRET, "other": "CANARYother"}


@pytest.fixture
def tops(tmp_path: Path) -> dict[str, Path]:
    """What a deployment leaves, clean."""
    for name in ("data/logs", "data/services", "answers", "ray/session_1/logs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/logs/log-1.jsonl").write_text('{"event":"serving"}\n')
    (tmp_path / "data/services/vault.sqlite").write_bytes(SECRET.encode())
    (tmp_path / "data/services/vault.sqlite-wal").write_bytes(SECRET.encode())
    return {name: tmp_path / name for name in ("data", "answers", "ray")}


def test_a_clean_deployment_has_none_but_in_its_databases(tops: dict[str, Path]) -> None:
    assert search(tops, WANTED) == {"pin": [], "other": []}


@pytest.mark.parametrize("path", [
    "data/logs/log-1.jsonl", "data/spans-log-1.jsonl", "answers/001-show.txt", "ray/session_1/logs/worker-1.err",
    "data/deployment.json", "data/services/vault.sqlite.copy"])
@pytest.mark.parametrize("written", [
    SECRET.encode(), f'{{"pin":"{SECRET}"}}'.encode(), SECRET.encode().hex().encode(), base64.b64encode(SECRET.encode()),
    base64.b64encode(b"a" + SECRET.encode()), base64.b64encode(b"ab" + SECRET.encode() + b"cd"), b"\xff\x00" + SECRET.encode(),
], ids=["text", "json", "hex", "base64", "base64 at 1", "base64 at 2", "binary"])
def test_a_planted_leak_is_found(tops: dict[str, Path], tmp_path: Path, path: str, written: bytes) -> None:
    with (tmp_path / path).open("ab") as file:
        file.write(b"before " + written + b" after")
    assert search(tops, WANTED) == {"pin": [path], "other": []}


def test_a_secret_in_the_name_of_a_file_is_found(tops: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "ray" / f"worker-{SECRET}.log").touch()
    assert search(tops, WANTED)["pin"] == [f"ray/worker-{SECRET}.log"]


def test_the_verdict(tops: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "RAYTX_CANARY", "unset")
    blind = judge(tops, "unset", ["show"])
    assert (blind["ok"], blind["hits"], blind["control"]) == (False, 0, 0)  # nothing was shown: it says nothing
    (tmp_path / "answers/001-show.txt").write_text("memo unsetplain pin [redacted]")
    assert judge(tops, "unset", ["show"])["ok"]
    (tmp_path / "answers/002-show.txt").write_text("pin unsettyped")
    assert judge(tops, "unset", ["show"])["found"] == {"SecretStr": ["answers/002-show.txt"]}


def test_links_are_followed_within_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {
        "http://127.0.0.1:1/": '<a href="/t/1">x</a><a href="http://elsewhere/">y</a><a href="#top">z</a>',
        "http://127.0.0.1:1/t/1": f'<a href="/">{SECRET}</a>'}
    monkeypatch.setattr("chaos.canaries.fetch", pages.__getitem__)
    raytx = Raytx(tmp_path, {})
    crawl(raytx, "http://127.0.0.1:1/")
    assert len(list(raytx.answers.iterdir())) == 2
    assert search({"answers": raytx.answers}, WANTED)["pin"] == ["answers/002-page.html"]
