"""Writes committed orders into the stores, a group at a time, each stage of a group with one commit per database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from actors.ledger import Key, Row, RowState
from actors.store import Store
from benchmarks.direct.content import AUTHORIZE, NOTIFY, RESERVE, SHIP, OrderContent, content_of
from benchmarks.direct.stores import DirectStores
from orchestrator.protocol.identifiers import fingerprint_of
from orchestrator.protocol.records import Begun, Decided, Decision, Ended

_encode = msgspec.msgpack.Encoder().encode
OPERATIONS: Mapping[str, tuple[str, str]] = {  # service and operation by step
    RESERVE: ("inventory", "reserve"), AUTHORIZE: ("payment", "authorize"), SHIP: ("shipping", "create"),
    NOTIFY: ("notification", "send")}
PREPARED, COMMITTED, DONE = RowState.PREPARED, RowState.COMMITTED, RowState.DONE
_NOTHING: Mapping[Key, Row] = {}

Values = dict[str, bytes]


class _Placed(NamedTuple):
    """An order under way."""

    begun: Begun
    content: OrderContent


class OrderWriter:
    """Makes orders durable as a deployment does: the same records, rows and values, in the same order of commits.

    Args:
        stores: with opened books.
    """

    def __init__(self, stores: DirectStores) -> None:
        self._stores, self._saga = stores, stores.app.saga("place_order")
        inventory, payment = stores.services["inventory"], stores.services["payment"]
        self._stock = {key: _decoded(inventory, key) for key in inventory.keys() if key.startswith("sku/")}  # noqa: SIM118
        self._accounts = {key: _decoded(payment, key) for key in payment.keys() if key.startswith("account/")}  # noqa: SIM118
        self._ended: list[Ended] = []
        self._held: dict[str, dict[Key, Row]] = {}

    def write(self, orders: Sequence[Mapping[str, Any]]) -> None:
        """One group; what it ends is noted with the next one, or by `finish`."""
        now_ms = self._stores.now_ms()
        placed = [_Placed(self._begun(order, now_ms), content_of(order)) for order in orders]
        self._stores.append([*self._ended, *(one.begun for one in placed)])
        self._prepare(placed, RESERVE, now_ms, self._reserved)
        self._prepare(placed, AUTHORIZE, now_ms, self._authorized)
        self._prepare(placed, SHIP, now_ms, _created)
        self._stores.append([Decided(one.begun.transaction, Decision.COMMIT, now_ms) for one in placed])
        self._commit(RESERVE, now_ms, self._sold(placed))
        self._commit(AUTHORIZE, now_ms, self._captured(placed))
        self._commit(SHIP, now_ms, _shipments(placed, "DISPATCHED"))
        self._perform(placed, now_ms)
        self._ended = [Ended(one.begun.transaction, now_ms) for one in placed]

    def finish(self) -> None:
        """End the last group."""
        if self._ended:
            self._stores.append(self._ended)
            self._ended = []

    def _begun(self, order: Mapping[str, Any], now_ms: int) -> Begun:
        order_id = order["order_id"]
        return self._stores.begun(self._saga, order_id, _encode(order), order_id, now_ms)

    def _prepare(
        self, placed: Sequence[_Placed], step: str, now_ms: int, values: Callable[[Sequence[_Placed]], Values],
    ) -> None:
        service, _ = OPERATIONS[step]
        rows = {(one.begun.transaction, step): _row(one, step, PREPARED, now_ms) for one in placed}
        self._held[step] = rows
        self._store(service, rows, _NOTHING, values(placed))

    def _commit(self, step: str, now_ms: int, values: Values) -> None:
        service, _ = OPERATIONS[step]
        held = self._held.pop(step)
        rows = {key: _finished(row, now_ms) for key, row in held.items()}
        self._store(service, rows, held, values)

    def _perform(self, placed: Sequence[_Placed], now_ms: int) -> None:
        service, _ = OPERATIONS[NOTIFY]
        rows = {(one.begun.transaction, NOTIFY): _row(one, NOTIFY, DONE, now_ms) for one in placed}
        values = {
            f"outbox/{one.content.order_id}/{channel}": _encode(message)
            for one in placed for channel, message in one.content.messages.items()}
        self._store(service, rows, _NOTHING, values)

    def _store(self, service: str, rows: Mapping[Key, Row], was: Mapping[Key, Row], values: Values) -> None:
        store = self._stores.services[service]
        store.begin()
        store.write(rows, was, values, {})
        store.database.commit()  # and not the store's own: nobody will read through its caches

    def _reserved(self, placed: Sequence[_Placed]) -> Values:
        touched: dict[str, list[int]] = {}
        for one in placed:
            for sku, quantity in one.content.units.items():
                stock = touched[f"sku/{sku}"] = self._stock[f"sku/{sku}"]
                stock[1] += quantity
        return {key: _encode(stock) for key, stock in touched.items()} | {
            f"order/{one.content.order_id}": _RESERVED for one in placed}

    def _sold(self, placed: Sequence[_Placed]) -> Values:
        touched: dict[str, list[int]] = {}
        values: Values = {}
        for one in placed:
            for sku, quantity in one.content.units.items():
                stock = touched[f"sku/{sku}"] = self._stock[f"sku/{sku}"]
                stock[0] -= quantity
                stock[1] -= quantity
                stock[2] += quantity
            values[f"order/{one.content.order_id}"] = _encode({"sold": one.content.units, "claimed": {}, "returns": []})
        return values | {key: _encode(stock) for key, stock in touched.items()}

    def _authorized(self, placed: Sequence[_Placed]) -> Values:
        touched: dict[str, dict[str, Any]] = {}
        values: Values = {}
        for one in placed:
            account = touched[f"account/{one.content.customer}"] = self._accounts[f"account/{one.content.customer}"]
            account["held_minor"] += one.content.amount_minor
            values[f"payment/{one.content.order_id}"] = _encode({"phase": "HELD", **one.content.payment})
        return values | {key: _encode(account) for key, account in touched.items()}

    def _captured(self, placed: Sequence[_Placed]) -> Values:
        touched: dict[str, dict[str, Any]] = {}
        values: Values = {}
        for one in placed:
            amount = one.content.amount_minor
            account = touched[f"account/{one.content.customer}"] = self._accounts[f"account/{one.content.customer}"]
            account["held_minor"] -= amount
            account["balance_minor"] -= amount
            account["captured_minor"] += amount
            values[f"payment/{one.content.order_id}"] = _encode({"phase": "CAPTURED", **one.content.payment})
        return values | {key: _encode(account) for key, account in touched.items()}


_RESERVED = _encode("RESERVED")


def _created(placed: Sequence[_Placed]) -> Values:
    return _shipments(placed, "CREATED")


def _shipments(placed: Sequence[_Placed], phase: str) -> Values:
    return {
        f"shipment/{one.content.order_id}": _encode({"phase": phase, **one.content.shipment}) for one in placed}


def _row(one: _Placed, step: str, state: RowState, now_ms: int) -> Row:
    request, result = one.content.steps[step]
    payload = _encode(request)
    operation = OPERATIONS[step][1]
    return Row(
        one.begun.transaction, step, operation, state, fingerprint_of(operation, payload), payload, _encode(result), "", "",
        1, now_ms, 0 if state is PREPARED else now_ms)


def _finished(row: Row, now_ms: int) -> Row:
    return Row(
        row.transaction, row.step, row.operation, COMMITTED, row.fingerprint, row.request, row.result, row.code, row.message,
        row.attempts, row.prepared_ms, now_ms)


def _decoded(store: Store, key: str) -> Any:
    value = store.value(key)
    assert value is not None
    return msgspec.msgpack.decode(value)
