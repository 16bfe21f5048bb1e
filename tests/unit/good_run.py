"""One good run of the shop, history and stores, for tests to spoil copies of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from actors.orders import app
from loadgen.checker.limits import Limits
from loadgen.checker.report import CheckReport
from loadgen.checker.run import check_stores
from loadgen.history import Call, History, Operation
from loadgen.workload import Told
from orchestrator.protocol.identifiers import began_ms_of, epoch_of, make_id, partition_of, partition_of_key
from orchestrator.protocol.messages import OutcomeStatus
from orchestrator.protocol.records import Begun
from unit.shop_in_process import Shop, order
from unit.stores_in_memory import MemoryLedger, MemoryLog, in_memory

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.checker.stores import Stores

TOLD = {OutcomeStatus.COMMITTED: Told.COMMITTED, OutcomeStatus.ABORTED: Told.ABORTED}


@dataclass
class Run:
    """A history with the stores that it left; `id_of` knows the transaction of each key."""

    history: History
    stores: Stores
    id_of: dict[str, str]

    @property
    def log(self) -> MemoryLog:
        assert isinstance(self.stores.log, MemoryLog)
        return self.stores.log

    def ledger(self, service: str) -> MemoryLedger:
        found = self.stores.ledgers[service]
        assert isinstance(found, MemoryLedger)
        return found

    def operation(self, key: str) -> Operation:
        return next(one for one in self.history.operations if one.key == key)

    def ask(self, key: str, told: Told, transaction: str = "", **fields: Any) -> None:
        self.history.operations.append(
            Operation("other", Call.SUBMIT, key, "place_order", {}, 1, told, transaction, **fields))

    def lie(self, key: str, told_now: Told) -> None:
        """The client was told something else."""
        self.operation(key).told = told_now

    def spoil_row(self, service: str, key: str, step: str, **changes: Any) -> None:
        """Change one ledger row."""
        transaction = self.id_of[key]
        self.ledger(service).replace(lambda row: row.transaction == transaction and row.step == step, **changes)

    def add_units(self, **changes: int) -> None:
        """Change the state of the SKU."""
        names = ("on_hand", "reserved", "sold", "returned", "received")
        units = self.values("inventory")["sku/85123A"]
        for name, more in changes.items():
            units[names.index(name)] += more

    def add_money(self, **changes: float) -> None:
        """Change the state of the account."""
        account = self.values("payment")["account/c-1"]
        for name, more in changes.items():
            account[f"{name}_minor"] += more

    def values(self, service: str) -> dict[str, Any]:
        """The state of a service, to be changed."""
        return self.ledger(service).values

    def record_ms(self, kind: type, key: str) -> int:
        """When the log stored that record of a key's transaction."""
        return self.log.stored[self.log.of(kind, self.id_of[key])].at_ms

    def begin_again(self, key: str, epoch: int, *, rename: bool = True) -> None:
        """Another transaction like that one, in an epoch of the same partition, under the same key or a new one."""
        begun = self.log.stored[self.log.of(Begun, self.id_of[key])].record
        assert isinstance(begun, Begun)
        partition = partition_of(begun.transaction)
        names = (f"{key}-{number}" for number in range(10_000))
        other = next(name for name in names if partition_of_key(name) == partition)
        transaction = make_id(begun.began_ms, partition, epoch, len(self.log.stored))
        self.log.append(msgspec.structs.replace(begun, transaction=transaction, key=other if rename else key))

    def begin_long_ago(self, key: str) -> None:
        """The clock of the shard that began a transaction was an hour behind: its id sorts below all others."""
        known = self.id_of[key]
        began_ms = began_ms_of(known) - 3_600_000
        self.id_of[key] = self.operation(key).transaction = make_id(began_ms, partition_of(known), epoch_of(known), 1)
        self.log.stored = [
            msgspec.structs.replace(one, record=msgspec.structs.replace(one.record, transaction=self.id_of[key]))
            if one.record.transaction == known else one for one in self.log.stored]
        for service in self.stores.ledgers:
            rows = [
                msgspec.structs.replace(row, transaction=self.id_of[key]) if row.transaction == known else row
                for row in self.ledger(service).all_rows]
            self.ledger(service).all_rows = sorted(rows, key=lambda row: (row.transaction, row.step))

    def check(self, **limits: Any) -> CheckReport:
        report = CheckReport()
        check_stores(self.history, self.stores, app, Limits(**limits), report)
        return report


def told(shop: Shop, key: str, amount_minor: int) -> Operation:
    asked = {"amount_minor": amount_minor} if amount_minor else {}
    found = shop.outcomes.get(key)
    if found is None:
        return Operation("driver", Call.SUBMIT, key, "place_order", asked, 1)
    return Operation("driver", Call.SUBMIT, key, "place_order", asked, 1, TOLD[found.status], found.transaction, found.code, 2)


def give_back(number: int, order_number: int) -> dict[str, Any]:
    return {"return_id": f"r-{number}", "order_id": f"o-{order_number}", "customer": "c-1", "amount_minor": 150,
            "lines": [{"sku": "85123A", "quantity": 1, "unit_price_minor": 150}]}


def good_run(path: Path) -> Run:
    """Books, three orders committed, one refused for its stock, one rolled back for its money, one return, one unanswered."""
    shop = Shop(path)
    shop.submit("books", "open_books", {
        "stock": [{"sku": "85123A", "quantity": 10}],
        "accounts": [{"account": "c-1", "amount_minor": 100_000}, {"account": "c-2", "amount_minor": 10}]})
    amounts = {"books": 0}
    for number in range(3):
        shop.submit(f"k-{number}", "place_order", order(number))
        amounts[f"k-{number}"] = 300
    for key, placed in (("k-3", order(3, quantity=50)), ("k-4", {**order(4), "customer": "c-2"})):
        shop.submit(key, "place_order", placed)
        amounts[key] = placed["amount_minor"]
    shop.submit("r-1", "return_items", give_back(1, 1))
    amounts["r-1"] = 150
    history = History([told(shop, key, amount) for key, amount in amounts.items()])
    shop.close()
    stores = in_memory(shop.path, app)
    id_of = {one.record.key: one.record.transaction for one in stores.log.records() if isinstance(one.record, Begun)}
    return Run(history, stores, id_of)
