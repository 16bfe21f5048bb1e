"""The bank app: transfers between accounts of two banks, either way, and the opening of accounts. Named `actors.bank:app`."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from actors.bank_accounts import Accounts, Moved, OpeningLine
from actors.fields import LINES_MAX, Identifier, Message
from orchestrator.app import App
from orchestrator.saga import Context, Saga, Step

NORTH, SOUTH = "north_bank", "south_bank"
ACCOUNTS = 4  # of each bank in the samples
POOR, BLOCKED = "account-poor", "account-blocked"
POOR_MINOR, RICH_MINOR = 1_000, 10**11


class Transfer(Message):
    """Money from an account of one bank to an account of the other one, in whole minor units."""

    transfer_id: Identifier
    payer: Identifier
    payee: Identifier
    amount_minor: Moved


class OpenAccounts(Message):
    """Money into accounts of both banks from outside, which opens them: what tests and load begin with."""

    north: list[OpeningLine] = Field(default_factory=list, max_length=LINES_MAX)
    south: list[OpeningLine] = Field(default_factory=list, max_length=LINES_MAX)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.north and not self.south:
            raise ValueError("give at least one line for north or south")
        return self


def _withdraw(context: Context) -> Any:
    return {"account": context.input.payer, "amount_minor": context.input.amount_minor}


def _deposit(context: Context) -> Any:
    return {"account": context.input.payee, "amount_minor": context.input.amount_minor}


def _transfer_id(transfer: Transfer) -> str:
    return transfer.transfer_id


def sample_transfer(number: int) -> dict[str, Any]:
    """The transfer of that number; of sixteen in a row one is not covered, one goes to a blocked account, one to none."""
    payer, payee = f"account-{number % ACCOUNTS}", f"account-{number // ACCOUNTS % ACCOUNTS}"
    amount_minor = 100 + number % 900
    if number % 16 == 3:  # noqa: PLR2004 - which of sixteen
        payer, amount_minor = POOR, POOR_MINOR * 2 // 3
    if number % 16 == 7:  # noqa: PLR2004
        payee = BLOCKED
    if number % 16 == 11:  # noqa: PLR2004
        payee = "account-of-nobody"
    return {"transfer_id": f"transfer-{number}", "payer": payer, "payee": payee, "amount_minor": amount_minor}


def sample_accounts(number: int) -> dict[str, Any]:
    """Money of that number into an account of each bank, one of them new at every fourth."""
    name = f"account-{number % ACCOUNTS}" if number % 4 else f"account-new-{number}"
    return {
        "north": [{"account": name, "amount_minor": 10_000 + number}],
        "south": [{"account": name, "amount_minor": 20_000 + number}]}


def _transfer(name: str, payer_bank: str, payee_bank: str) -> Saga:
    """Both votes are independent of each other: the payer's hold and the payee's readiness are asked for at once."""
    return Saga(
        name=name, input=Transfer, business_key=_transfer_id, example=sample_transfer, steps=[
            Step(name="withdraw", service=payer_bank, request=_withdraw, compensation="release the hold"),
            Step(name="deposit", service=payee_bank, request=_deposit, compensation="call it off")])


def _open_north(context: Context) -> Any:
    return {"lines": [line.model_dump() for line in context.input.north]}


def _open_south(context: Context) -> Any:
    return {"lines": [line.model_dump() for line in context.input.south]}


transfer = _transfer("transfer", NORTH, SOUTH)
transfer_back = _transfer("transfer_back", SOUTH, NORTH)

open_accounts = Saga(
    name="open_accounts", input=OpenAccounts, example=sample_accounts, steps=[
        Step(name="north", service=NORTH, operation="open", request=_open_north, compensation="withdraw"),
        Step(name="south", service=SOUTH, operation="open", request=_open_south, compensation="withdraw")])

_OPENING_LINES = [
    *({"account": f"account-{number}", "amount_minor": RICH_MINOR} for number in range(ACCOUNTS)),
    {"account": POOR, "amount_minor": POOR_MINOR}, {"account": BLOCKED, "amount_minor": POOR_MINOR, "blocked": True}]

app = App(
    services=[Accounts(NORTH), Accounts(SOUTH)],
    sagas=[transfer, transfer_back, open_accounts],
    opening=[("open_accounts", {"north": _OPENING_LINES, "south": _OPENING_LINES})])
