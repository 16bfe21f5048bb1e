"""The shop without Ray: the core, the log and the services' real stores in one process; calls between actors are calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.orders import app as shop
from actors.runner import BatchRunner, Work
from actors.store import Retention, Store
from orchestrator.deployment import DataDirectory
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.messages import SCHEMA_VERSION, Command, OutcomeMessage, SubmitRequest
from orchestrator.protocol.records import AppendRequest, EpochRecord, TakeRequest

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.app import App

START_MS = 1_700_000_000_000
RETENTION_MS = 7 * 24 * 3_600_000
ADDRESS = {"name": "A. Person", "street": "High Street 1", "city": "York", "country": "GB"}


class Shop:
    """A deployment without actors: what would be calls between them are calls.

    Args:
        path: of its data.
        app: that is deployed.
        incarnation: of its shard; another one after a restart.
    """

    def __init__(self, path: Path, app: App = shop, incarnation: str = "shard-a") -> None:
        self.path, self.app, self._incarnation = path, app, incarnation
        self.now_ms = START_MS
        directory = DataDirectory(path)
        directory.prepare()
        directory.create_databases(app, create_log)
        self.log = LogStore(directory.log_path, "run", RETENTION_MS, clock=lambda: self.now_ms)
        self.stores = {name: Store(directory.service_path(name), name, "run") for name in app.by_service}
        self.runners = {
            service.name: BatchRunner(service.name, service.bound, self.stores[service.name])  # type: ignore[attr-defined]
            for service in app.services}
        self.core = Coordinator({(saga.name, saga.version): saga for saga in app.sagas}, open_max=1_000)
        self.outcomes: dict[str, OutcomeMessage] = {}
        self._numbers: dict[int, str] = {}
        self._sequence = 0
        self._closed = False
        everything = list(range(256))
        taken = self.log.take(TakeRequest(SCHEMA_VERSION, 0, incarnation, everything, 1, "run"), self.now_ms)
        self.run(self.core.adopt(dict(zip(everything, taken.epochs, strict=True)), taken.open, self.now_ms))

    def submit(self, key: str, saga: str, data: dict[str, Any], *, until: str = "") -> OutcomeMessage | None:
        """Run a transaction to its end, or up to the first command for the service `until`, which is lost."""
        number = len(self._numbers)
        self._numbers[number] = key
        request = SubmitRequest(number, key, saga, self.app.saga(saga).encode_input(data), 0)
        self.run(self.core.submit([(Waiter("client", number), request)], self.now_ms), lost=until)
        return self.outcomes.get(key)

    def run(self, effects: Effects, lost: str = "") -> None:
        waiting = [effects]
        while waiting:
            now = waiting.pop(0)
            self.now_ms += 1
            for waiter, outcome in now.outcomes:
                self.outcomes[self._numbers[waiter.number]] = outcome
            if now.records:
                waiting.append(self._append(now))
            waiting += [self._call(service, commands) for service, commands in now.commands.items() if service != lost]

    def _append(self, effects: Effects) -> Effects:
        self._sequence += 1
        records = [
            EpochRecord(self.core.epochs[int(record.transaction[12:14], 16)], record) for record in effects.records]
        reply = self.log.append([AppendRequest(SCHEMA_VERSION, 0, self._incarnation, self._sequence, records)], self.now_ms)[0]
        return self.core.appended(zip(effects.records, reply.results, strict=True), self.now_ms)

    def _call(self, service: str, commands: list[Command]) -> Effects:
        works = [Work(command, "shard-0") for command in commands]
        outcomes = self.runners[service].run(works, Retention(), self.now_ms)
        return self.core.receive([one.reply for one in outcomes if one.reply is not None], self.now_ms)

    def close(self) -> None:
        for owned in (self.log, *self.stores.values()) if not self._closed else ():
            owned.close()
        self._closed = True


def order(number: int, quantity: int = 2) -> dict[str, Any]:
    return {
        "order_id": f"o-{number}", "customer": "c-1", "amount_minor": quantity * 150, "card_token": "tok_canary",
        "lines": [{"sku": "85123A", "quantity": quantity, "unit_price_minor": 150}], "address": ADDRESS,
        "email": "a@example.org"}
