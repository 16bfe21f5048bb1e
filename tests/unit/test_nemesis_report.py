"""When a chaos run counts as good, and whose outcome proves that somebody serves again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadgen.nemesis.faults import Strike
from loadgen.nemesis.marks import Mark, Marks
from loadgen.nemesis.plan import Kind, make_plan
from loadgen.nemesis.report import ChaosReport, Wanted, spread
from loadgen.nemesis.run import ChaosOptions
from orchestrator.errors import DefiniteError
from orchestrator.protocol.identifiers import partition_of_key


class Checking:
    def __init__(self, ok=True):
        self.ok = ok

    def to_json(self):
        return {"violations": 0 if self.ok else 3}


def strike(kind=Kind.KILL, actor="log", took_ms=500.0, **more):
    return Strike(1, kind, actor, 0, took_ms=took_ms, **more)


GOOD = ChaosReport(
    seed=1, replay="raytx chaos --seed 1", planned=3, done=3,
    strikes=[strike(), strike(Kind.ALL, "deployment", 9_000.0), strike(Kind.STOP, "payment", 100.0)], placed_s=10.0,
    told={"COMMITTED": 90, "ABORTED": 10}, aborted_by_code={"OUT_OF_STOCK": 10}, lives=2, terminal_s=1.0,
    checks={"offline audit": Checking()},
    wanted=Wanted(kills=2, deployments=1, others={Kind.STOP: 1}))


def test_a_good_run():
    told = GOOD.to_json()
    assert GOOD.ok, told["failures"]
    assert told["kills_by_role"] == {"log": 1, "deployment": 1}
    assert told["other_faults"] == {"stop": 1}
    assert told["recovery_ms"]["log"] == {"n": 1, "median": 500.0, "p99": 500.0, "max": 500.0}
    assert told["restart_ms"]["all"]["n"] == 1
    assert told["orders_per_s"] == 10.0


@pytest.mark.parametrize(("change", "why"), [
    ({"checks": {"offline audit": Checking(ok=False)}}, "offline audit: 3 violations"),
    ({"terminal_s": None}, "still open"),
    ({"terminal_s": 10.1}, "10.1 s after the last heal"),
    ({"strikes": [*GOOD.strikes, strike(took_ms=None)]}, "nobody was served"),
    ({"strikes": GOOD.strikes[:1]}, "0 kills of the whole deployment"),
    ({"strikes": GOOD.strikes[:2]}, "0 faults stop"),
    ({"strikes": [strike(missed=True), *GOOD.strikes[1:]]}, "1 kills"),
    ({"failures": ["the load driver ended by itself"]}, "by itself"),
])
def test_a_run_that_is_not_good(change, why):
    report = replace(GOOD, **change)
    assert not report.ok
    assert any(why in failure for failure in report.all_failures())
    assert "FAILED" in str(report.render().renderables[-1])


def test_what_a_run_must_have_contained():
    ten = ChaosOptions(app="", minutes=10)
    plan = make_plan(1, 600, ["log", "payment"])
    assert ten.wanted(plan) == Wanted(kills=150, deployments=5)
    assert ten.limits().commits_min == 10_000
    assert ChaosOptions(app="", minutes=10, faults=frozenset({Kind.ALL})).wanted(plan).deployments == 3


def test_faults_that_cannot_be_had_are_refused():
    with pytest.raises(DefiniteError, match="--disk-mb"):
        ChaosOptions(app="", faults=frozenset({Kind.FULL_DISK})).kinds()
    assert Kind.FULL_DISK in ChaosOptions(app="", disk_mb=128).kinds()


def test_spread():
    assert spread([]) == {"n": 0}
    assert spread(range(1, 101)) == {"n": 100, "median": 51, "p99": 100, "max": 100}


def key_of_shard(shard):
    return next(key for key in (f"k-{n}" for n in range(100)) if partition_of_key(key) % 2 == shard)


@pytest.mark.parametrize(("actor", "key", "committed", "proves"), [
    ("log", "any", False, True),
    ("shard-0", key_of_shard(0), False, True),
    ("shard-0", key_of_shard(1), True, False),
    ("payment", "any", True, True),
    ("payment", "any", False, False),
    ("notification", "any", True, False),
])
def test_whose_outcome_proves_a_recovery(actor, key, committed, proves):
    resolved = []
    marks = Marks(2, lambda mark, took_ms: resolved.append((mark.number, took_ms)))
    marks.add(Mark(1, actor, 1_000_000))
    marks.see(key, 900_000, 5_000_000, committed=committed)
    assert resolved == []  # it was submitted before the kill
    marks.see(key, 1_100_000, 5_000_000, committed=committed)
    marks.see(key, 1_200_000, 9_000_000, committed=committed)
    assert resolved == ([(1, 4.0)] if proves else [])
