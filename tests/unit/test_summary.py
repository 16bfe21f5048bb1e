from __future__ import annotations

import io
import json
from array import array

import pytest
from rich.console import Console

from loadgen.checker.report import CheckReport, Invariant
from loadgen.driver import Tally
from loadgen.summary import Summary
from loadgen.usage import Usage
from loadgen.workload import RETURN_ITEMS, Told


class Audit:
    def __init__(self, ok=True):
        self.ok = ok

    def to_json(self):
        return {"ok": self.ok, "violations": 0 if self.ok else 2, "open": 0, "totals": {"units_sold": 12},
                "worst_violation": None if self.ok else "stock"}


def wrong():
    report = CheckReport()
    report.add(Invariant.KEPT, "key", "told COMMITTED, the log says ABORTED")
    return report


def summary(**changes):
    tally = Tally(wall_s=2.0, window_s=2.0, told_in_window=10)
    for told, code, times in ((Told.COMMITTED, "", 7), (Told.ABORTED, "OUT_OF_STOCK", 2), (Told.ABORTED, "E_TIMEOUT", 1)):
        tally.of("place_order").add(told, code, times)
    for latency_us in (1_000, 2_000, 3_000, 100_000):
        tally.latencies.record_value(latency_us)
    usage = Usage(restarts=1)
    usage.cpu_s.update({"client": 0.001, "orchestrator": 0.002, "log": 0.0005})
    values = {
        "run": "run", "placed": {"orders": 10, "lines": 30, "units": 90, "amount_minor": 12_345}, "tally": tally,
        "usage": usage, "audit": Audit(), "check": CheckReport(), "seed": 1, "settings": {"concurrency": 4}}
    return Summary(**{**values, **changes})


def test_json_has_the_names_and_units_that_are_promised():
    plain = json.loads(json.dumps(summary().to_json()))
    assert {name: plain[name] for name in ("orders", "lines", "units", "amount_minor")} == {
        "orders": 10, "lines": 30, "units": 90, "amount_minor": 12_345}
    assert (plain["committed"], plain["aborted"], plain["unknown"], plain["rejected"]) == (7, 3, 0, 0)
    assert plain["aborted_by_code"] == {"OUT_OF_STOCK": 2, "E_TIMEOUT": 1}
    assert (plain["wall_s"], plain["orders_per_s"]) == (2.0, 5.0)
    assert plain["cpu_us_per_order"] == {"client": 100.0, "log": 50.0, "orchestrator": 200.0, "total": 350.0}
    assert plain["latency_ms"]["p50"] == pytest.approx(2.0, rel=0.01)
    assert plain["latency_ms"]["max"] == pytest.approx(100.0, rel=0.01)
    assert list(plain["latency_ms"]) == ["p50", "p90", "p99", "p999", "max"]
    assert plain["audit"]["ok"] is True
    assert (plain["restarts"], plain["wrong_outcomes"], plain["seed"]) == (1, [], 1)
    assert plain["history"]["ok"] is True
    assert "rows" not in plain
    assert "returns" not in plain


def test_cpu_is_divided_by_the_orders_that_were_worked_for():
    """Refusals cost next to nothing: divided by them, a deployment that is asked for three times too much would look cheap."""
    made = summary()
    made.tally.of("place_order").add(Told.REJECTED, "E_OVERLOADED", 30)
    made.tally.of("place_order").add(Told.UNKNOWN, "E_PENDING", 5)
    assert made.to_json()["cpu_us_per_order"] == {"client": 100.0, "log": 50.0, "orchestrator": 200.0, "total": 350.0}


def test_where_no_order_was_worked_for_there_is_no_cost_of_one():
    made = summary(tally=Tally())
    made.tally.of("place_order").add(Told.REJECTED, "E_OVERLOADED", 30)
    assert made.to_json()["cpu_us_per_order"] == {}
    out = io.StringIO()
    Console(file=out, width=160).print(made.render())
    assert "CPU µs/order" in out.getvalue()


def test_returns_and_rows_stand_apart():
    made = summary(unmatched_return_lines=4, skipped_returns=2, rows={"read": 9, "skipped": {"credit_note": 1}, "bad": []})
    made.tally.of(RETURN_ITEMS).add(Told.COMMITTED, "", 3)
    plain = made.to_json()
    assert plain["committed"] == 7
    assert (plain["returns"]["placed"], plain["returns"]["committed"], plain["returns"]["skipped"]) == (3, 3, 2)
    assert plain["returns"]["unmatched_lines"] == 4
    assert plain["rows"]["skipped"] == {"credit_note": 1}


def test_aborts_are_fine_and_the_rest_is_not():
    assert summary().ok
    assert not summary(audit=Audit(ok=False)).ok
    assert not summary(check=wrong()).ok
    rejected = summary()
    rejected.tally.of("place_order").add(Told.REJECTED, "E_INVALID_INPUT")
    assert not rejected.ok


def test_a_run_that_ended_within_its_warm_up_has_measured_nothing_and_says_so():
    tally = Tally(wall_s=1.0)
    tally.of("place_order").add(Told.COMMITTED, "", 100)
    early = summary(tally=tally, settings={"warm_up_s": 60.0})
    assert not early.ok
    assert [note[:82] for note in early.to_json()["notes"]] == [
        "nothing was measured, for every order began within the warm-up of 60 s: lower --wa"]
    refused = summary(tally=tally)
    tally.record_lateness(array("q", [10]))  # some arrived after it and were refused
    assert refused.ok
    assert refused.all_notes() == []


def test_what_was_told_wrong_is_named():
    plain = summary(check=wrong()).to_json()
    assert plain["wrong_outcomes"] == ["K key: told COMMITTED, the log says ABORTED"]
    assert (plain["wrong_outcomes_count"], plain["history"]["by_invariant"]["K"]) == (1, 1)


def test_latencies_that_are_lower_bounds_are_counted_and_named():
    assert summary().to_json()["latency_censored"] == 0
    made = summary(notes=["another one"])
    made.tally.censored = 3
    plain = made.to_json()
    assert plain["latency_censored"] == 3
    assert plain["notes"] == [
        "3 measured orders had no outcome: their latency is the time that was waited, so percentiles are lower bounds",
        "another one"]
    out = io.StringIO()
    Console(file=out, width=160).print(made.render())
    assert "note: 3 measured orders had no outcome" in out.getvalue()


def test_submits_that_were_mostly_repeats_are_named():
    told = summary()
    orders = sum(told.tally.orders.told.values())
    told.tally.repeats = orders // 20
    assert not [note for note in told.all_notes() if "repeats" in note]
    told.tally.repeats = orders
    assert [note for note in told.all_notes() if f"{orders:,} submits of {orders:,} orders were repeats" in note]


def late(*lateness_ms):
    made = summary()
    made.tally.record_lateness(array("q", [round(late_ms * 1_000) for late_ms in lateness_ms]))
    return made


def test_how_late_the_generator_was_is_told_of_an_open_loop():
    assert summary().to_json()["lateness_ms"] is None
    plain = late(*[1.0] * 98, 3.0, 7.0).to_json()
    assert plain["lateness_ms"] == {"p99": pytest.approx(3.0, rel=0.001), "max": pytest.approx(7.0, rel=0.001)}
    assert plain["notes"] == []
    out = io.StringIO()
    Console(file=out, width=160).print(late(3.0, 7.0).render())
    assert "lateness ms" in out.getvalue()


def test_a_generator_that_cannot_keep_up_is_named_where_that_is_a_part_of_what_is_read_as_latency():
    (note,) = late(*[40.0] * 99, 80.0).to_json()["notes"]  # p99 of the latencies is 100 ms
    assert note.startswith("the load generator was late: 1 order of 100 was submitted 40.0 ms or more after it was to arrive")
    assert "(at most 80.0 ms)" in note
    assert late(9.9).to_json()["notes"] == []  # within the bound
    made = late(40.0)
    made.tally.latencies.record_value(5_000_000, 100)
    assert made.to_json()["notes"] == []  # less than a tenth of p99


def test_a_run_without_an_outcome_has_no_latency():
    plain = summary(tally=Tally()).to_json()
    assert plain["latency_ms"] == {"p50": 0.0, "p90": 0.0, "p99": 0.0, "p999": 0.0, "max": 0.0}
    assert plain["orders_per_s"] == 0.0


@pytest.mark.parametrize(("changes", "text"), [
    ({}, "audit ok"), ({"audit": Audit(ok=False)}, "audit FAILED"), ({"check": wrong()}, "WRONG OUTCOME K key: told"),
    ({}, "history ok"), ({"check": wrong()}, "history BROKEN")])
def test_the_tables_show_outcomes_and_the_audit(changes, text):
    out = io.StringIO()
    Console(file=out, width=160).print(summary(**changes).render())
    assert text in out.getvalue()
    assert "OUT_OF_STOCK" in out.getvalue()


def test_an_order_refused_for_overload_is_no_failure_of_the_run_but_any_other_refusal_is():
    tally = Tally(wall_s=1.0)
    tally.of("place_order").add(Told.REJECTED, "E_OVERLOADED", 5)
    assert summary(tally=tally).ok
    tally.of("place_order").add(Told.REJECTED, "E_INVALID_INPUT")
    assert not summary(tally=tally).ok
