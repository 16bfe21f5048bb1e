"""Orders on a real Ray: commit everywhere or nowhere, and the caller is told why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.orders import place_order
from integration.shop import POOR, Shop, open_shop, order
from orchestrator import DefiniteError, FaultSettings, IndefiniteError, OutcomeKind, Settings


@pytest.fixture(scope="module")
def shop(head: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One shop for all tests here that need no settings of their own: opening one takes seconds."""
    opened = open_shop(tmp_path_factory.mktemp("orders") / "data", Settings())
    yield opened
    opened.close()


def change(before: dict, after: dict) -> dict[str, int]:
    """What moved between two audits."""
    names = {"committed", "aborted", "units_sold", "captured_minor", "refunded_minor", "units_reserved", "held_minor"}
    return {name: after[name] - before[name] for name in names if after[name] != before[name]}


def test_an_order_commits_everywhere(shop: Shop) -> None:
    before = shop.audit()
    handle = shop.client.submit("place_order", order("o-1", quantity=3), key="o-1")
    outcome = handle.outcome(30)
    assert outcome.status is OutcomeKind.COMMITTED
    assert set(outcome.results) == {"reserve", "authorize", "ship"}
    assert outcome.results["ship"]["tracking"]
    again = shop.client.lookup(key="o-1").outcome(30)
    assert (again.transaction, again.status) == (outcome.transaction, outcome.status)
    by_id = shop.client.lookup(transaction=outcome.transaction).outcome(30)
    assert by_id.results == outcome.results
    assert change(before, shop.audit()) == {"committed": 1, "units_sold": 3, "captured_minor": 765}


@pytest.mark.parametrize(("changes", "code", "step"), [
    ({"quantity": 2_000_000}, "OUT_OF_STOCK", "reserve"),
    ({"sku": "99999"}, "UNKNOWN_SKU", "reserve"),
    ({"account": "nobody"}, "UNKNOWN_ACCOUNT", "authorize"),
    ({"account": POOR, "quantity": 4}, "INSUFFICIENT_FUNDS", "authorize"),
    ({"currency": "EUR"}, "CURRENCY_MISMATCH", "authorize"),
])
def test_refusals_abort_everywhere_and_say_why(shop: Shop, changes: dict, code: str, step: str) -> None:
    before = shop.audit()
    outcome = shop.client.submit("place_order", order(**changes)).outcome(30)
    assert (outcome.status, outcome.code, outcome.step) == (OutcomeKind.ABORTED, code, step)
    assert outcome.service == {"reserve": "inventory", "authorize": "payment"}[step]
    assert outcome.attempts == 1
    assert outcome.message
    assert change(before, shop.audit()) == {"aborted": 1}


def test_a_return_refunds_and_restocks_part_of_an_order(shop: Shop) -> None:
    before = shop.audit()
    assert shop.client.submit("place_order", order("o-2", quantity=5)).outcome(30).committed
    back = {"return_id": "r-1", "order_id": "o-2", "customer": "13047", "amount_minor": 510,
            "lines": [{"sku": "85123A", "quantity": 2, "unit_price_minor": 255}]}
    assert shop.client.submit("return_items", back).outcome(30).committed
    too_much = back | {"return_id": "r-2", "amount_minor": 1_020,
                       "lines": [{"sku": "85123A", "quantity": 4, "unit_price_minor": 255}]}
    assert shop.client.submit("return_items", too_much).outcome(30).status is OutcomeKind.ABORTED
    assert change(before, shop.audit()) == {
        "committed": 1, "units_sold": 5, "captured_minor": 1_275, "refunded_minor": 510}


def test_deadline_aborts_with_a_timeout_and_releases(shop_of: Callable[..., Shop]) -> None:
    shop = shop_of(Settings(faults={"shipping": FaultSettings(latency_ms=2_000)}))
    outcome = shop.client.submit("place_order", order(), deadline_ms=700).outcome(30)
    assert (outcome.status, outcome.code, outcome.service) == (OutcomeKind.ABORTED, "E_TIMEOUT", "shipping")
    assert shop.audit()["totals"]["units_reserved"] == 0


def test_cancel_of_an_undecided_order(shop_of: Callable[..., Shop]) -> None:
    shop = shop_of(Settings(faults={"shipping": FaultSettings(latency_ms=3_000)}))
    handle = shop.client.submit("place_order", order(), key="c-1")
    cancelled = handle.cancel().outcome(30)
    outcome = handle.outcome(30)
    assert (outcome.status, outcome.code) == (OutcomeKind.ABORTED, "E_CANCELLED")
    assert cancelled.transaction == outcome.transaction


def test_cancel_that_overtakes_its_submit(shop: Shop, occurred) -> None:
    before = shop.audit()
    cancelled = shop.client.cancel(key="early").outcome(30)
    assert cancelled.code == "E_CANCELLED"
    outcome = shop.client.submit("place_order", order(), key="early").outcome(30)
    assert (outcome.transaction, outcome.status) == (cancelled.transaction, OutcomeKind.ABORTED)
    assert change(before, shop.audit()) == {}
    occurred("47b")


def test_cancel_after_the_decision_tells_which(shop: Shop) -> None:
    outcome = shop.client.submit("place_order", order(), key="done").outcome(30)
    assert shop.client.cancel(key="done").outcome(30).status is OutcomeKind.COMMITTED
    assert shop.client.cancel(transaction=outcome.transaction).outcome(30).committed


def test_unknown_transactions_are_definite(shop: Shop) -> None:
    for ask in (lambda: shop.client.lookup(key="never"), lambda: shop.client.cancel(transaction="0" * 32)):
        with pytest.raises(DefiniteError) as caught:
            ask().outcome(30)
        assert caught.value.code == "E_UNKNOWN"


def test_one_key_submitted_fifty_times_at_once_runs_once(shop: Shop, occurred) -> None:
    before, data = shop.audit(), order("fifty")
    with ThreadPoolExecutor(50) as threads:
        handles = list(threads.map(lambda _: shop.client.submit("place_order", data, key="fifty"), range(50)))
        outcomes = list(threads.map(lambda h: h.outcome(30), handles))
    assert len({(o.transaction, o.status) for o in outcomes}) == 1
    assert outcomes[0].committed
    with pytest.raises(DefiniteError) as caught:
        shop.client.submit("place_order", order("fifty", quantity=9), key="fifty").outcome(30)
    assert caught.value.code == "E_KEY_CONFLICT"
    assert change(before, shop.audit())["units_sold"] == 2
    occurred("44")


def test_the_same_order_under_a_new_key_is_refused_by_its_services(shop: Shop, occurred) -> None:
    assert shop.client.submit("place_order", order("twice"), key="a").outcome(30).committed
    outcome = shop.client.submit("place_order", order("twice"), key="b").outcome(30)
    assert outcome.status is OutcomeKind.ABORTED
    assert outcome.code.startswith("DUPLICATE")
    occurred("46")


async def test_handles_are_awaitable(shop: Shop) -> None:
    handles = [shop.client.submit("place_order", order()) for _ in range(20)]
    outcomes = await asyncio.gather(*handles)
    assert all(o.committed for o in outcomes)


def test_waiting_that_times_out_is_indefinite_and_can_be_repeated(shop_of: Callable[..., Shop]) -> None:
    shop = shop_of(Settings(faults={"shipping": FaultSettings(latency_ms=1_500)}))
    handle = shop.client.submit("place_order", order())
    with pytest.raises(IndefiniteError) as caught:
        handle.outcome(0.05)
    assert caught.value.code == "E_PENDING"
    assert handle.outcome(30).committed


def test_overload_is_refused_with_a_time_to_come_back(shop_of: Callable[..., Shop], occurred) -> None:
    shop = shop_of(Settings(open_transactions_max=5, faults={"shipping": FaultSettings(latency_ms=2_000)}))
    shop.audit()  # at rest: nothing is open
    handles = [shop.client.submit("place_order", order()) for _ in range(30)]
    codes = []
    for handle in handles:
        try:
            codes.append(handle.outcome(60).status.value)
        except DefiniteError as error:
            codes.append(error.code)
            assert error.retry_after_ms > 0
    assert (codes.count("E_OVERLOADED"), codes.count("COMMITTED")) == (25, 5)
    occurred("73")


BAD = [
    ({"lines": []}, "lines"), ({"lines": [{"sku": "1", "quantity": 0, "unit_price_minor": 1}]}, "quantity"),
    ({"lines": [{"sku": "1", "quantity": -1, "unit_price_minor": 1}]}, "quantity"),
    ({"lines": [{"sku": "1", "quantity": True, "unit_price_minor": 1}]}, "quantity"),
    ({"lines": [{"sku": "1", "quantity": 1.5, "unit_price_minor": 1}]}, "quantity"),
    ({"lines": [{"sku": "1", "quantity": float("nan"), "unit_price_minor": 1}]}, "quantity"),
    ({"lines": [{"sku": "1", "quantity": 1, "unit_price_minor": 2.55}]}, "unit_price_minor"),
    ({"lines": [{"sku": "1", "quantity": 1, "unit_price_minor": 1}] * 10_001, "amount_minor": 10_001}, "lines"),
    ({"amount_minor": 7}, "amount"), ({"card_token": "4111111111111111"}, "card_token"),
]


@pytest.mark.parametrize(("change", "names"), BAD, ids=[name for _, name in BAD])
def test_bad_input_is_refused_at_the_border(change: dict, names: str) -> None:
    with pytest.raises(DefiniteError) as caught:
        place_order.encode_input(order() | change)
    assert caught.value.code == "E_INVALID_INPUT"
    assert names in caught.value.message


@pytest.mark.parametrize("key", ["", "x" * 10_240, "\ud800"])
def test_bad_keys_are_refused_at_the_border(shop: Shop, key: str, occurred) -> None:
    before = shop.audit()
    with pytest.raises(DefiniteError) as caught:
        shop.client.submit("place_order", order(), key=key)
    assert caught.value.code == "E_INVALID_KEY"
    assert change(before, shop.audit()) == {}
    occurred("48")
