"""What the pages read from the data directory: it is there whether the deployment runs or not."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from orchestrator.advice import Observed
from orchestrator.app import load_app
from orchestrator.errors import DefiniteError
from orchestrator.log.finding import TransactionQuery, TransactionSummary
from orchestrator.log.reader import LogReader
from orchestrator.logs import redact
from orchestrator.observation import observe
from orchestrator.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.app import App
    from orchestrator.deployment import DataDirectory
    from orchestrator.log.acts import StoredAct
    from orchestrator.protocol.records import Pause
    from orchestrator.timeline import Timeline

PAGE_MAX = 200
PARKED_MAX = 200


class ParkedStep(NamedTuple):
    """A step that needs an operator, with what is known of its transaction; texts are redacted."""

    transaction: str
    saga: str
    state: str
    business_key: str
    step: str
    code: str
    message: str
    at_ms: int


class Brief(NamedTuple):
    """A transaction in one line."""

    transaction: str
    saga: str
    state: str
    business_key: str
    began_ms: int
    parked: list[str]  # steps


class Deployed(NamedTuple):
    """What the app has, as far as it can be imported here: versions by saga, and services."""

    sagas: dict[str, list[int]]
    services: list[str]


class LogFacts(NamedTuple):
    """What the log says of itself."""

    records: int
    open: int
    watermark_ms: int
    epochs: dict[int, int]


class Records:
    """Reads log and ledgers, one snapshot a question.

    Args:
        directory: the data directory.
        app_path: import path of the app that ran there.
    """

    def __init__(self, directory: DataDirectory, app_path: str) -> None:
        self.directory, self._app_path, self._app_run = directory, app_path, ""

    @cached_property
    def app(self) -> App:
        """Services and sagas.

        Raises:
            DefiniteError: E_CONFIG: it cannot be imported.
        """
        record = self.directory.record()
        if record is not None:
            sys.path.extend(entry for entry in record.app_path if entry not in sys.path)
            self._app_run = record.run
        return load_app(self._app_path)

    @property
    def outdated(self) -> bool:
        """Whether the deployment was started anew, perhaps with another app, since this process imported its own."""
        record = self.directory.record() if self._app_run else None
        return record is not None and record.run != self._app_run

    def deployed(self) -> Deployed:
        """Names to choose among; an app that cannot be imported must not keep anybody from the lists."""
        try:
            app = self.app
        except DefiniteError:
            record = self.directory.record()
            return Deployed({}, record.services if record else [])
        sagas: dict[str, list[int]] = {}
        for saga in app.sagas:
            sagas.setdefault(saga.name, []).append(saga.version)
        return Deployed({name: sorted(sagas[name]) for name in sorted(sagas)}, [service.name for service in app.services])

    def find(self, query: TransactionQuery) -> list[TransactionSummary]:
        """The newest transactions that fit, redacted.

        Raises:
            DefiniteError: E_INVALID_INPUT, E_STORE_REFUSED.
        """
        with closing(LogReader(self.directory.log_path)) as log:
            return [_redacted(one) for one in log.find(query)]

    def timeline(self, transaction: str) -> Timeline:
        """One transaction, redacted.

        Raises:
            DefiniteError: E_INVALID_INPUT, E_UNKNOWN, E_STORE_REFUSED.
        """
        return timeline(self.directory.path, self.app, transaction)

    def parked(self) -> tuple[list[ParkedStep], bool]:
        """Steps that need an operator, of the newest transactions that have any; and whether there are more."""
        found = self.find(TransactionQuery(parked=True, limit=PARKED_MAX + 1))
        return [
            ParkedStep(
                one.transaction, one.saga, one.state, one.business_key, parked.step, parked.code, parked.message, parked.at_ms)
            for one in found[:PARKED_MAX] for parked in one.parked_steps], len(found) > PARKED_MAX

    def acts(self, limit: int) -> list[StoredAct]:
        """What operators did, the newest first."""
        with closing(LogReader(self.directory.log_path)) as log:
            return log.acts(limit=limit)

    def pauses(self) -> list[Pause]:
        """What is paused, by whom and why."""
        with closing(LogReader(self.directory.log_path)) as log:
            return log.pauses().paused

    def briefs(self, transactions: Sequence[str]) -> dict[str, Brief]:
        """Those of these transactions that the log knows, by id."""
        with closing(LogReader(self.directory.log_path)) as log:
            found = log.load([], transactions)
        return {
            one.begun.transaction: Brief(
                one.begun.transaction, one.begun.saga, one.state.name.lower(), _text(one.begun.business_key),
                one.begun.began_ms, [parked.step for parked in one.parked])
            for one in found}

    def facts(self) -> LogFacts:
        """What the log says of itself; cheap, whatever its length."""
        with closing(LogReader(self.directory.log_path)) as log:
            return LogFacts(log.last_record, log.open_count(), log.watermark_ms, log.epochs())

    def observed(self, actors: Sequence[dict[str, Any]]) -> Observed:
        """What there is to judge.

        Args:
            actors: what they said of themselves; none where they cannot be asked.
        """
        record = self.directory.record()
        if record is not None:
            return observe(self.directory, record, actors)
        now_ms = time.time_ns() // 1_000_000
        with closing(LogReader(self.directory.log_path)) as log:  # files that were never served
            return Observed(actors=actors, backlog=log.backlog(now_ms), now_ms=now_ms)


def _redacted(one: TransactionSummary) -> TransactionSummary:
    plain: dict[str, Any] = redact(msgspec.to_builtins(one)) | {"transaction": one.transaction}
    return msgspec.convert(plain, TransactionSummary)


def _text(value: str) -> str:
    return str(redact(value))
