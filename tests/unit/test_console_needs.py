from __future__ import annotations

import pytest

from orchestrator.advice import RULES, Backlog, Observed
from orchestrator.console.link import Standing, Tie
from orchestrator.console.needs import _PAGES, Memory, Need, breakers_of, needs_of
from unit.console_site import status_of

ATTACHED = Standing(Tie.ATTACHED, 5, "")
NOW_MS = 1_000_000


def breaker(state="open", since_ms=NOW_MS - 42_000):
    return {"state": state, "since_ms": since_ms, "cause": "timeouts", "last_error": "no answer", "retry_after_ms": 9}


def named(needs):
    return {need.name.split()[0]: need for need in needs}


def test_a_deployment_that_is_well_needs_nothing():
    observed = Observed(actors=[status_of("log"), status_of("shard-0", breakers={"payment": breaker("closed", 0)})])
    assert list(needs_of(ATTACHED, observed, "d")) == []


@pytest.mark.parametrize(("standing", "name", "severity"), [
    (Standing(Tie.DOWN, 5, "no deployment"), "down", "bad"), (Standing(Tie.LOST, 5, "no answer"), "lost", "bad"),
    (Standing(Tie.STARTING, 5, "starting"), "starting", "info")])
def test_the_tie_itself(standing, name, severity):
    (need,) = needs_of(standing, Observed(actors=[]), "/srv/orders")
    assert (need.name, need.severity, need.since_ms) == (name, severity, 5)


def test_what_advice_says_leads_to_its_page_and_to_when_it_began():
    observed = Observed(
        actors=[status_of("shard-0", breakers={"payment": breaker()}), status_of("service-payment", state="unreachable")],
        backlog=Backlog(3, unfinished=1, oldest_unfinished_ms=90_000, parked={("office", "CLOSED"): 2}), now_ms=NOW_MS,
        paused=["saga s (by ann: x)"])
    needs = named(needs_of(ATTACHED, observed, "d"))
    assert needs.keys() == {"breakers", "unreachable", "unfinished", "parked", "paused"}
    assert (needs["breakers"].since_ms, needs["breakers"].link) == (NOW_MS - 42_000, "/services")
    assert (needs["unfinished"].since_ms, needs["unfinished"].link) == (NOW_MS - 90_000, "/transactions?state=open")
    assert needs["parked"].link == "/parked"


def test_while_it_is_down_only_what_the_files_say_counts():
    observed = Observed(actors=[], backlog=Backlog(3, overdue=3, unfinished=2, parked={("", "X"): 1}))
    assert named(needs_of(Standing(Tie.DOWN, 5, ""), observed, "d")).keys() == {"down", "parked"}


def test_every_page_is_one_of_a_rule():
    assert set(_PAGES) <= {rule.__name__ for rule in RULES}


def test_the_worst_comes_first_and_keeps_its_beginning_while_it_lasts():
    memory = Memory()
    parked, lost = Need("parked # at x", "warn", "2 parked", ""), Need("lost", "bad", "lost", "", since_ms=3)
    assert memory.dated([parked], 10) == [parked._replace(since_ms=10, exact=False)]
    more = parked._replace(what="3 parked")
    assert memory.dated([more, lost], 20) == [lost, more._replace(since_ms=10, exact=False)]
    memory.dated([], 30)
    assert memory.dated([parked], 40)[0].since_ms == 40


def test_the_worst_breaker_of_all_shards():
    shards = [status_of(f"shard-{n}", breakers={"payment": report}) for n, report in enumerate((
        breaker("closed", 0), breaker("open", 20), breaker("half_open", 1), breaker("open", 10)))]
    assert breakers_of(shards)["payment"]["since_ms"] == 10
    assert breakers_of([status_of("log")]) == {}
