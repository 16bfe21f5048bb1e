"""The judge of the overload experiment accepts a good run and names what is wrong with each bad one."""

from __future__ import annotations

import pytest

from chaos.overload import Memory, judge, percentiles, recovered_after_s
from loadgen.open_loop import Second
from loadgen.workload import Told


def report(**more):
    return {
        "goodput_share": 0.9, "recovered_after_s": 2, "refused_by_code": {"E_OVERLOADED": 10},
        "memory_mb": {"grown": {"shard-0": 20.0}}, "audit_ok": True} | more


def second(offered, committed):
    return Second(offered=offered, became={Told.COMMITTED: committed})


def test_a_good_run_is_accepted():
    assert judge(report()) == []


@pytest.mark.parametrize(("bad", "named"), [
    ({"goodput_share": 0.79}, "goodput"),
    ({"recovered_after_s": 6}, "recovered"),
    ({"recovered_after_s": None}, "recovered"),
    ({"refused_by_code": {"E_OVERLOADED": 1, "E_TIMEOUT": 1}}, "E_TIMEOUT"),
    ({"refused_by_code": {}}, "no overload"),
    ({"memory_mb": {"grown": {"shard-0": 301.0}}}, "shard-0 grew"),
    ({"audit_ok": False}, "audit"),
])
def test_a_bad_run_is_not(bad, named):
    (wrong,) = judge(report(**bad))
    assert named in wrong


@pytest.mark.parametrize(("shares", "expected"), [
    ([100, 100], 0), ([0, 94, 95], 2), ([100, 0, 100], 2), ([100, 0], None), ([], None)])
def test_recovery_is_over_when_nothing_bad_follows(shares, expected):
    assert recovered_after_s([second(100, share) for share in shares]) == expected


def test_percentiles():
    assert percentiles([float(n) for n in range(100)]) == {"p50": 50.0, "p99": 99.0, "max": 99.0}
    assert percentiles([])["max"] == 0.0


def test_growth_is_from_the_start_to_the_most():
    assert Memory({"a": 1.0}, {"a": 5.0}, {"a": 2.0}).grown() == {"a": 4.0}
