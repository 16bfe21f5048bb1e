"""What one committed order of the shop leaves behind: its requests, results and values, as plain data.

Written down a second time, without the services, so that the floor pays for no protocol and no handler; a test compares it
with what the services themselves leave, and the audit judges every store that is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from actors.orders import card_fingerprint

RESERVE, AUTHORIZE, SHIP, NOTIFY = "reserve", "authorize", "ship", "notify"
WAREHOUSE = "main"
Plain = dict[str, Any]


class StepContent(NamedTuple):
    """A step's request and result."""

    request: Plain
    result: Plain


class OrderContent(NamedTuple):
    """One order: its steps, and what changes in the services' states."""

    order_id: str
    customer: str
    amount_minor: int
    units: dict[str, int]
    steps: dict[str, StepContent]
    payment: Plain
    shipment: Plain
    messages: dict[str, list[str]]


def content_of(order: Mapping[str, Any]) -> OrderContent:
    """What an order (the input of place_order) comes to."""
    order_id, customer, amount, currency = order["order_id"], order["customer"], order["amount_minor"], order["currency"]
    units: dict[str, int] = {}
    for line in order["lines"]:
        units[line["sku"]] = units.get(line["sku"], 0) + line["quantity"]
    allocation = list(units.items())
    tracking = _code("T", order_id, b"tracking")
    steps = {
        RESERVE: StepContent(
            {"order_id": order_id, "lines": [(line["sku"], line["quantity"]) for line in order["lines"]]},
            {"warehouse": WAREHOUSE, "allocation": allocation}),
        AUTHORIZE: StepContent(
            {"order_id": order_id, "account": customer, "amount_minor": amount, "currency": currency,
             "card_fingerprint": card_fingerprint(order["card_token"])},
            {"authorization": _code("A", order_id, b"authorization"), "amount_minor": amount, "currency": currency}),
        SHIP: StepContent(
            {"order_id": order_id, "address": order["address"], "warehouse": WAREHOUSE, "allocation": allocation},
            {"tracking": tracking, "units": sum(units.values())}),
    }
    messages = _messages(order, tracking)
    steps[NOTIFY] = StepContent(
        {"order_id": order_id, "tracking": tracking, "amount_minor": amount, "currency": currency,
         "email": order["email"], "phone": order["phone"]},
        {"channels": list(messages)})
    return OrderContent(
        order_id, customer, amount, units, steps,
        payment={"account": customer, "amount_minor": amount, "currency": currency, "claimed_minor": 0, "returns": []},
        shipment={"tracking": tracking, "units": sum(units.values()), "address": list(order["address"].values())},
        messages=messages)


def _messages(order: Mapping[str, Any], tracking: str) -> dict[str, list[str]]:
    amount = order["amount_minor"]
    text = (f"Order {order['order_id']} is confirmed: {amount // 100}.{amount % 100:02d} {order['currency']}, "
            f"tracking number {tracking}")
    by_sms = {} if order["phone"] is None else {"sms": [order["phone"], text]}
    return {"email": [order["email"], text]} | by_sms


def _code(letter: str, order_id: str, person: bytes) -> str:
    return letter + blake2b(order_id.encode(), digest_size=6, person=person).hexdigest().upper()
