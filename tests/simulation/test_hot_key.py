"""Half of all orders want one SKU of which there is too little: who is served, how long it takes, and what the others notice.

The production core and the shop's own services, in turns of 20 ms of virtual time; a service works off a bounded number of
messages in a turn, so that a queue can form. `complaints` judges the run, and is fed three shops that are wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from actors.inventory import Inventory, Reserved, ReserveRequest
from actors.ledger import finish_first
from actors.memory import MemoryStore
from actors.notification import Notification
from actors.orders import open_books, place_order
from actors.payment import Payment
from actors.runner import BatchRunner, Work
from actors.service import NotYet, Refused, State
from actors.shipping import Shipping
from actors.store import Retention
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.messages import OutcomeStatus, SubmitRequest
from orchestrator.protocol.records import AppendResult, AppendStatus, Decided
from orchestrator.saga import Saga
from orchestrator.testing.simulation.journal import Journal

TURN_MS = 20
BURST = 80  # orders at once, so that a queue forms
PAUSE_TURNS = 20  # between bursts: 200 orders a second
ORDERS = 800
STOCK = 100  # of the hot SKU; four times as many are wanted
POOR_EVERY = 7  # so many orders one cannot be paid: what it holds becomes available again
CAPACITY = 24  # messages that a service works off in a turn; twice what it needs
COLD = [f"2242{n}" for n in range(8)]
HOT = "85123A"
CLIENTS = 10
LATENCY_MS_MAX = 500  # six turns of the protocol, and room for a queue
UNFAIR_MAX = 4  # units by which a client may be away from its share

Order = Callable[[list[Work]], list[Work]]


@dataclass
class Told:
    """One order: when it was placed and what became of it."""

    number: int
    hot: bool
    client: int
    placed_ms: int
    told_ms: int = 0
    committed: bool = False
    code: str = ""


class Shop:
    """Services and core in turns."""

    def __init__(self, inventory: Inventory, order: Order) -> None:
        services = [inventory, Payment(), Shipping(), Notification()]
        self.stores = {service.name: MemoryStore(Journal(service.name)) for service in services}
        self.runners = {s.name: BatchRunner(s.name, s.bound, self.stores[s.name]) for s in services}
        self.queues: dict[str, deque[Work]] = {service.name: deque() for service in services}
        self.order = order
        self.core = Coordinator({(saga.name, saga.version): saga for saga in (place_order, open_books)}, open_max=2_048)
        self.core.adopt(dict.fromkeys(range(256), 1), [], 0)
        self.now_ms = 0
        self.told: dict[int, Told] = {}
        self.pending = Effects()
        self.least_available = STOCK
        self._submit(-1, open_books, {
            "stock": [{"sku": HOT, "quantity": STOCK}, *({"sku": sku, "quantity": 10_000} for sku in COLD)],
            "accounts": [{"account": "rich", "amount_minor": 10**9}, {"account": "poor", "amount_minor": 0}]})
        while self.core.open_count:
            self.turn()

    def place(self, number: int) -> None:
        hot = number % 2 == 0
        self.told[number] = Told(number, hot, number // 2 % CLIENTS, self.now_ms)
        self._submit(number, place_order, {
            "order_id": f"order-{number}", "customer": "rich" if number % POOR_EVERY else "poor", "amount_minor": 255,
            "lines": [{"sku": HOT if hot else COLD[number % len(COLD)], "quantity": 1, "unit_price_minor": 255}],
            "card_token": "tok_visa", "email": "buyer@example.org",
            "address": {"name": "A. Buyer", "street": "1 High Street", "city": "London", "country": "GB"}})

    def turn(self) -> None:
        """20 ms: what was sent arrives, what was appended is durable, what is due is done."""
        effects, self.pending = self.pending, Effects()
        self.now_ms += TURN_MS
        for service, commands in effects.commands.items():
            self.queues[service].extend(Work(command, "shard-0") for command in commands)
        for service in self.queues:
            self._work_off(service)
        stored = [(r, AppendResult(AppendStatus.STORED, r if isinstance(r, Decided) else None)) for r in effects.records]
        self.pending.include(self.core.appended(stored, self.now_ms))
        for waiter, outcome in effects.outcomes:
            if waiter.number >= 0:
                told = self.told[waiter.number]
                told.told_ms, told.code = self.now_ms, outcome.code
                told.committed = outcome.status is OutcomeStatus.COMMITTED
        self.pending.include(self.core.tick(self.now_ms))
        on_hand, reserved, *_ = self.hot()
        self.least_available = min(self.least_available, on_hand - reserved, on_hand, reserved)

    def hot(self) -> list[int]:
        """[on hand, reserved, sold, returned, received] of the hot SKU."""
        value = self.stores["inventory"].value(f"sku/{HOT}")
        return [STOCK, 0, 0, 0, 0] if value is None else msgspec.msgpack.decode(value)

    def _work_off(self, service: str) -> None:
        queue = self.queues[service]
        if not queue:
            return
        works = self.order(list(queue))
        queue.clear()
        queue.extend(works[CAPACITY:])
        outcomes = self.runners[service].run(works[:CAPACITY], Retention(), self.now_ms)
        self.pending.include(self.core.receive([o.reply for o in outcomes if o.reply is not None], self.now_ms))

    def _submit(self, number: int, saga: Saga, data: dict[str, Any]) -> None:
        request = SubmitRequest(number, f"k{number}", saga.name, saga.encode_input(data), 0)
        self.pending.include(self.core.submit([(Waiter("client", number), request)], self.now_ms))


def trade(inventory: Inventory | None = None, order: Order = finish_first) -> Shop:
    """Orders arrive in bursts, whatever becomes of them; then all must end."""
    shop = Shop(inventory or Inventory(), order)
    for first in range(0, ORDERS, BURST):
        for number in range(first, first + BURST):
            shop.place(number)
        for _ in range(PAUSE_TURNS):
            shop.turn()
    for _ in range(40_000 // TURN_MS):
        if not shop.core.open_count:
            break
        shop.turn()
    return shop


def complaints(shop: Shop) -> list[str]:
    """What is wrong with how the shop treated its customers; empty if nothing is."""
    told = list(shop.told.values())
    hot, cold = [t for t in told if t.hot], [t for t in told if not t.hot]
    found = [f"order {t.number} was not answered" for t in told if not t.told_ms]
    if shop.least_available < 0:
        found.append(f"oversold: {shop.least_available} available")
    sold = [t.number for t in hot if t.committed]
    if shop.hot()[:3] != [0, 0, STOCK] or len(sold) != STOCK:
        found.append(f"{len(sold)} of {STOCK} were sold, the stock says {shop.hot()}")
    for name, group in (("hot", hot), ("cold", cold)):
        if slowest(group) > LATENCY_MS_MAX:
            found.append(f"a {name} order took {slowest(group)} ms")
    if any(t.code for t in cold if t.number % POOR_EVERY):
        found.append("an order that has nothing to do with it was refused")
    return found + unfair(hot)


def slowest(orders: Iterable[Told]) -> int:
    return max(t.told_ms - t.placed_ms for t in orders)


def unfair(hot: list[Told]) -> list[str]:
    """First come, first served: behind the first one that found nothing, only what those before it give back is sold."""
    found = []
    refused = min((t for t in hot if t.code == "OUT_OF_STOCK"), key=lambda t: t.number, default=hot[-1])
    given_back = sum(t.number < refused.number and t.told_ms >= refused.placed_ms and not t.committed for t in hot)
    late = sum(t.committed and t.number > refused.number for t in hot)
    if late > given_back:
        found.append(f"{late} were served after one who came earlier was not, but {given_back} were given back")
    by_client = [sum(t.committed and t.client == client for t in hot) for client in range(CLIENTS)]
    if max(by_client) - min(by_client) > 2 * UNFAIR_MAX:
        found.append(f"clients who asked alike got {by_client}")
    return found


def test_everybody_wants_one_sku(occurred) -> None:
    shop = trade()
    assert complaints(shop) == []
    hot = [t for t in shop.told.values() if t.hot]
    assert sum(t.code == "OUT_OF_STOCK" for t in hot) > ORDERS // 5, "then it was no contention"
    assert sum(t.code == "INSUFFICIENT_FUNDS" for t in hot) > 0, "nothing was ever given back"
    assert slowest(hot) <= slowest(t for t in shop.told.values() if not t.hot) + TURN_MS
    occurred("78")


class Locking(Inventory):
    """One reservation of a SKU at a time: the next order waits until the one before is decided."""

    def prepare_reserve(self, state: State, request: ReserveRequest) -> Reserved | Refused | NotYet:
        stock = state.get(f"sku/{request.lines[0][0]}")
        return NotYet("somebody else holds it") if stock and stock[1] else super().prepare_reserve(state, request)


class Careless(Inventory):
    """Takes stock without looking."""

    def prepare_reserve(self, state: State, request: ReserveRequest) -> Reserved | Refused | NotYet:
        key = f"sku/{request.lines[0][0]}"
        stock = state[key]
        state[key] = [stock[0], stock[1] + 1, *stock[2:]]
        state[f"order/{request.order_id}"] = "RESERVED"
        return Reserved(warehouse="main", allocation=[(request.lines[0][0], 1)])


def last_first(works: list[Work]) -> list[Work]:
    return works[::-1]


@pytest.mark.parametrize(("inventory", "order", "complaint"), [
    (Locking(), finish_first, "a hot order took"),
    (Careless(), finish_first, "oversold"),
    (None, last_first, "came earlier"),
])
def test_the_judge_finds_a_shop_that_is_wrong(inventory: Inventory | None, order: Order, complaint: str) -> None:
    assert any(complaint in found for found in complaints(trade(inventory, order)))
