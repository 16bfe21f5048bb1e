"""Simulated failures: reproducible, from outside, and off by default."""

from typing import Any

import pytest
from pydantic import BaseModel

from actors.faults import Draws, FaultyService
from actors.operation import Operation, Refused
from orchestrator.config import FaultSettings
from orchestrator.errors import IndefiniteError
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind, Reply, Status


class Anything(BaseModel):
    n: int = 0


class Died(BaseException):
    pass


def die():
    raise Died


def operation(**more: Any):
    return Operation(
        name="x", prepares=True, request=Anything, result=Anything, run=lambda *_: Anything(n=1),
        commit=lambda *_: None, rollback=lambda *_: None, **more)


def faulty(opening=1, bound=None, **settings):
    return FaultyService({"x": bound or operation()}, FaultSettings(**settings), opening, die)


def command(number=1, kind=Kind.PREPARE, attempt=1):
    return Command(make_id(1, 1, 1, number), "s", kind, attempt, 1, "x")


def reply(number=1, status=Status.YES):
    return Reply(make_id(1, 1, 1, number), "s", Kind.PREPARE, 1, status)


def test_off_changes_nothing():
    service = faulty()
    wrapped = service.bound["x"]
    assert not wrapped.asks
    assert wrapped.start(command(), {}, Anything(), None) == Anything(n=1)
    wrapped.finish(command(kind=Kind.COMMIT), {}, Anything(), Anything())
    assert service.arriving([command()]) == [command()]
    assert service.leaving([reply()]) == [reply()]


def test_decline_is_a_no_of_prepare_only():
    wrapped = faulty(decline=1.0).bound["x"]
    assert wrapped.start(command(), {}, Anything(), None).code == "SIMULATED_DECLINE"
    assert not isinstance(wrapped.start(command(kind=Kind.PERFORM), {}, Anything(), None), Refused)
    wrapped.finish(command(kind=Kind.COMMIT), {}, Anything(), Anything())


def test_transient_strikes_every_message():
    wrapped = faulty(transient=1.0).bound["x"]
    with pytest.raises(IndefiniteError, match="E_SERVICE_ERROR"):
        wrapped.start(command(), {}, Anything(), None)
    with pytest.raises(IndefiniteError, match="E_SERVICE_ERROR"):
        wrapped.finish(command(kind=Kind.ROLLBACK), {}, Anything(), Anything())


def test_hang_and_lost_replies():
    assert faulty(hang=1.0).arriving([command(), command(2)]) == []
    assert faulty(lose_reply=1.0).leaving([reply(), reply(2, Status.NO)]) == []


def test_crashes():
    with pytest.raises(Died):
        faulty(crash_before=1.0).bound["x"].start(command(), {}, Anything(), None)
    with pytest.raises(Died):
        faulty(crash_before=1.0).bound["x"].finish(command(kind=Kind.COMMIT), {}, Anything(), Anything())
    with pytest.raises(Died):
        faulty(crash_after=1.0).leaving([reply()])
    assert faulty(crash_after=1.0).leaving([reply(status=Status.NO)])


async def test_latency_makes_an_asynchronous_part():
    async def ask(request: Anything) -> int:
        return request.n + 1

    plain = faulty(latency_ms=1).bound["x"]
    assert plain.asks
    assert await plain.inquire(command(), Anything()) is None
    asking = faulty(bound=operation(ask=ask), tail_ms=1, tail_probability=1.0).bound["x"]
    assert await asking.inquire(command(), Anything(n=4)) == 5


def test_draws_follow_from_the_seed_and_the_attempt():
    draws = Draws(FaultSettings(seed=7, decline=0.3, transient=0.3), 1)
    commands = [command(number, attempt=attempt) for number in range(500) for attempt in (1, 2)]
    first = [draws.hits("decline", c) for c in commands]
    assert first == [Draws(FaultSettings(seed=7, decline=0.3), 9).hits("decline", c) for c in commands]
    assert first != [Draws(FaultSettings(seed=8, decline=0.3), 1).hits("decline", c) for c in commands]
    assert first != [draws.hits("transient", c) for c in commands]
    assert first[::2] != first[1::2]
    assert 250 <= sum(first) <= 350


def test_a_restarted_service_does_not_die_of_the_same_attempt_for_ever():
    settings = FaultSettings(crash_before=0.5)
    fates = [Draws(settings, opening).hits("crash_before", command()) for opening in range(20)]
    assert len(set(fates)) == 2
