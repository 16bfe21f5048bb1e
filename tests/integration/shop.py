"""A stocked deployment of the shop that ships with raytx, and orders for it."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

from orchestrator import Settings, connect
from orchestrator.audit import audit
from orchestrator.client import Client

APP = "actors.orders:app"
STOCK = 1_000_000
CREDIT = 1_000_000_000
POOR = "12748"  # an account with 10 pounds
SETTLE_S = 30
_NUMBERS = itertools.count(1)


def order(
    order_id: str | None = None, *, quantity: int = 2, sku: str = "85123A", account: str = "13047", **more: Any,
) -> dict[str, Any]:
    """A valid order of one line at 2.55 pounds."""
    made = {
        "order_id": order_id or f"order-{next(_NUMBERS)}", "customer": account,
        "lines": [{"sku": sku, "quantity": quantity, "unit_price_minor": 255}], "amount_minor": quantity * 255,
        "currency": "GBP", "card_token": "tok_visa",
        "address": {"name": "A. Buyer", "street": "1 High Street", "city": "London", "country": "United Kingdom"},
        "email": "buyer@example.org"}
    return made | more


class Shop:
    """A client, and what tests ask of its deployment."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.deployment = client.deployment

    def close(self) -> None:
        self.client.close()

    def statuses(self) -> list[dict[str, Any]]:
        return self.deployment.statuses()

    def kill(self, role: str) -> int:
        """kill -9 the process of a role; returns its pid."""
        (pid,) = [s["pid"] for s in self.statuses() if s["role"] == role]
        os.kill(pid, signal.SIGKILL)
        return pid

    def audit(self) -> dict[str, Any]:
        """The audit at rest: polls, because the end of a transaction is told to nobody; it must be ok all the time."""
        end_s = time.monotonic() + SETTLE_S
        while True:
            report = audit(self.deployment.data_dir, self.deployment.app).to_json()
            assert report["ok"], report
            if report["open"] == 0:
                return report
            assert time.monotonic() < end_s, report
            time.sleep(0.05)


def open_shop(data: Path, settings: Settings, *, stock: int = STOCK, credit: int = CREDIT, app: str = APP) -> Shop:
    client = connect(data, app=app, settings=settings)
    books = {"stock": [{"sku": "85123A", "quantity": stock}, {"sku": "22423", "quantity": stock}],
             "accounts": [{"account": "13047", "amount_minor": credit}, {"account": POOR, "amount_minor": 1_000}]}
    assert client.submit("open_books", books, key="books").outcome(30).committed
    return Shop(client)
