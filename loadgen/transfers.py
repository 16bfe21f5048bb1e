"""The workload `bank`: transfers between any two accounts of two banks, half of them each way."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from actors.fields import AMOUNT_MINOR_MAX
from loadgen.workload import BooksFeed, Numbered, Work, in_chunks, in_parts

ACCOUNTS: Final = 1_000  # of each bank
DISTINCT: Final = 20_000  # transfers; a longer run repeats them under ids of their own
AMOUNT_MINOR: Final = (1, 10_000)
TRANSFER, TRANSFER_BACK, OPEN_ACCOUNTS = "transfer", "transfer_back", "open_accounts"


class Transfers:
    """Transfers of a run, by number; see `Source`.

    Args:
        orders: how many.
        run: token that makes ids and keys unique on the data directory.
        seed: of payers, payees and amounts.
        share: opening money of an account as a share of all that it pays; None: enough.
    """

    orders_are: Final = frozenset({TRANSFER, TRANSFER_BACK})

    def __init__(self, *, orders: int, run: str, seed: int, share: Decimal | None = None) -> None:
        self.orders, self.run, self._share = orders, run, share
        draw = random.Random(f"{seed}/transfers")
        self._distinct = [
            (draw.randrange(ACCOUNTS), draw.randrange(ACCOUNTS), draw.randint(*AMOUNT_MINOR))
            for _ in range(min(orders, DISTINCT))]

    def feed(self) -> Numbered:
        """See `Source.feed`."""
        return Numbered(self.work, self.orders)

    def opening(self) -> BooksFeed:
        """See `Source.opening`."""
        inputs = [{"north": lines} for lines in in_chunks(self._lines(0))]
        inputs += [{"south": lines} for lines in in_chunks(self._lines(1))]
        return BooksFeed(self.run, inputs, OPEN_ACCOUNTS)

    def contents(self, orders: int) -> dict[str, int]:
        """See `Source.contents`."""
        rounds, rest = divmod(orders, len(self._distinct) or 1)
        whole = sum(amount_minor for _, _, amount_minor in self._distinct) if rounds else 0
        return {"amount_minor": whole * rounds + sum(amount_minor for _, _, amount_minor in self._distinct[:rest])}

    def work(self, number: int) -> Work:
        """The transfer of that number."""
        payer, payee, amount_minor = self._distinct[number % len(self._distinct)]
        key = f"{self.run}-{number}"
        return Work(number, TRANSFER_BACK if number % 2 else TRANSFER, key, {
            "transfer_id": key, "payer": f"account-{payer}", "payee": f"account-{payee}", "amount_minor": amount_minor})

    def _lines(self, bank: int) -> Iterator[dict[str, Any]]:
        """Money for all accounts of one bank: also who only receives must be there."""
        paid = self._paid(bank)
        for account in range(ACCOUNTS):
            needed = paid[account] if self._share is None else int(paid[account] * self._share)
            for part in in_parts(needed, AMOUNT_MINOR_MAX):
                yield {"account": f"account-{account}", "amount_minor": part}

    def _paid(self, bank: int) -> Counter[int]:
        distinct = len(self._distinct)
        rounds, rest = divmod(self.orders, distinct or 1)
        paid: Counter[int] = Counter()
        for position, (payer, _, amount_minor) in enumerate(self._distinct):
            times = rounds + (position < rest)
            if distinct % 2 == 0:
                paid[payer] += amount_minor * times * (position % 2 == bank)
            else:  # a repetition has the other direction: half of them, rounded up, is enough
                paid[payer] += amount_minor * ((times + 1) // 2)
        return paid
