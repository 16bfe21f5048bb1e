"""One bank's accounts: a transfer out is held at prepare and leaves at commit, a transfer in arrives at commit.

State: `account/<id>` has balance, holds, what is announced and gross totals in minor units of one currency. Nothing else
grows with the number of transfers.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, StrictBool

from actors.bank_audit import audit_accounts
from actors.fields import AMOUNT_MINOR_MAX, LINES_MAX, AmountMinor, Identifier, Message, Result
from actors.refusals import RefusalCode
from actors.service import Refused, Service, State
from orchestrator.app import LedgerRow, ServiceAudit

Moved = Annotated[int, Field(strict=True, gt=0, le=AMOUNT_MINOR_MAX)]


class MoveRequest(Message):
    """Money that leaves or reaches one account."""

    account: Identifier
    amount_minor: Moved


class Promised(Result):
    """What leaves or arrives once the transfer commits."""

    amount_minor: int


class OpeningLine(Message):
    """Money into one account, which is opened if need be; `blocked` stays as it is unless given."""

    account: Identifier
    amount_minor: AmountMinor
    blocked: StrictBool | None = None


class OpenRequest(Message):
    """Money in from outside, for any number of accounts."""

    lines: Annotated[list[OpeningLine], Field(max_length=LINES_MAX)]


class Opened(Result):
    """How much came in, and into how many accounts."""

    amount_minor: int
    accounts: int


class Accounts(Service):
    """Accounts that cannot be overdrawn: a withdrawal holds what the balance still covers.

    Args:
        name: of the bank, unique in its app.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__()

    def prepare_withdraw(self, state: State, request: MoveRequest) -> Promised | Refused:
        """Hold the amount."""
        key = f"account/{request.account}"
        account: Any = state.get(key)
        refusal = _unusable(account, request)
        if refusal is not None:
            return refusal
        available = account["balance_minor"] - account["held_minor"]
        if request.amount_minor > available:
            short = request.amount_minor - available
            return Refused(RefusalCode.INSUFFICIENT_FUNDS, f"account {request.account} is short by {short} minor units")
        account["held_minor"] += request.amount_minor
        state[key] = account
        return Promised(amount_minor=request.amount_minor)

    def commit_withdraw(self, state: State, request: MoveRequest, result: Promised) -> None:  # noqa: ARG002 - the amount is in the request
        """The held money leaves the account."""
        key = f"account/{request.account}"
        account = state[key]
        account["held_minor"] -= request.amount_minor
        account["balance_minor"] -= request.amount_minor
        account["sent_minor"] += request.amount_minor
        state[key] = account

    def rollback_withdraw(self, state: State, request: MoveRequest, result: Promised) -> None:  # noqa: ARG002 - the amount is in the request
        """The hold is gone."""
        key = f"account/{request.account}"
        account = state[key]
        account["held_minor"] -= request.amount_minor
        state[key] = account

    def prepare_deposit(self, state: State, request: MoveRequest) -> Promised | Refused:
        """Announce the amount: nobody can spend it yet, and the account takes it for sure."""
        key = f"account/{request.account}"
        account: Any = state.get(key)
        refusal = _unusable(account, request)
        if refusal is not None:
            return refusal
        account["announced_minor"] += request.amount_minor
        state[key] = account
        return Promised(amount_minor=request.amount_minor)

    def commit_deposit(self, state: State, request: MoveRequest, result: Promised) -> None:  # noqa: ARG002 - the amount is in the request
        """The money is in the account."""
        key = f"account/{request.account}"
        account = state[key]
        account["announced_minor"] -= request.amount_minor
        account["balance_minor"] += request.amount_minor
        account["received_minor"] += request.amount_minor
        state[key] = account

    def rollback_deposit(self, state: State, request: MoveRequest, result: Promised) -> None:  # noqa: ARG002 - the amount is in the request
        """It does not come."""
        key = f"account/{request.account}"
        account = state[key]
        account["announced_minor"] -= request.amount_minor
        state[key] = account

    def prepare_open(self, state: State, request: OpenRequest) -> Opened | Refused:
        """Make the accounts that are missing, without money, so that the commit cannot fail."""
        for name in _by_account(request):
            account = state.get(f"account/{name}") or _new_account()
            account["openings"] += 1
            state[f"account/{name}"] = account
        return Opened(
            amount_minor=sum(line.amount_minor for line in request.lines), accounts=len(_by_account(request)))

    def commit_open(self, state: State, request: OpenRequest, result: Opened) -> None:  # noqa: ARG002 - the lines are in the request
        """The money is in the accounts, and they can be used."""
        for name, lines in _by_account(request).items():
            account = state[f"account/{name}"]
            amount = sum(line.amount_minor for line in lines)
            account["balance_minor"] += amount
            account["opened_minor"] += amount
            account["openings"] -= 1
            account["open"] = True
            for line in lines:
                account["blocked"] = account["blocked"] if line.blocked is None else line.blocked
            state[f"account/{name}"] = account

    def rollback_open(self, state: State, request: OpenRequest, result: Opened) -> None:  # noqa: ARG002 - the lines are in the request
        """Remove the accounts that nobody else opens."""
        for name in _by_account(request):
            account = state[f"account/{name}"]
            account["openings"] -= 1
            if account["open"] or account["openings"]:
                state[f"account/{name}"] = account
            else:
                del state[f"account/{name}"]

    def audit(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False) -> ServiceAudit:
        """Money is conserved per account, none is overdrawn, and ledger rows agree to the penny.

        Args:
            state: all keys and values.
            rows: the ledger, once, in id order.
            purged: whether rows below the retention watermark are gone.
        """
        return audit_accounts(state, rows, purged=purged)


def _unusable(account: Any, request: MoveRequest) -> Refused | None:
    if account is None or not account["open"]:
        return Refused(RefusalCode.UNKNOWN_ACCOUNT, f"account {request.account} was never opened")
    if account["blocked"]:
        return Refused(RefusalCode.ACCOUNT_BLOCKED, f"account {request.account} is blocked")
    return None


def _new_account() -> dict[str, Any]:
    return {
        "balance_minor": 0, "held_minor": 0, "announced_minor": 0, "opened_minor": 0, "sent_minor": 0, "received_minor": 0,
        "blocked": False, "open": False, "openings": 0}


def _by_account(request: OpenRequest) -> dict[str, list[OpeningLine]]:
    lines: dict[str, list[OpeningLine]] = {}
    for line in request.lines:
        lines.setdefault(line.account, []).append(line)
    return lines
