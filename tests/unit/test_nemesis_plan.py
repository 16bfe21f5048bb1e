"""The plan of a chaos run: drawn from the seed alone, with every actor and every kind in it."""

from __future__ import annotations

from collections import Counter

import pytest

from loadgen.nemesis.plan import DISK_KINDS, HEAD, ON_ACTORS, ONE_ACTOR, PLANNED, USUAL, Kind, make_plan, parse_kinds
from orchestrator.errors import DefiniteError

ACTORS = ["log", "inventory", "payment", "shipping", "notification", "shard-0", "shard-1"]


def test_the_same_seed_gives_the_same_plan_and_another_one_another():
    assert make_plan(7, 600, ACTORS) == make_plan(7, 600, ACTORS)
    assert make_plan(7, 600, ACTORS).steps != make_plan(8, 600, ACTORS).steps


def test_ten_minutes_hold_every_kind_and_enough_kills():
    plan = make_plan(3, 600, ACTORS)
    kinds = plan.kinds()
    assert set(kinds) == USUAL
    assert kinds[Kind.ALL] >= 5
    kills = sum(
        {Kind.NESTED: step.times, Kind.TOGETHER: len(step.actors)}.get(step.kind, 1) for step in plan.steps
        if step.kind not in (Kind.STOP, Kind.SLOW_DISK, Kind.DISK_ERROR))
    assert kills >= 200
    killed = Counter(actor for step in plan.steps if step.kind in (Kind.KILL, Kind.RAY_KILL) for actor in step.actors)
    assert set(killed) == set(ACTORS)


def test_a_step_says_what_its_kind_needs():
    for step in make_plan(5, 3_000, ACTORS, PLANNED).steps:
        assert (len(step.actors) == 1) == (step.kind in ONE_ACTOR)
        assert (len(step.actors) > 1) == (step.kind is Kind.TOGETHER)
        assert (step.hold_ms > 0) == (step.kind in (Kind.STOP, Kind.SLOW_DISK, Kind.FULL_DISK))
        assert (step.at > 0) == (step.kind in (Kind.STRACE, Kind.DISK_ERROR))
        assert bool(step.calls) == (step.kind in DISK_KINDS)
        assert step.times == 1 or step.kind is Kind.NESTED
        assert not (step.kind in DISK_KINDS and step.actors[0].startswith("shard-"))
        assert str(step).startswith(step.kind)


def test_rare_kinds_are_spread_over_the_run():
    steps = make_plan(11, 600, ACTORS).steps
    places = [step.number for step in steps if step.kind in (Kind.ALL, *HEAD)]
    assert min(places) < len(steps) / 3
    assert max(places) > len(steps) * 2 / 3


def test_only_what_was_asked_for():
    assert {step.kind for step in make_plan(1, 60, ACTORS, {Kind.STOP}).steps} == {Kind.STOP}
    assert {step.kind for step in make_plan(1, 60, ACTORS, {Kind.ALL}).steps} == {Kind.ALL}
    assert {step.kind for step in make_plan(1, 30, ACTORS, HEAD).steps} == set(HEAD)
    assert not {step.kind for step in make_plan(1, 60, ACTORS, ON_ACTORS).steps} - ON_ACTORS


def test_no_time_for_anything_is_refused():
    with pytest.raises(DefiniteError, match="no fault fits"):
        make_plan(1, 0.5, ACTORS, {Kind.KILL})


def test_kinds_are_named_as_they_are_shown():
    assert parse_kinds("kill, all", PLANNED) == {Kind.KILL, Kind.ALL}
    assert parse_kinds(None, PLANNED) is None
    with pytest.raises(DefiniteError, match=r"'gcs'.*kill"):
        parse_kinds("kill,gcs", ON_ACTORS)
