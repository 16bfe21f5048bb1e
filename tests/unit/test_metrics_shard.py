"""A shard's figures, over the real core: what happened is counted once, by whom it happened to."""

from __future__ import annotations

from typing import Any, NamedTuple

from orchestrator.metrics.reading import series, total
from orchestrator.metrics.shard_meter import SERIES_MAX, ShardMeter
from orchestrator.protocol.counts import OTHER, Histogram
from orchestrator.protocol.effects import Effects, Notice
from orchestrator.protocol.messages import Status
from orchestrator.protocol.records import Decision
from orchestrator.protocol.retry import RetryPolicy
from unit.core_alone import Alone, commands, opened, saga, step


class NoAppender(NamedTuple):
    """An appender that has had nothing to do."""

    waiting: int = 3
    appended: Histogram = Histogram()
    took_ms: Histogram = Histogram()


class Service(NamedTuple):
    """The way to a service."""

    outstanding: int


def figures(alone: Alone, meter: ShardMeter | None = None) -> dict[str, Any]:
    return (meter or ShardMeter({})).figures(alone.core, NoAppender(), {"A": Service(7)}, restarts=2)


def noticed(meter: ShardMeter, effects: Effects) -> None:
    for notice in effects.notices:
        meter.notice(notice)


def test_a_commit_and_an_abort_are_counted_by_outcome_and_code() -> None:
    alone = Alone()
    (commit,) = commands(alone.committed())
    alone.now_ms += 40
    alone.stored(alone.say(commit, Status.ACK))
    (prepare,) = commands(alone.begun(number=2, key="other"))
    alone.now_ms += 5
    (rollback,) = commands(alone.stored(alone.say(prepare, Status.NO, "NO_STOCK")))
    alone.say(rollback, Status.ACK)
    told = figures(alone)
    assert series(told, "transactions") == [
        {"saga": "sample", "outcome": "committed", "code": "", "value": 1},
        {"saga": "sample", "outcome": "aborted", "code": "NO_STOCK", "value": 1}]
    (ended,) = series(told, "end_ms", outcome="committed")
    assert (ended["count"], ended["sum"]) == (1, 40)
    (decided,) = series(told, "decide_ms", outcome="aborted")
    assert (decided["count"], decided["sum"]) == (1, 5)
    steps = {(one["service"], one["step"], one["phase"]): one["count"] for one in series(told, "step_ms")}
    assert steps == {("A", "a", "prepare"): 2, ("A", "a", "finish"): 2}
    assert total(told, "open") == 0


def test_what_an_earlier_incarnation_decided_is_not_counted_again() -> None:
    alone = Alone(adopted=[opened(1, Decision.COMMIT), opened(2, Decision.ABORT, ended=False)])
    for command in commands(alone.adopted):
        alone.say(command, Status.ACK)
    told = figures(alone)
    assert total(told, "transactions") == 0
    assert total(told, "end_ms") == 2


def test_retries_timeouts_and_parkings_are_counted_by_service() -> None:
    policy = RetryPolicy(attempt_timeout_ms=100)
    alone, meter = Alone(saga(step("a", finish_retry=policy))), ShardMeter({})
    effects = alone.begun()
    (prepare,) = commands(effects)
    noticed(meter, alone.say(prepare, Status.ERROR, "E_BUSY"))
    (again,) = commands(alone.tick(5_000))
    noticed(meter, late := alone.tick(5_000))
    (third,) = commands(late)
    assert again.attempt < third.attempt
    (commit,) = commands(alone.stored(alone.say(third, Status.YES)))
    noticed(meter, alone.say(commit, Status.VIOLATION, "E_VIOLATION"))
    told = figures(alone, meter)
    assert series(told, "retries") == [{"service": "A", "code": "E_BUSY", "value": 1}]
    assert series(told, "timeouts") == [{"service": "A", "value": 1}]
    assert series(told, "parkings") == [{"service": "A", "code": "E_VIOLATION", "value": 1}]


def test_what_the_shell_saw_stands_beside_it() -> None:
    meter = ShardMeter({})
    meter.lost("A")
    meter.lost("A")
    meter.rejected("E_OVERLOADED")
    meter.fenced += 1
    told = figures(Alone(), meter)
    assert total(told, "service_lost", service="A") == 2
    assert total(told, "rejected", code="E_OVERLOADED") == 1
    assert (total(told, "fenced"), total(told, "restarts"), total(told, "append_queue")) == (1, 2, 3)
    assert total(told, "outstanding", service="A") == 7
    assert (total(told, "epoch"), total(told, "partitions")) == (1, 256)


def test_connections_that_were_refused_are_counted_by_reason() -> None:
    refused = {"unauthenticated": 3}
    meter = ShardMeter(refused)
    refused["malformed"] = 1
    assert series(figures(Alone(), meter), "connections_refused") == [
        {"reason": "unauthenticated", "value": 3}, {"reason": "malformed", "value": 1}]


def test_codes_without_end_are_counted_together() -> None:
    meter = ShardMeter({})
    for number in range(SERIES_MAX + 10):
        meter.notice(Notice("retry", "DEBUG", "", service="A", code=f"BUSY_{number}"))
    meter.notice(Notice("aborted", "INFO", "", service="A", code="NO_STOCK"))
    told = figures(Alone(), meter)
    assert len(series(told, "retries")) == SERIES_MAX + 1
    assert total(told, "retries", code=OTHER) == 10


def test_a_shard_that_recovers_says_only_that() -> None:
    told = ShardMeter({}).figures(None, None, {}, 1)
    assert (total(told, "serving"), total(told, "restarts"), set(told["metrics"])) == (0, 1, {"serving", "restarts"})
