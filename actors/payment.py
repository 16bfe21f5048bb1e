"""Payment: accounts with a balance, money held at prepare, captured at commit, given back by refunds.

State: `account/<id>` has balance, holds and gross totals in minor units; `payment/<order id>` is HELD, then CAPTURED
with what was claimed back. Card tokens never come here: the request carries their digest.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Annotated, Any

from pydantic import Field, StrictBool

from actors.fields import LINES_MAX, AmountMinor, Currency, Identifier, Message, Result
from actors.payment_audit import audit_payment
from actors.refusals import RefusalCode
from actors.service import NotYet, Refused, Service, State
from orchestrator.app import LedgerRow, ServiceAudit

HOLD = "HELD"
CAPTURED = "CAPTURED"
CURRENCY_DEFAULT = "GBP"


class AuthorizeRequest(Message):
    """Hold the price of an order; the card is known by the BLAKE2 digest of its token only."""

    order_id: Identifier
    account: Identifier
    amount_minor: AmountMinor
    currency: Currency = CURRENCY_DEFAULT
    card_fingerprint: Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{32}$")]


class Authorized(Result):
    """The hold, by a code that a repeat does not change."""

    authorization: str
    amount_minor: int
    currency: str


class RefundRequest(Message):
    """Give money of a captured payment back to its account."""

    order_id: Identifier
    return_id: Identifier
    account: Identifier
    amount_minor: AmountMinor
    currency: Currency = CURRENCY_DEFAULT


class Refunded(Result):
    """What goes back."""

    amount_minor: int
    currency: str


class AccountLine(Message):
    """Money into one account, which is opened if need be; `blocked` stays as it is unless given."""

    account: Identifier
    amount_minor: AmountMinor
    currency: Currency = CURRENCY_DEFAULT
    blocked: StrictBool | None = None


class DepositRequest(Message):
    """Money in, for one account or many."""

    lines: Annotated[list[AccountLine], Field(max_length=LINES_MAX)]


class Deposited(Result):
    """How much came in, over all currencies, and into how many accounts."""

    amount_minor: int
    accounts: int


class Payment(Service):
    """Money that cannot be spent twice: a hold takes at prepare, and only what the balance still covers."""

    name = "payment"

    def prepare_authorize(self, state: State, request: AuthorizeRequest) -> Authorized | Refused | NotYet:
        """Hold the amount."""
        key = f"account/{request.account}"
        account: Any = state.get(key)
        refusal = _unpayable(account, request)
        if refusal is not None:
            return refusal
        if state.get(f"payment/{request.order_id}") is not None:
            return Refused(RefusalCode.DUPLICATE_PAYMENT, f"order {request.order_id} has a payment already")
        account["held_minor"] += request.amount_minor
        state[key] = account
        state[f"payment/{request.order_id}"] = _payment(request, HOLD)
        code = blake2b(request.order_id.encode(), digest_size=6, person=b"authorization").hexdigest()
        return Authorized(authorization=f"A{code.upper()}", amount_minor=request.amount_minor, currency=request.currency)

    def commit_authorize(self, state: State, request: AuthorizeRequest, result: Authorized) -> None:  # noqa: ARG002 - the amount is in the request
        """Capture: the held money leaves the account."""
        key = f"account/{request.account}"
        account = state[key]
        account["held_minor"] -= request.amount_minor
        account["balance_minor"] -= request.amount_minor
        account["captured_minor"] += request.amount_minor
        state[key] = account
        # Written without reading it first: nothing can be claimed back from a payment that is not captured yet.
        state[f"payment/{request.order_id}"] = _payment(request, CAPTURED)

    def rollback_authorize(self, state: State, request: AuthorizeRequest, result: Authorized) -> None:  # noqa: ARG002 - the amount is in the request
        """Void: the hold is gone."""
        key = f"account/{request.account}"
        account = state[key]
        account["held_minor"] -= request.amount_minor
        state[key] = account
        del state[f"payment/{request.order_id}"]

    def prepare_refund(self, state: State, request: RefundRequest) -> Refunded | Refused | NotYet:
        """Claim the amount from the payment; the account gets it at commit."""
        key = f"payment/{request.order_id}"
        payment = state.get(key)
        if payment is None or payment["account"] != request.account:
            return Refused(
                RefusalCode.UNKNOWN_PAYMENT, f"account {request.account} has no payment for order {request.order_id}")
        if payment["phase"] == HOLD:
            return NotYet(f"the payment of order {request.order_id} is held and not captured yet")
        refusal = _unrefundable(payment, request)
        if refusal is not None:
            return refusal
        payment["claimed_minor"] += request.amount_minor
        payment["returns"].append(request.return_id)
        state[key] = payment
        return Refunded(amount_minor=request.amount_minor, currency=request.currency)

    def commit_refund(self, state: State, request: RefundRequest, result: Refunded) -> None:  # noqa: ARG002 - the amount is in the request
        """The money is back in the account."""
        key = f"account/{request.account}"
        account = state[key]
        account["balance_minor"] += request.amount_minor
        account["refunded_minor"] += request.amount_minor
        state[key] = account

    def rollback_refund(self, state: State, request: RefundRequest, result: Refunded) -> None:  # noqa: ARG002 - the amount is in the request
        """Drop the claim: the payment may be refunded another time."""
        key = f"payment/{request.order_id}"
        payment = state[key]
        payment["claimed_minor"] -= request.amount_minor
        payment["returns"].remove(request.return_id)
        state[key] = payment

    def prepare_deposit(self, state: State, request: DepositRequest) -> Deposited | Refused | NotYet:
        """Pin each account's currency, opening it without money if need be, so that the commit cannot fail."""
        accounts: dict[str, Any] = {}
        for line in request.lines:
            account = accounts.get(line.account) or state.get(f"account/{line.account}") or _new_account(line.currency)
            if account["currency"] != line.currency:
                return _other_currency(line.account, account, line.currency)
            accounts[line.account] = account
        for name, account in accounts.items():
            account["deposits_open"] += 1
            state[f"account/{name}"] = account
        return Deposited(amount_minor=sum(line.amount_minor for line in request.lines), accounts=len(accounts))

    def commit_deposit(self, state: State, request: DepositRequest, result: Deposited) -> None:  # noqa: ARG002 - the lines are in the request
        """The money is in the accounts."""
        for name, lines in _by_account(request).items():
            account = state[f"account/{name}"]
            amount = sum(line.amount_minor for line in lines)
            account["balance_minor"] += amount
            account["deposited_minor"] += amount
            account["deposits_open"] -= 1
            account["opened"] = True
            for line in lines:
                account["blocked"] = account["blocked"] if line.blocked is None else line.blocked
            state[f"account/{name}"] = account

    def rollback_deposit(self, state: State, request: DepositRequest, result: Deposited) -> None:  # noqa: ARG002 - the lines are in the request
        """Drop the pin, and the account where nobody else opens it."""
        for name in _by_account(request):
            account = state[f"account/{name}"]
            account["deposits_open"] -= 1
            if account["opened"] or account["deposits_open"]:
                state[f"account/{name}"] = account
            else:
                del state[f"account/{name}"]

    def audit(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False) -> ServiceAudit:
        """Money is conserved per account, and state, payment records and ledger rows agree to the penny.

        Args:
            state: all keys and values.
            rows: the ledger, once, in id order.
            purged: whether rows below the retention watermark are gone.
        """
        return audit_payment(state, rows, purged=purged)


def _unpayable(account: Any, request: AuthorizeRequest) -> Refused | None:
    if account is None or not account["opened"]:
        return Refused(RefusalCode.UNKNOWN_ACCOUNT, f"account {request.account} was never opened")
    if account["blocked"]:
        return Refused(RefusalCode.ACCOUNT_BLOCKED, f"account {request.account} is blocked")
    if account["currency"] != request.currency:
        return _other_currency(request.account, account, request.currency)
    available = account["balance_minor"] - account["held_minor"]
    if request.amount_minor > available:
        return Refused(
            RefusalCode.INSUFFICIENT_FUNDS,
            f"account {request.account} is short by {request.amount_minor - available} {request.currency} minor units")
    return None


def _unrefundable(payment: Mapping[str, Any], request: RefundRequest) -> Refused | None:
    if request.return_id in payment["returns"]:
        return Refused(RefusalCode.DUPLICATE_RETURN, f"return {request.return_id} was used before")
    if payment["currency"] != request.currency:
        return _other_currency(request.account, payment, request.currency)
    left = payment["amount_minor"] - payment["claimed_minor"]
    if request.amount_minor > left:
        return Refused(
            RefusalCode.REFUND_EXCEEDS,
            f"order {request.order_id}: refund of {request.amount_minor}, {left} {request.currency} minor units are left")
    return None


def _other_currency(name: str, have: Mapping[str, Any], asked: str) -> Refused:
    return Refused(RefusalCode.CURRENCY_MISMATCH, f"account {name} is in {have['currency']}, the amount in {asked}")


def _payment(request: AuthorizeRequest, phase: str) -> dict[str, Any]:
    return {
        "phase": phase, "account": request.account, "amount_minor": request.amount_minor, "currency": request.currency,
        "claimed_minor": 0, "returns": []}


def _new_account(currency: str) -> dict[str, Any]:
    return {
        "currency": currency, "balance_minor": 0, "held_minor": 0, "deposited_minor": 0, "captured_minor": 0,
        "refunded_minor": 0, "blocked": False, "opened": False, "deposits_open": 0}


def _by_account(request: DepositRequest) -> dict[str, list[AccountLine]]:
    lines: dict[str, list[AccountLine]] = {}
    for line in request.lines:
        lines.setdefault(line.account, []).append(line)
    return lines
