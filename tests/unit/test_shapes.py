from __future__ import annotations

from collections import Counter

from loadgen.shapes import DISTINCT_MAX, LineRange, make_baskets


def content(baskets):
    return [(baskets.customer(n), baskets.country(n), baskets.lines(n)) for n in range(len(baskets))]


def test_the_same_seed_gives_the_same_orders_and_another_seed_others():
    assert content(make_baskets(50, 7)) == content(make_baskets(50, 7))
    assert content(make_baskets(50, 7)) != content(make_baskets(50, 8))
    assert content(make_baskets(20, 7)) == content(make_baskets(50, 7))[:20]


def test_lines_may_be_bounded():
    baskets = make_baskets(300, 1, LineRange(1, 3))
    assert {len(baskets.lines(n)) for n in range(300)} == {1, 2, 3}


def test_a_long_run_repeats_a_bounded_number_of_orders():
    assert len(make_baskets(DISTINCT_MAX + 5, 1, LineRange(1, 1))) == DISTINCT_MAX


def test_the_shape_is_the_measured_one():
    baskets = make_baskets(3_000, 1)
    sizes = sorted(len(baskets.lines(n)) for n in range(3_000))
    skus = Counter(line.sku for n in range(3_000) for line in {x.sku: x for x in baskets.lines(n)}.values())
    prices = sorted(line.unit_price_minor for n in range(3_000) for line in baskets.lines(n))
    quantities = sorted(line.quantity for n in range(3_000) for line in baskets.lines(n))
    top = [units for _, units in skus.most_common()]
    demand = baskets.demand(3_000)
    assert 13 <= sizes[1_500] <= 17
    assert 43 <= sizes[2_700] <= 53
    assert 0.15 <= sum(top[:100]) / sum(top) <= 0.25
    assert 0.07 <= top[0] / 3_000 <= 0.14
    assert 180 <= prices[len(prices) // 2] <= 240
    assert quantities[len(quantities) // 2] in (2, 3, 4)
    assert 35_000 <= demand.amount_minor / 3_000 <= 65_000
