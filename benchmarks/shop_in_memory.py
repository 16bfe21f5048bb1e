"""The same shop without durability: four services whose state is in memory, with direct effects and compensations.

For the systems that raytx is compared with: what their users would write. Each operation takes effect at once, and what
has a compensation can be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

Lines = Sequence[Mapping[str, Any]]


class Stock:
    """Units by SKU; nothing is oversold."""

    def __init__(self) -> None:
        self._on_hand: dict[str, int] = {}
        self._received = 0
        self._sold: dict[str, list[tuple[str, int]]] = {}

    def receive(self, lines: Lines) -> None:
        """Goods in."""
        for line in lines:
            self._on_hand[line["sku"]] = self._on_hand.get(line["sku"], 0) + line["quantity"]
            self._received += line["quantity"]

    def take(self, order_id: str, lines: Lines) -> bool:
        """Sell every line or none; whether it did."""
        units: dict[str, int] = {}
        for line in lines:
            units[line["sku"]] = units.get(line["sku"], 0) + line["quantity"]
        if order_id in self._sold or any(self._on_hand.get(sku, 0) < quantity for sku, quantity in units.items()):
            return False
        for sku, quantity in units.items():
            self._on_hand[sku] -= quantity
        self._sold[order_id] = list(units.items())
        return True

    def put_back(self, order_id: str) -> None:
        """The compensation."""
        for sku, quantity in self._sold.pop(order_id, ()):
            self._on_hand[sku] += quantity

    def adds_up(self, orders: int) -> bool:
        """Whether every unit is on hand or sold, by so many orders."""
        sold = sum(quantity for lines in self._sold.values() for _, quantity in lines)
        return len(self._sold) == orders and sum(self._on_hand.values()) + sold == self._received


class Money:
    """Balances by account; nothing is spent twice."""

    def __init__(self) -> None:
        self._balance: dict[str, int] = {}
        self._deposited = 0
        self._paid: dict[str, tuple[str, int]] = {}

    def deposit(self, lines: Lines) -> None:
        """Money in."""
        for line in lines:
            self._balance[line["account"]] = self._balance.get(line["account"], 0) + line["amount_minor"]
            self._deposited += line["amount_minor"]

    def charge(self, order_id: str, account: str, amount_minor: int) -> bool:
        """Take the amount; whether the balance covered it."""
        if order_id in self._paid or self._balance.get(account, 0) < amount_minor:
            return False
        self._balance[account] -= amount_minor
        self._paid[order_id] = (account, amount_minor)
        return True

    def refund(self, order_id: str) -> None:
        """The compensation."""
        account, amount_minor = self._paid.pop(order_id, ("", 0))
        if account:
            self._balance[account] += amount_minor

    def adds_up(self, orders: int) -> bool:
        """Whether every penny is in an account or paid, for so many orders."""
        paid = sum(amount for _, amount in self._paid.values())
        return len(self._paid) == orders and sum(self._balance.values()) + paid == self._deposited


class Parcels:
    """Shipments, one an order."""

    def __init__(self) -> None:
        self._tracking: dict[str, str] = {}

    def create(self, order_id: str, country: str) -> str:
        """Ship; the tracking number, or nothing where nothing is shipped to."""
        if order_id in self._tracking or not country:
            return ""
        self._tracking[order_id] = f"T{blake2b(order_id.encode(), digest_size=6).hexdigest().upper()}"
        return self._tracking[order_id]

    def cancel(self, order_id: str) -> None:
        """The compensation."""
        self._tracking.pop(order_id, None)

    def adds_up(self, orders: int) -> bool:
        """Whether there are so many shipments."""
        return len(self._tracking) == orders


class Outbox:
    """Messages to customers."""

    def __init__(self) -> None:
        self._messages: dict[str, tuple[str, str]] = {}

    def send(self, order_id: str, email: str, tracking: str) -> None:
        """Record the confirmation."""
        self._messages[order_id] = (email, f"Order {order_id} is confirmed, tracking number {tracking}")

    def adds_up(self, orders: int) -> bool:
        """Whether so many customers were told."""
        return len(self._messages) == orders
