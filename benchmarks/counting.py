"""The shop with services that count the calls they get: a wrapper around their actors, for the cost of an order only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from actors.host import ServiceHost
from actors.inventory import Inventory
from actors.notification import Notification
from actors.orders import open_books, place_order, return_items
from actors.payment import Payment
from actors.samples import OPENING
from actors.shipping import Shipping
from orchestrator.app import App, ParticipantSpec

COUNTED_APP = "benchmarks.counting:app"
CALLS = "calls"


class CountingHost(ServiceHost):
    """Tells in its status how many exchanges it has had."""

    def __init__(self, spec: ParticipantSpec) -> None:
        super().__init__(spec)
        self._calls = 0

    async def exchange(self, payload: bytes) -> bytes:
        """Count, and do as ever."""
        self._calls += 1
        return await super().exchange(payload)

    async def status(self) -> bytes:
        """As ever, with the calls as the detail."""
        status = msgspec.msgpack.decode(await super().status())
        return msgspec.msgpack.encode(status | {"detail": {CALLS: self._calls}})


class CountedInventory(Inventory):
    """Inventory, counted."""

    def actor_class(self) -> type:
        """The actor that counts."""
        return CountingHost


class CountedPayment(Payment):
    """Payment, counted."""

    def actor_class(self) -> type:
        """The actor that counts."""
        return CountingHost


class CountedShipping(Shipping):
    """Shipping, counted."""

    def actor_class(self) -> type:
        """The actor that counts."""
        return CountingHost


class CountedNotification(Notification):
    """Notification, counted."""

    def actor_class(self) -> type:
        """The actor that counts."""
        return CountingHost


app = App(
    services=[CountedInventory(), CountedPayment(), CountedShipping(), CountedNotification()],
    sagas=[place_order, return_items, open_books], opening=OPENING)


def calls_of(statuses: Sequence[Mapping[str, Any]], orders: int) -> dict[str, float]:
    """Exchanges per order, by service and in all; warm-up and opening books are few and count in."""
    found = {
        f"exchanges_per_order.{status['role']}": status["detail"][CALLS] / orders
        for status in statuses if isinstance(status["detail"], dict) and CALLS in status["detail"]}
    return found | {"exchanges_per_order": sum(found.values())}
