"""Canary secrets through core, log, stores, logs, command line and console, without Ray; the whole is `chaos/canaries.py`."""

from __future__ import annotations

import re
from contextlib import closing, redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from typer.testing import CliRunner

from chaos import canary_app
from chaos.canaries import crawl, judge
from orchestrator.cli import build_cli
from orchestrator.config import LogLevel
from orchestrator.console.guard import Access
from orchestrator.console.records import Records
from orchestrator.console.site import build_site
from orchestrator.deployment import DataDirectory
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader
from orchestrator.logs import configure_logging, log_event
from orchestrator.protocol.effects import Effects
from unit.console_site import PlayedLink
from unit.shop_in_process import Shop

TRANSACTIONS = 14
APP = "chaos.canary_app:app"
SITE = "http://127.0.0.1:8300"


class Logging(Shop):
    """A shop that writes its notices as a shard does, and lets time pass."""

    def run(self, effects: Effects, lost: str = "") -> None:
        for notice in effects.notices:
            log_event(notice.event, level=notice.level, transaction=notice.transaction, service=notice.service,
                      step=notice.step, attempt=notice.attempt, code=notice.code, message=notice.message)
        super().run(effects, lost)

    def _append(self, effects: Effects) -> Effects:
        return self._noted(super()._append(effects))

    def _call(self, service: str, commands: list[Any]) -> Effects:
        return self._noted(super()._call(service, commands))

    def _noted(self, effects: Effects) -> Effects:
        for notice in effects.notices:
            log_event(notice.event, level="WARNING", transaction=notice.transaction, message=notice.message)
        return effects

    def settle(self) -> None:
        for _ in range(40):
            self.now_ms += 1_000
            self.run(self.core.tick(self.now_ms))


@pytest.fixture(scope="module")
def tops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The data of a deployment that has run and is down, and what was shown of it."""
    work = tmp_path_factory.mktemp("canaries")
    answers = work / "answers"
    answers.mkdir()
    shop = Logging(work / "data", canary_app.app)
    with (answers / "stderr.txt").open("w") as stderr, redirect_stderr(stderr):
        configure_logging("shard-0", work / "data", LogLevel.DEBUG)
        try:
            for number in range(TRANSACTIONS):
                shop.submit(f"{canary_app.TOKEN}-{number}", "pay", {"number": number})
            shop.settle()
        finally:
            shop.close()
            configure_logging("none", None, LogLevel.INFO, stderr=False)
    ask_commands(work / "data", answers)
    Pages(work / "data", answers).take()
    return {"data": work / "data", "answers": answers}


def ask_commands(data: Path, answers: Path) -> None:
    """Whatever shows transactions of a deployment that is down."""
    runner, commands = CliRunner(), build_cli(APP)
    with closing(LogReader(DataDirectory(data).log_path)) as log:
        found = log.find(TransactionQuery(limit=1_000))
    assert {one.state for one in found if not one.parked} == {"aborted", "committed"}
    assert any(one.parked for one in found)
    asked = [["audit"], ["list"], ["list", "--parked"], ["acts"], *(["show", one.transaction] for one in found)]
    for number, command in enumerate(asked):
        for how in ([], ["--json"]):
            result = runner.invoke(commands, [*command, *how, "--data", str(data), *(
                ["--app", APP] if command[0] in {"audit", "show"} else [])])
            assert result.exit_code == 0, result.output
            (answers / f"{number:03}-{command[0]}{len(how)}.txt").write_text(result.output)


class Pages:
    """The console's pages, asked for as its browser would; see `chaos.canaries.crawl`."""

    def __init__(self, data: Path, answers: Path) -> None:
        from starlette.testclient import TestClient  # noqa: PLC0415 - of the extra `console`

        self._browser = TestClient(build_site(Records(DataDirectory(data), APP), PlayedLink(), Access()), base_url=SITE)
        self._answers, self.count = answers, 0

    def take(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("chaos.canaries.fetch", lambda address: self._browser.get(address.removeprefix(SITE)).text)
            crawl(self, f"{SITE}/", pages_max=40)  # type: ignore[arg-type]
        assert self.count > 20

    def keep(self, name: str, text: str) -> None:
        self.count += 1
        (self._answers / f"page-{self.count:03}-{name}").write_text(text)


def test_no_secret_is_found(tops: dict[str, Path]) -> None:
    report = judge(tops, "unset", [])
    assert report["ok"], report
    assert report["control"] > TRANSACTIONS  # every transaction was shown, and more than once


def test_the_secrets_were_there_to_be_found(tops: dict[str, Path]) -> None:
    stores = b"".join(path.read_bytes() for path in tops["data"].rglob("*.sqlite*"))
    for secret in (canary_app.TYPED, canary_app.NAMED, canary_app.TOKEN, canary_app.CARD):
        assert secret.encode() in stores
    shown = "".join(path.read_text() for path in tops["answers"].iterdir())
    assert shown.count("[redacted]") > 5 * TRANSACTIONS


def test_a_line_that_user_code_writes_in_a_command_is_redacted(tops: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def audit(*_: Any, **__: Any) -> Any:
        logger.warning(f"counting password={canary_app.NAMED} and {canary_app.TOKEN}")
        raise RuntimeError(canary_app.TOKEN)

    monkeypatch.setattr(canary_app.Vault, "audit", audit)
    result = CliRunner().invoke(build_cli(APP), ["audit", "--data", str(tops["data"]), "--app", APP])
    assert "counting password=[redacted] and [redacted]" in result.stderr
    assert canary_app.WORD + "named" not in result.output
    assert canary_app.TOKEN not in result.output


def test_services_were_as_careless_as_they_can_be(tops: dict[str, Path]) -> None:
    lines = "".join(path.read_text() for path in (tops["data"] / "logs").iterdir())
    for event in ("handler_failed", "aborted", "parked", '"event":"log"'):
        assert event in lines
    for written in (lines, (tops["answers"] / "stderr.txt").read_text()):
        assert re.search(r"charging .*\[redacted\]", written)
