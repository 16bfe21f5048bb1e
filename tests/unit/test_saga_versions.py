"""Versions of a saga in flight through restarts, over the real log and store: each ends by its own definition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from actors.runner import Work
from actors.store import Retention
from integration import versions_app
from orchestrator.app import App
from orchestrator.audit import audit
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader
from orchestrator.protocol.effects import Effects
from orchestrator.protocol.messages import Command, OutcomeStatus
from orchestrator.saga import decode_plain
from orchestrator.timeline import timeline
from unit.shop_in_process import Shop


class Gated(Shop):
    """A deployment whose services wait for somebody outside, until the gate is opened."""

    opened = False

    def _call(self, service: str, commands: list[Command]) -> Effects:
        works = [Work(command, "shard-0", "open") if self.opened else Work(command, "shard-0") for command in commands]
        outcomes = self.runners[service].run(works, Retention(), self.now_ms)
        return self.core.receive([one.reply for one in outcomes if one.reply is not None], self.now_ms)

    def settle(self) -> None:
        """Let time pass until everything that is repeated has been."""
        for _ in range(40):
            self.now_ms += 1_000
            self.run(self.core.tick(self.now_ms))


@contextmanager
def running(path: Path, app: App, incarnation: str) -> Iterator[Gated]:
    deployment = Gated(path, app, incarnation)
    try:
        yield deployment
    finally:
        deployment.close()


def found(path: Path, **query: Any) -> list[tuple[str, int, str, bool]]:
    with closing(LogReader(path / "log" / "log.sqlite")) as log:
        return sorted((one.key, one.version, one.state, one.parked) for one in log.find(TransactionQuery(**query)))


def test_each_version_ends_by_its_own_definition(tmp_path: Path, occurred: Any) -> None:
    with running(tmp_path, versions_app.old, "a") as first:
        assert first.submit("one", "book", {"gate": "g"}) is None
    with running(tmp_path, versions_app.both, "b") as second:  # begun by the newest version; the other goes on
        assert second.submit("two", "book", {"gate": "g", "colour": "red"}) is None
        assert found(tmp_path) == [("one", 1, "preparing", False), ("two", 2, "preparing", False)]
    with running(tmp_path, versions_app.new, "c") as third:  # the first version is gone: parked, not dropped, not driven
        third.opened = True
        third.settle()
        assert found(tmp_path) == [("one", 1, "preparing", True), ("two", 2, "committed", False)]
        (parked,) = _shown(tmp_path, versions_app.new, "one")["parked"]
        assert (parked["code"], parked["message"]) == (
            "E_UNKNOWN_SAGA", "saga 'book' version 1 is not in the deployed app")
    with running(tmp_path, versions_app.both, "d") as fourth:
        fourth.opened = True
        fourth.settle()
    assert found(tmp_path, state="open") == []
    assert [(key, state) for key, _, state, _ in found(tmp_path)] == [("one", "committed"), ("two", "committed")]
    results = {key: {step["step"]: step["result"] for step in _shown(tmp_path, versions_app.both, key)["steps"]}
               for key in ("one", "two")}
    assert results == {
        "one": {"text": {"what": "plain text"}}, "two": {"text": {"what": "red text"}, "cover": {"what": "red cover"}}}
    assert audit(tmp_path, versions_app.both).ok
    occurred("87")


def test_a_parked_version_is_no_longer_so_once_it_is_deployed_again(tmp_path: Path) -> None:
    with running(tmp_path, versions_app.old, "a") as first:
        first.submit("one", "book", {"gate": "g"})
    with running(tmp_path, versions_app.new, "b") as second:
        second.settle()
    assert found(tmp_path, parked=True) != []
    with running(tmp_path, versions_app.both, "c") as third:
        third.opened = True
        third.settle()
    assert found(tmp_path, parked=True) == []


def test_new_transactions_run_the_newest_version_and_may_not_choose(tmp_path: Path) -> None:
    with running(tmp_path, versions_app.both, "a") as deployment:
        deployment.opened = True
        outcome = deployment.submit("k", "book", {"gate": "g", "colour": "red"})
        assert outcome is not None
        assert outcome.status is OutcomeStatus.COMMITTED
        assert {one.step: decode_plain(one.result)["what"] for one in outcome.results} == {
            "text": "red text", "cover": "red cover"}


def _shown(path: Path, app: App, key: str) -> dict[str, Any]:
    with closing(LogReader(path / "log" / "log.sqlite")) as log:
        (one,) = [one for one in log.find(TransactionQuery()) if one.key == key]
    return timeline(path, app, one.transaction).to_json()
