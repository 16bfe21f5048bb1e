"""The codes with which these services refuse: business answers that abort the transaction, listed in docs/errors.md."""

from enum import StrEnum


class RefusalCode(StrEnum):
    """Stable words that an aborted outcome carries as its code."""

    OUT_OF_STOCK = "OUT_OF_STOCK"
    UNKNOWN_SKU = "UNKNOWN_SKU"
    DUPLICATE_ORDER = "DUPLICATE_ORDER"
    UNKNOWN_ORDER = "UNKNOWN_ORDER"
    RETURN_EXCEEDS = "RETURN_EXCEEDS"
    DUPLICATE_RETURN = "DUPLICATE_RETURN"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    UNKNOWN_ACCOUNT = "UNKNOWN_ACCOUNT"
    ACCOUNT_BLOCKED = "ACCOUNT_BLOCKED"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    DUPLICATE_PAYMENT = "DUPLICATE_PAYMENT"
    UNKNOWN_PAYMENT = "UNKNOWN_PAYMENT"
    REFUND_EXCEEDS = "REFUND_EXCEEDS"
    UNDELIVERABLE = "UNDELIVERABLE"
    DUPLICATE_SHIPMENT = "DUPLICATE_SHIPMENT"
    SIMULATED_DECLINE = "SIMULATED_DECLINE"


REFUSALS: dict[RefusalCode, str] = {
    RefusalCode.OUT_OF_STOCK: "a SKU has fewer units available than ordered; the message names it and what is missing",
    RefusalCode.UNKNOWN_SKU: "a SKU of the order was never received into stock",
    RefusalCode.DUPLICATE_ORDER: "the order id has reserved stock before, under another key",
    RefusalCode.UNKNOWN_ORDER: "a return names an order that inventory does not know",
    RefusalCode.RETURN_EXCEEDS: "more units of a SKU are returned than the order bought and has not returned yet",
    RefusalCode.DUPLICATE_RETURN: "the return id was used for this order before, under another key",
    RefusalCode.INSUFFICIENT_FUNDS: "the account's balance less its holds does not cover the amount",
    RefusalCode.UNKNOWN_ACCOUNT: "the account was never opened by a deposit",
    RefusalCode.ACCOUNT_BLOCKED: "the account is blocked: it neither pays nor holds",
    RefusalCode.CURRENCY_MISMATCH: "the amount's currency is not the account's",
    RefusalCode.DUPLICATE_PAYMENT: "the order id has a payment already, under another key",
    RefusalCode.UNKNOWN_PAYMENT: "a refund names an order that this account has not paid for",
    RefusalCode.REFUND_EXCEEDS: "more is refunded than was captured and has not been refunded yet",
    RefusalCode.UNDELIVERABLE: "the address has no country, or one that shipping does not serve",
    RefusalCode.DUPLICATE_SHIPMENT: "the order id has a shipment already, under another key",
    RefusalCode.SIMULATED_DECLINE: "a simulated failure declined the operation (only where faults are configured)",
}
