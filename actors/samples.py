"""Sample orders, returns and opening books: what an input looks like, and what tests of the app place.

Most of them commit. Some meet each business refusal at another step, so that every rollback is needed by one of them.
"""

from __future__ import annotations

from typing import Any

PRICES_MINOR = {"MUG": 450, "TEAPOT": 2_495, "LAMP": 1_999, "CLOCK": 12_900}
SCARCE, SCARCE_UNITS, SCARCE_MINOR = "VASE", 3, 34_900
CUSTOMERS = 4
POOR = "customer-poor"
POOR_MINOR = 5_000
RETURNED_ORDER, RETURNED_CUSTOMER, RETURNED_SKU, RETURNED_UNITS = "order-before", "customer-0", "MUG", 10_000

_ADDRESS = {"name": "Ada Byron", "street": "12 St James's Square", "city": "London", "country": "United Kingdom"}
_NOWHERE = {**_ADDRESS, "country": "Antarctica"}


def sample_order(number: int) -> dict[str, Any]:
    """The order of that number: one or two lines, sharing customers and SKUs with others.

    Of sixteen in a row one asks for a SKU of which only a few are there, one is not covered by its account, and one
    goes where nothing is shipped.
    """
    skus = list(PRICES_MINOR)
    lines = [_line(skus[number % len(skus)], 1 + number % 3)]
    if number % 2:
        lines.append(_line(skus[(number // 2) % len(skus)], 2))
    customer = f"customer-{number % CUSTOMERS}"
    if number % 16 == 3:  # noqa: PLR2004 - which of sixteen
        lines = [{"sku": SCARCE, "quantity": 2, "unit_price_minor": SCARCE_MINOR}]
    if number % 16 == 7:  # noqa: PLR2004
        customer, lines = POOR, [_line("CLOCK", 1)]
    return {
        "order_id": f"order-{number}", "customer": customer, "lines": lines, "amount_minor": _due(lines),
        "card_token": "tok_sample", "address": _NOWHERE if number % 16 == 11 else _ADDRESS,  # noqa: PLR2004
        "email": f"{customer}@example.com", "phone": "+44 20 7946 0958" if number % 3 == 0 else None}


def sample_return(number: int) -> dict[str, Any]:
    """The return of that number: one to three units of the order that the opening books contain."""
    lines = [_line(RETURNED_SKU, 1 + number % 3)]
    return {
        "return_id": f"return-{number}", "order_id": RETURNED_ORDER, "customer": RETURNED_CUSTOMER, "lines": lines,
        "amount_minor": _due(lines)}


def sample_books(number: int) -> dict[str, Any]:
    """Goods and money of that number: more of one SKU, and into one account, opened by every fourth."""
    skus = list(PRICES_MINOR)
    account = f"customer-{number % CUSTOMERS}" if number % 4 else f"customer-new-{number}"
    return {
        "stock": [{"sku": skus[number % len(skus)], "quantity": 10 + number}],
        "accounts": [{"account": account, "amount_minor": 10_000 + number}]}


def _line(sku: str, quantity: int) -> dict[str, Any]:
    return {"sku": sku, "quantity": quantity, "unit_price_minor": PRICES_MINOR[sku]}


def _due(lines: list[dict[str, Any]]) -> int:
    return sum(line["quantity"] * line["unit_price_minor"] for line in lines)


def _opening_order() -> dict[str, Any]:
    lines = [_line(RETURNED_SKU, RETURNED_UNITS)]
    return {
        **sample_order(0), "order_id": RETURNED_ORDER, "customer": RETURNED_CUSTOMER, "lines": lines,
        "amount_minor": _due(lines)}


OPENING = (
    ("open_books", {
        "stock": [
            *({"sku": sku, "quantity": 1_000_000} for sku in PRICES_MINOR), {"sku": SCARCE, "quantity": SCARCE_UNITS}],
        "accounts": [
            *({"account": f"customer-{number}", "amount_minor": 10**11} for number in range(CUSTOMERS)),
            {"account": POOR, "amount_minor": POOR_MINOR}]}),
    ("place_order", _opening_order()),
)
