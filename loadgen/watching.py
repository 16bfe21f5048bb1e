"""A reader beside a running deployment: what it sees in snapshots of the services' databases goes into the history.

It looks where it matters: at the stock and money that is held just now, and at the orders that it has seen being held,
until they are settled or gone. Whether it may have seen that is for `loadgen.checker` to say.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self, runtime_checkable

from loadgen.history import HistoryWriter
from orchestrator.app import App, LedgerRow
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError

PAUSE_S: Final = 0.02
SHARE: Final = 0.1  # of the time is spent reading, at most: the deployment needs the processors
NAMES_MAX: Final = 8  # SKUs or accounts of one read
ORDERS_MAX: Final = 64  # orders that are followed at a time, by service
LOOKS_AFTER: Final = 5  # looks at an order that is held no more
SETTLED: Final = "SETTLED"
HELD: Final = "HELD"
ABSENT: Final = ""


@runtime_checkable
class Watchable(Protocol):
    """What is read of one snapshot; `actors.reader.StoreReader` is one."""

    def held(self) -> Iterator[LedgerRow]:
        """The rows that are PREPARED."""

    def state(self) -> Mapping[str, Any]:
        """All keys and values."""

    def close(self) -> None:
        """Release the snapshot."""


class Seen(NamedTuple):
    """What one snapshot showed; see `loadgen.history.Read`."""

    held: dict[str, dict[str, int]]
    books: dict[str, dict[str, int]]
    phases: dict[str, str]


class View:
    """How one service's snapshots are looked at; it remembers the orders that it follows.

    Args:
        service: inventory, payment or shipping.
        seed: of the choice among what is held.
    """

    def __init__(self, service: str, seed: int = 1) -> None:
        self._operation, self._units, self._books, self._key, self._phase = _HOW[service]
        self._random = random.Random(seed)
        self._followed: dict[str, int] = {}  # looks that are left, by order

    def look(self, snapshot: Watchable) -> Seen:
        """Read one snapshot."""
        rows = [row for row in snapshot.held() if row.operation == self._operation]
        units = {row.transaction: self._units(row.request) for row in rows}
        names = sorted({name for held in units.values() for name in held})
        chosen = set(self._random.sample(names, min(NAMES_MAX, len(names))))
        held = {
            transaction: shown for transaction, all_held in units.items()
            if (shown := {name: amount for name, amount in all_held.items() if name in chosen})}
        state = snapshot.state()
        books = {name: self._books(state, name) for name in sorted(chosen)}
        for row in rows:
            self._follow(row.request["order_id"])
        phases = {order: self._phase(state.get(f"{self._key}/{order}")) for order in self._followed}
        for order, phase in phases.items():
            self._followed[order] -= phase != HELD
            if not self._followed[order]:
                del self._followed[order]
        return Seen(held, books, phases)

    def _follow(self, order: str) -> None:
        if len(self._followed) < ORDERS_MAX:
            self._followed.setdefault(order, LOOKS_AFTER)


class SnapshotWatcher:
    """Reads every service again and again, on a thread of its own, from entering to leaving.

    Args:
        data_dir: of the deployment that runs.
        app: what runs there.
        history: gets a read event of every snapshot that showed anything.
        pause_s: between two rounds, at least.
        seed: of the choice among what is held.
    """

    def __init__(
        self, data_dir: Path, app: App, history: HistoryWriter, *, pause_s: float = PAUSE_S, seed: int = 1,
    ) -> None:
        self._directory, self._app, self._history, self._pause_s = DataDirectory(data_dir), app, history, pause_s
        self._views = {name: View(name, seed) for name in _HOW if name in app.by_service}
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raytx-watcher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure  # a reader that died unseen would have seen nothing wrong

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # noqa: BLE001 - handed to the thread that leaves
            self._failure = error

    def _watch(self) -> None:
        pause_s = self._pause_s
        while not self._stop.wait(pause_s):
            began_s = time.thread_time()
            for service, view in self._views.items():
                self._look(service, view)
            pause_s = max(self._pause_s, (time.thread_time() - began_s) / SHARE)

    def _look(self, service: str, view: View) -> None:
        try:
            reader = self._app.by_service[service].reader(self._directory.service_path(service))
        except DefiniteError:
            return  # just now it cannot be read, as when its owner has been killed amid a checkpoint: the next round
        with closing(reader):
            assert isinstance(reader, Watchable)
            seen = view.look(reader)
        if any(seen):
            self._history.read(service, held=seen.held, books=seen.books, phases=seen.phases)


def _stock(request: Mapping[str, Any]) -> dict[str, int]:
    units: dict[str, int] = {}
    for sku, quantity in request["lines"]:
        units[sku] = units.get(sku, 0) + quantity
    return units


def _money(request: Mapping[str, Any]) -> dict[str, int]:
    return {request["account"]: request["amount_minor"]}


def _nothing(_request: Mapping[str, Any]) -> dict[str, int]:
    return {}


def _sku(state: Mapping[str, Any], name: str) -> dict[str, int]:
    return dict(zip(("on_hand", "held", "sold", "returned", "received"), state[f"sku/{name}"], strict=True))


def _account(state: Mapping[str, Any], name: str) -> dict[str, int]:
    account = state[f"account/{name}"]
    return {
        "on_hand": account["balance_minor"], "held": account["held_minor"], "sold": account["captured_minor"],
        "returned": account["refunded_minor"], "received": account["deposited_minor"]}


def _no_books(_state: Mapping[str, Any], _name: str) -> dict[str, int]:
    return {}


def _order_phase(record: Any) -> str:
    return ABSENT if record is None else HELD if record == "RESERVED" else SETTLED


def _phase(record: Any) -> str:
    return ABSENT if record is None else HELD if record["phase"] in ("HELD", "CREATED") else SETTLED


_HOW: Final = {  # operation that holds, units held by a request, books of a name, key of an order's record, its phase
    "inventory": ("reserve", _stock, _sku, "order", _order_phase),
    "payment": ("authorize", _money, _account, "payment", _phase),
    "shipping": ("create", _nothing, _no_books, "shipment", _phase),
}
