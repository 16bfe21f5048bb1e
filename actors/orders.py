"""The e-commerce app: orders and returns across inventory, payment, shipping and notification, and their opening books.

Named `actors.orders:app`. Card tokens: an order's input, which the transaction log stores, carries the card processor's
opaque token, worthless to anyone but the merchant at that processor; log lines and `raytx show` redact it, and payment
is given its digest only. A card number is refused at the border.
"""

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from actors.fields import (
    LINES_MAX,
    Address,
    AmountMinor,
    Currency,
    Email,
    Identifier,
    Message,
    Phone,
    Quantity,
    Sku,
)
from actors.inventory import Inventory, StockLine
from actors.notification import Notification
from actors.payment import CURRENCY_DEFAULT, AccountLine, Payment
from actors.samples import OPENING, sample_books, sample_order, sample_return
from actors.shipping import Shipping
from orchestrator.app import App
from orchestrator.saga import Context, Saga, Step

_TOKEN = re.compile(r"tok_[A-Za-z0-9_]{1,60}")
_CARD_NUMBER = re.compile(r"[0-9]{13,19}")


class OrderLine(Message):
    """Units of one SKU at one price; the same SKU may stand on several lines, also at several prices."""

    sku: Sku
    quantity: Quantity
    unit_price_minor: AmountMinor


Lines = Annotated[list[OrderLine], Field(min_length=1, max_length=LINES_MAX)]


class PlaceOrder(Message):
    """An order; money in whole minor units (pence), the amount being what its lines add up to."""

    order_id: Identifier
    customer: Identifier  # also the account that pays
    lines: Lines
    amount_minor: AmountMinor
    currency: Currency = CURRENCY_DEFAULT
    card_token: Annotated[str, Field(strict=True, repr=False)]
    address: Address
    email: Email
    phone: Phone | None = None

    @field_validator("card_token")
    @classmethod
    def _token_only(cls, value: str) -> str:
        if _TOKEN.fullmatch(value) is None or _CARD_NUMBER.search(value) is not None:
            raise ValueError("send the processor's token (tok_ and up to 60 letters, digits, _), never a card number")
        return value

    @model_validator(mode="after")
    def _amount_of_lines(self) -> Self:
        _check_amount(self.amount_minor, self.lines)
        return self


class ReturnItems(Message):
    """Goods of an earlier order come back and are refunded at the prices given."""

    return_id: Identifier
    order_id: Identifier
    customer: Identifier
    lines: Lines
    amount_minor: AmountMinor
    currency: Currency = CURRENCY_DEFAULT

    @model_validator(mode="after")
    def _amount_of_lines(self) -> Self:
        _check_amount(self.amount_minor, self.lines)
        return self


class OpenBooks(Message):
    """Goods in and money in, together: what tests, demo and load generator open their books with."""

    stock: list[StockLine] = Field(default_factory=list, max_length=LINES_MAX)
    accounts: list[AccountLine] = Field(default_factory=list, max_length=LINES_MAX)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.stock and not self.accounts:
            raise ValueError("give at least one line of stock or accounts")
        return self


def _check_amount(amount_minor: int, lines: Iterable[OrderLine]) -> None:
    due = sum([line.quantity * line.unit_price_minor for line in lines])
    if due != amount_minor:
        raise ValueError(f"amount_minor is {amount_minor}, but the lines add up to {due}")


def _units(lines: Iterable[OrderLine]) -> list[tuple[str, int]]:
    return [(line.sku, line.quantity) for line in lines]


def card_fingerprint(card_token: str) -> str:
    """32 hexadecimal digits by which payment tells cards apart without their tokens."""
    return blake2b(card_token.encode(), digest_size=16, person=b"card_token").hexdigest()


def _reserve(context: Context) -> Any:
    order: PlaceOrder = context.input
    return {"order_id": order.order_id, "lines": _units(order.lines)}


def _authorize(context: Context) -> Any:
    order: PlaceOrder = context.input
    return {
        "order_id": order.order_id, "account": order.customer, "amount_minor": order.amount_minor,
        "currency": order.currency, "card_fingerprint": card_fingerprint(order.card_token)}


def _ship(context: Context) -> Any:
    order: PlaceOrder = context.input
    reserved = context.results["reserve"]
    return {
        "order_id": order.order_id, "address": order.address.model_dump(), "warehouse": reserved["warehouse"],
        "allocation": reserved["allocation"]}


def _notify(context: Context) -> Any:
    order: PlaceOrder = context.input
    return {
        "order_id": order.order_id, "tracking": context.results["ship"]["tracking"], "amount_minor": order.amount_minor,
        "currency": order.currency, "email": order.email, "phone": order.phone}


def _refund(context: Context) -> Any:
    back: ReturnItems = context.input
    return {
        "order_id": back.order_id, "return_id": back.return_id, "account": back.customer,
        "amount_minor": back.amount_minor, "currency": back.currency}


def _restock(context: Context) -> Any:
    back: ReturnItems = context.input
    return {"order_id": back.order_id, "return_id": back.return_id, "lines": _units(back.lines)}


def _receive(context: Context) -> Any:
    return {"lines": [line.model_dump() for line in context.input.stock]}


def _deposit(context: Context) -> Any:
    return {"lines": [line.model_dump() for line in context.input.accounts]}


def _order_id(order: PlaceOrder | ReturnItems) -> str:
    return order.order_id


place_order = Saga(
    name="place_order",
    input=PlaceOrder,
    business_key=_order_id,
    example=sample_order,
    steps=[
        Step(name="reserve", service="inventory", request=_reserve, compensation="release"),
        Step(name="authorize", service="payment", request=_authorize, compensation="void"),
        # It needs the reservation's result only, but nothing is shipped that cannot be paid; both votes come together.
        Step(name="ship", service="shipping", operation="create", request=_ship, after=("reserve", "authorize"),
             compensation="cancel"),
        Step(name="notify", service="notification", operation="send", request=_notify, after=("ship",),
             after_commit=True),
    ])

return_items = Saga(
    name="return_items",
    input=ReturnItems,
    business_key=_order_id,
    example=sample_return,
    steps=[
        Step(name="refund", service="payment", request=_refund, compensation="drop the claim"),
        Step(name="restock", service="inventory", request=_restock, compensation="drop the claim"),
    ])

open_books = Saga(
    name="open_books",
    input=OpenBooks,
    example=sample_books,
    steps=[
        Step(name="receive", service="inventory", request=_receive, compensation="send back"),
        Step(name="deposit", service="payment", request=_deposit, compensation="withdraw"),
    ])

app = App(
    services=[Inventory(), Payment(), Shipping(), Notification()],
    sagas=[place_order, return_items, open_books],
    opening=OPENING)
