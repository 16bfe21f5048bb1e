"""Counting, and reading what was counted."""

from __future__ import annotations

import pytest

from orchestrator.metrics.export import Exporter, Labels, samples
from orchestrator.metrics.figures import Figures, quantile
from orchestrator.metrics.reading import quantile_between, rate_per_s, series, total
from orchestrator.protocol.counts import CODES_MAX, OTHER, Counts, Histogram


def reading(at_ms: int, committed: int, *, since_ms: int = 0, took: list[int] | None = None) -> dict:
    figures = Figures(since_ms)
    figures.value("transactions", committed, saga="buy", outcome="committed", code="")
    figures.value("transactions", 1, saga="buy", outcome="aborted", code="NO_STOCK")
    histogram = Histogram()
    for value in took or []:
        histogram.observe(value)
    figures.histogram("decide_ms", histogram, saga="buy", outcome="committed")
    return figures.plain() | {"at_ms": at_ms}


def test_a_value_lies_at_or_below_its_bound() -> None:
    histogram = Histogram((1, 10))
    for value in (0, 1, 2, 10, 11):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 24


def test_a_quantile_is_as_fine_as_its_buckets() -> None:
    assert quantile([1, 10], [0, 0, 0], 0.5) is None
    assert quantile([1, 10], [0, 10, 0], 0.5) == 5.5
    assert quantile([1, 10], [10, 0, 0], 1.0) == 1
    assert quantile([1, 10], [0, 0, 3], 0.5) == 10


def test_codes_without_end_become_one_series() -> None:
    counts = Counts()
    for number in range(CODES_MAX + 5):
        counts.decide("buy", f"SKU_{number}", 1)
    counts.end("buy", "ANOTHER", 1)
    assert len(counts.decided) == CODES_MAX + 1
    assert sum(counts.decided["buy", OTHER].counts) == 5
    assert list(counts.ended) == [("buy", OTHER)]


def test_time_never_runs_backwards_in_a_sum() -> None:
    counts = Counts()
    counts.decide("buy", "", -5)
    counts.end("buy", "", -5)
    assert counts.decided["buy", ""].sum == counts.ended["buy", ""].sum == 0


@pytest.mark.parametrize(("name", "labels"), [
    ("transaction", {}), ("open", {"saga": "buy"}), ("transactions", {"saga": "buy"})])
def test_a_name_or_label_that_is_not_in_the_registry_is_refused(name: str, labels: dict[str, str]) -> None:
    with pytest.raises((KeyError, AssertionError)):
        Figures(0).value(name, 1, **labels)


def test_labels_carry_no_secret() -> None:
    figures = Figures(0)
    figures.value("retries", 1, service="payment", code="tok_visa4242 declined")
    (found,) = series(figures.plain(), "retries")
    assert "tok_" not in str(found)


def test_labels_are_short_and_ascii_and_what_becomes_the_same_is_added_up() -> None:
    figures = Figures(0)
    figures.value("retries", 1, service="payment", code="Zahlung ungültig")
    figures.value("retries", 2, service="payment", code="x" * 70 + "1")
    figures.value("retries", 3, service="payment", code="x" * 70 + "2")
    assert {one["code"]: one["value"] for one in series(figures.plain(), "retries")} == {
        "Zahlung ung\\xfcltig": 1, "x" * 64: 5}


def test_a_rate_is_the_difference_of_two_readings() -> None:
    assert rate_per_s(reading(1_000, 10), reading(3_000, 50), "transactions", outcome="committed") == 20
    assert rate_per_s(None, reading(1_000, 10), "transactions") is None
    assert rate_per_s(reading(1_000, 10), reading(1_000, 10), "transactions") is None


def test_a_restarted_actor_counts_from_nothing() -> None:
    after = reading(4_000, 6, since_ms=2_000)
    assert rate_per_s(reading(1_000, 1_000), after, "transactions", outcome="committed") == 3
    assert quantile_between(reading(1_000, 1_000, took=[500]), reading(4_000, 6, since_ms=2_000, took=[5]), "decide_ms", 1) == 5


def test_a_quantile_of_the_time_between_leaves_out_what_was_before() -> None:
    before, after = reading(0, 0, took=[5_000] * 100), reading(1, 0, took=[5_000] * 100 + [2] * 10)
    assert quantile_between(before, after, "decide_ms", 0.99) == pytest.approx(2, abs=0.1)
    assert quantile_between(None, after, "decide_ms", 0.5) > 3_000
    assert quantile_between(before, before, "decide_ms", 0.5) is None
    assert quantile_between(before, {}, "decide_ms", 0.5) is None
    assert total(after, "decide_ms") == 110


class Told:
    """A sink that keeps what it was told."""

    def __init__(self) -> None:
        self.added: dict[tuple, float] = {}
        self.set_to: dict[tuple, float] = {}

    def add(self, name: str, labels: Labels, amount: float) -> None:
        assert amount > 0
        key = (name, *sorted(labels.items()))
        self.added[key] = self.added.get(key, 0) + amount

    def set(self, name: str, labels: Labels, value: float) -> None:
        self.set_to[name, *sorted(labels.items())] = value


async def test_a_counter_is_handed_over_once() -> None:
    readings = iter([reading(0, 10, took=[2, 40]), reading(1, 10, took=[2, 40]), reading(2, 12, took=[2, 40, 2_500])])
    told = Told()
    exporter = Exporter("shard-0", lambda: next(readings), told)
    for _ in range(3):
        await exporter.flush()
    assert told.added[
        "raytx_transactions", ("actor", "shard-0"), ("code", ""), ("outcome", "committed"), ("saga", "buy")] == 12
    bucket = {key: amount for key, amount in told.added.items() if key[0] == "raytx_decide_ms_bucket"}
    by_bound = {dict(key[1:])["le"]: amount for key, amount in bucket.items()}
    assert (by_bound["3"], by_bound["70"], by_bound["3000"], by_bound["+Inf"]) == (1, 2, 3, 3)
    assert "2" not in by_bound  # every second bound is left out
    assert "1" not in by_bound
    assert [amount for key, amount in told.added.items() if key[0] == "raytx_decide_ms_count"] == [3]


async def test_a_gauge_may_fall() -> None:
    told, values = Told(), iter([5, 3])

    def gather() -> dict:
        figures = Figures(0)
        figures.value("open", next(values))
        return figures.plain()

    exporter = Exporter("shard-0", gather, told)
    await exporter.flush()
    await exporter.flush()
    assert told.set_to == {("raytx_open", ("actor", "shard-0")): 3}


def test_samples_of_a_histogram_are_cumulative() -> None:
    found = [(name, labels["le"], value) for name, labels, value, _ in samples(reading(0, 0, took=[1, 3])["metrics"])
             if name.endswith("_bucket")]
    assert found[:3] == [("raytx_decide_ms_bucket", "1", 1), ("raytx_decide_ms_bucket", "3", 2),
                         ("raytx_decide_ms_bucket", "7", 2)]
    assert found[-1][1:] == ("+Inf", 2)
