"""Notification: tells the customer once the order is committed; each message stands in the outbox exactly once.

State: `outbox/<order id>/<channel>` has address and text. A relay that sends them takes the key as its idempotency key.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from actors.fields import AmountMinor, Currency, Email, Identifier, Message, Phone, Result, ShortText
from actors.findings import PERFORMED, Findings
from actors.service import Service, State
from orchestrator.app import LedgerRow, ServiceAudit


class SendRequest(Message):
    """Confirm an order by e-mail, and by SMS where there is a phone."""

    order_id: Identifier
    tracking: ShortText
    amount_minor: AmountMinor
    currency: Currency
    email: Email
    phone: Phone | None = None


class Sent(Result):
    """The channels by which this step recorded a message; none that had one for the order before."""

    channels: list[str]


class Notification(Service):
    """An outbox, filled after the commit and never undone."""

    name = "notification"

    def perform_send(self, state: State, request: SendRequest) -> Sent:
        """Record the messages that the order has not got yet."""
        text = (
            f"Order {request.order_id} is confirmed: {request.amount_minor // 100}.{request.amount_minor % 100:02d} "
            f"{request.currency}, tracking number {request.tracking}")
        addresses = {"email": request.email} if request.phone is None else {"email": request.email, "sms": request.phone}
        channels = []
        for channel, address in addresses.items():
            key = f"outbox/{request.order_id}/{channel}"
            if state.get(key) is None:
                state[key] = [address, text]
                channels.append(channel)
        return Sent(channels=channels)

    def audit(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False) -> ServiceAudit:
        """Every message of the outbox was recorded by one performed step, and by no other.

        Args:
            state: all keys and values.
            rows: the ledger, once, in id order.
            purged: whether rows below the retention watermark are gone.
        """
        messages = len(state)
        recorded = sum(len(row.result["channels"]) for row in rows if row.state == PERFORMED)
        findings = Findings(purged=purged)
        findings.accounted(self.name, "messages in the outbox", messages, recorded)
        return ServiceAudit({"messages": messages}, findings.violations)
