"""Inventory: stock by SKU, reserved at prepare, sold at commit, taken back by returns.

State: `sku/<SKU>` is [on hand, reserved, sold, returned, received] in units, where sold and returned count gross;
`order/<order id>` is RESERVED while its reservation is open, then a record of what was sold and what was claimed back.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from actors.fields import LINES_MAX, Identifier, Message, Result, Sku, StockQuantity, Units
from actors.inventory_audit import audit_inventory
from actors.refusals import RefusalCode
from actors.service import NotYet, Refused, Service, State
from orchestrator.app import LedgerRow, ServiceAudit

RESERVED = "RESERVED"
_SHOWN_MAX = 3  # SKUs named in a refusal; an order may have thousands


class ReserveRequest(Message):
    """Hold the stock of an order; a SKU may stand on several lines."""

    order_id: Identifier
    lines: Annotated[list[Units], Field(min_length=1, max_length=LINES_MAX)]


class Reserved(Result):
    """Where the goods lie and how many of each SKU, every SKU once."""

    warehouse: str
    allocation: list[tuple[str, int]]


class RestockRequest(Message):
    """Take goods of an order back into stock."""

    order_id: Identifier
    return_id: Identifier
    lines: Annotated[list[Units], Field(min_length=1, max_length=LINES_MAX)]


class Restocked(Result):
    """The units that came back, every SKU once."""

    allocation: list[tuple[str, int]]


class StockLine(Message):
    """Goods in of one SKU; no units make the SKU known and leave it out of stock."""

    sku: Sku
    quantity: StockQuantity


class ReceiveRequest(Message):
    """Goods in from a supplier; a new SKU is opened."""

    lines: Annotated[list[StockLine], Field(max_length=LINES_MAX)]


class Received(Result):
    """How many units came in."""

    units: int


class Inventory(Service):
    """Stock that cannot be oversold: a reservation takes at prepare, and only what is available.

    Args:
        warehouse: name of the place that serves all reservations.
    """

    name = "inventory"

    def __init__(self, warehouse: str = "main") -> None:
        super().__init__()
        self.warehouse = warehouse

    def prepare_reserve(self, state: State, request: ReserveRequest) -> Reserved | Refused | NotYet:
        """Hold every line or none."""
        order = f"order/{request.order_id}"
        if state.get(order) is not None:
            return Refused(RefusalCode.DUPLICATE_ORDER, f"order {request.order_id} has reserved its stock before")
        units = merged(request.lines)
        held: dict[str, list[int]] = {}
        for sku, quantity in units.items():
            stock = state.get(f"sku/{sku}")
            if stock is None or quantity > stock[0] - stock[1]:
                return _shortage(state, units)
            stock[1] += quantity
            held[f"sku/{sku}"] = stock
        for key, stock in held.items():
            state[key] = stock
        state[order] = RESERVED
        return Reserved(warehouse=self.warehouse, allocation=list(units.items()))

    def commit_reserve(self, state: State, request: ReserveRequest, result: Reserved) -> None:
        """The reserved units leave the stock."""
        for sku, quantity in result.allocation:
            key = f"sku/{sku}"
            on_hand, reserved, sold, returned, received = state[key]
            state[key] = [on_hand - quantity, reserved - quantity, sold + quantity, returned, received]
        # Written without reading it first: nothing can be claimed back from an order that is not sold yet.
        state[f"order/{request.order_id}"] = {"sold": dict(result.allocation), "claimed": {}, "returns": []}

    def rollback_reserve(self, state: State, request: ReserveRequest, result: Reserved) -> None:
        """Release: the units are available again."""
        for sku, quantity in result.allocation:
            on_hand, reserved, sold, returned, received = state[f"sku/{sku}"]
            state[f"sku/{sku}"] = [on_hand, reserved - quantity, sold, returned, received]
        del state[f"order/{request.order_id}"]

    def prepare_restock(self, state: State, request: RestockRequest) -> Restocked | Refused | NotYet:
        """Claim the units from the order; the stock gets them at commit."""
        order = state.get(f"order/{request.order_id}")
        if order is None:
            return Refused(RefusalCode.UNKNOWN_ORDER, f"inventory knows no order {request.order_id}")
        if order == RESERVED:
            return NotYet(f"order {request.order_id} is reserved and not sold yet")
        if request.return_id in order["returns"]:
            return Refused(RefusalCode.DUPLICATE_RETURN, f"return {request.return_id} was used before")
        units = merged(request.lines)
        refusal = _excess(request.order_id, units, order)
        if refusal is not None:
            return refusal
        for sku, quantity in units.items():
            order["claimed"][sku] = order["claimed"].get(sku, 0) + quantity
        order["returns"].append(request.return_id)
        state[f"order/{request.order_id}"] = order
        return Restocked(allocation=list(units.items()))

    def commit_restock(self, state: State, request: RestockRequest, result: Restocked) -> None:  # noqa: ARG002 - the claim stays in the order's record
        """The units are on hand again."""
        for sku, quantity in result.allocation:
            on_hand, reserved, sold, returned, received = state[f"sku/{sku}"]
            state[f"sku/{sku}"] = [on_hand + quantity, reserved, sold, returned + quantity, received]

    def rollback_restock(self, state: State, request: RestockRequest, result: Restocked) -> None:
        """Drop the claim: the order may return these units another time."""
        order = state[f"order/{request.order_id}"]
        for sku, quantity in result.allocation:
            left = order["claimed"].pop(sku) - quantity
            if left:
                order["claimed"][sku] = left
        order["returns"].remove(request.return_id)
        state[f"order/{request.order_id}"] = order

    def prepare_receive(self, state: State, request: ReceiveRequest) -> Received | Refused | NotYet:  # noqa: ARG002 - goods in take nothing
        """Nothing to hold: what gives, gives at commit."""
        return Received(units=sum(line.quantity for line in request.lines))

    def commit_receive(self, state: State, request: ReceiveRequest, result: Received) -> None:  # noqa: ARG002 - the lines are in the request
        """The goods are on hand."""
        for sku, quantity in merged((line.sku, line.quantity) for line in request.lines).items():
            on_hand, reserved, sold, returned, received = state.get(f"sku/{sku}") or (0, 0, 0, 0, 0)
            state[f"sku/{sku}"] = [on_hand + quantity, reserved, sold, returned, received + quantity]

    def rollback_receive(self, state: State, request: ReceiveRequest, result: Received) -> None:
        """Nothing was held."""

    def audit(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False) -> ServiceAudit:
        """Units are conserved per SKU, and state, order records and ledger rows agree.

        Args:
            state: all keys and values.
            rows: the ledger, once, in id order.
            purged: whether rows below the retention watermark are gone.
        """
        return audit_inventory(state, rows, purged=purged)


def merged(lines: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Units by SKU, in the order of first mention."""
    units: dict[str, int] = {}
    for sku, quantity in lines:
        units[sku] = units.get(sku, 0) + quantity
    return units


def _shortage(state: State, units: Mapping[str, int]) -> Refused:
    """Every SKU that cannot be had; apart, so that the orders that can be had need one pass."""
    stock: dict[str, Any] = {sku: state.get(f"sku/{sku}") for sku in units}
    unknown = [sku for sku in units if stock[sku] is None]
    if unknown:
        return Refused(RefusalCode.UNKNOWN_SKU, f"never received into stock: {_some(unknown)}")
    short = [
        f"{sku} is short by {quantity - available} (ordered {quantity}, available {available})"
        for sku, quantity in units.items()
        if quantity > (available := stock[sku][0] - stock[sku][1])]
    return Refused(RefusalCode.OUT_OF_STOCK, _some(short))


def _excess(order_id: str, units: Mapping[str, int], order: Mapping[str, Any]) -> Refused | None:
    beyond = [
        f"{quantity} of {sku}, {left} can be returned"
        for sku, quantity in units.items()
        if quantity > (left := order["sold"].get(sku, 0) - order["claimed"].get(sku, 0))]
    return Refused(RefusalCode.RETURN_EXCEEDS, f"order {order_id}: {_some(beyond)}") if beyond else None


def _some(texts: list[str]) -> str:
    rest = len(texts) - _SHOWN_MAX
    return "; ".join(texts[:_SHOWN_MAX]) + (f"; and {rest} more" if rest > 0 else "")
