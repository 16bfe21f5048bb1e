"""The circuit breaker inside the core: a service that is down gets probes only, and callers are told at once."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.protocol.breaker import PROBES
from orchestrator.protocol.messages import Command, Kind, OutcomeStatus, Reply, Status
from orchestrator.protocol.records import Pause, Pauses
from unit.ill_services import PER_TURN, TURN_MS, Deployment

OFFERED = PER_TURN * 1_000 // TURN_MS
OPENS_MS_MAX = 6_000


def down(answer: Status | None = None, seconds: float = 20, saga: str = "order", service: str = "pay") -> Deployment:
    """Two good seconds, then a service is ill for some."""
    world = Deployment()
    world.run(2, saga)
    world.ill, world.answer_ill = {service}, answer
    world.run(seconds, saga)
    return world


@pytest.mark.parametrize("answer", [None, Status.ERROR])
def test_a_service_that_is_down_opens_its_breaker_and_closes_it_when_it_is_back(answer: Status | None) -> None:
    world = down(answer)
    (opened,) = world.turned()
    assert opened[:3] == ("breaker_opened", "WARNING", "pay")
    assert 2_000 < opened[3] <= 2_000 + OPENS_MS_MAX
    report = world.core.breakers["pay"]
    assert report.state in ("open", "half_open")
    assert report.since_ms == opened[3] - TURN_MS
    assert report.retry_after_ms == 1_000
    assert report.last_error == ("no answer" if answer is None else "E_SERVICE_ERROR")
    assert world.core.breakers["stock"].state == "closed"
    world.ill = set()
    back_ms = world.now_ms
    world.run(4, "order")
    closed = world.turned()[-1]
    assert closed[:3] == ("breaker_closed", "INFO", "pay")
    assert closed[3] - back_ms <= 3_000  # a round of probes, and the time until somebody asks
    assert len(world.turned()) == 2
    world.run(3, "order")
    assert world.committed("order", 28) >= 0.95 * OFFERED
    world.run(3)
    assert world.core.open_count == 0


@pytest.mark.parametrize("answer", [None, Status.ERROR])
def test_while_it_is_open_only_probes_leave_and_new_transactions_are_refused(answer: Status | None) -> None:
    world = down(answer)
    for second in range(9, 21):  # of what was open, none has come to its deadline
        assert world.begun[second]["pay"] <= 2 * PROBES
        assert world.told[second]["order", OutcomeStatus.REJECTED] >= OFFERED - 2 * PROBES
    refused = next(outcome for outcome in reversed(world.outcomes.values()) if outcome.status is OutcomeStatus.REJECTED)
    assert (refused.code, refused.service, refused.retry_after_ms) == ("E_UNAVAILABLE", "pay", 1_000)


def test_what_is_open_ends_though_the_service_never_comes_back_and_what_was_not_sent_needs_no_rollback() -> None:
    world = down(seconds=50)
    assert world.told[45]["order", OutcomeStatus.REJECTED] > 0
    assert world.codes["E_SERVICE_UNAVAILABLE"] > 0
    assert not any(saga == "order" and status is OutcomeStatus.COMMITTED for saga, status in world.told[30])
    world.ill = set()
    world.run(20)
    assert world.core.open_count == 0


def test_sagas_that_do_not_need_it_go_on() -> None:
    world = Deployment()
    world.ill = {"pay"}
    world.run(20, "order", "count")
    assert all(world.committed("count", second) >= 0.98 * OFFERED for second in range(1, 20))


def test_a_repeat_of_what_was_accepted_is_answered_while_it_is_open() -> None:
    world = Deployment()
    world.submit("order", key="mine")
    world.ill = {"pay"}
    world.run(10, "order")
    assert world.core.breakers["pay"].state != "closed"
    world.submit("order", key="mine")
    repeat = world.number
    world.turn()
    world.turn()
    assert repeat not in world.outcomes  # it waits for the outcome, as the first one does
    world.ill = set()
    world.run(5)
    assert world.outcomes[repeat].status is OutcomeStatus.COMMITTED


def test_a_service_after_the_commit_keeps_no_transaction_out() -> None:
    world = down(saga="told", service="mail")
    assert world.core.breakers["mail"].state != "closed"
    assert all(world.committed("told", second) >= 0.98 * OFFERED for second in range(1, 21))
    assert all(world.begun[second]["mail"] <= 2 * PROBES for second in range(9, 21))
    assert "parked" not in {notice.event for _, notice in world.notices}  # it is the service that needs somebody
    world.ill = set()
    world.run(60)
    assert world.core.open_count == 0


@pytest.mark.parametrize("answer", [Status.NO, Status.NOT_YET])
def test_a_service_that_refuses_or_wants_to_be_asked_again_does_not_open_it(answer: Status) -> None:
    world = down(answer)
    assert world.turned() == []


def test_one_transaction_that_always_fails_does_not_open_it() -> None:
    world = Deployment()
    world.ill, world.answer_ill = {"pay"}, Status.ERROR
    world.submit("order", 9)
    world.run(40)
    assert world.turned() == []
    assert world.codes["E_SERVICE_UNAVAILABLE"] == 9


def test_a_light_load_closes_it_too() -> None:
    """After the last open transaction has ended nobody is left to probe: new ones are, a few."""
    world = Deployment()
    world.only = frozenset({Kind.PREPARE})
    world.ill, world.answer_ill = {"pay"}, Status.ERROR
    world.run(6, "order")
    world.run(40)
    assert world.core.open_count == 0
    assert world.core.breakers["pay"].state != "closed"
    world.ill = set()
    for _ in range(10):
        world.submit("order")
        world.run(0.5)
    assert world.core.breakers["pay"].state == "closed"
    assert world.outcomes[world.number].status is OutcomeStatus.COMMITTED


def test_a_shard_that_starts_anew_starts_with_closed_ones() -> None:
    world = down(seconds=10)
    assert world.core.breakers["pay"].state != "closed"
    assert Deployment().core.breakers == {}


def test_a_slow_service_does_not_open_it() -> None:
    """Every answer takes 4.5 s, the policy gives an attempt 1 s."""
    world = Deployment()
    late: dict[int, list[Reply]] = {}
    codes: Counter[str] = Counter()

    def answers(service: str, commands: list[Command]) -> list[Reply]:
        if service == "stock":
            return Deployment.answers(world, service, commands)
        kinds = {Kind.PREPARE: Status.YES, Kind.COMMIT: Status.ACK, Kind.ROLLBACK: Status.ACK}
        late.setdefault(world.now_ms + 4_500, []).extend(
            Reply(c.transaction, c.step, c.kind, c.attempt, kinds[c.kind]) for c in commands)
        return []

    world.answers = answers  # type: ignore[method-assign]
    for _ in range(20_000 // TURN_MS):
        world.submit("order", PER_TURN)
        world.turn()
        world.pending.include(world.core.receive(late.pop(world.now_ms, []), world.now_ms))
    codes.update(notice.event for _, notice in world.notices)
    assert world.turned() == []
    assert world.told[15]["order", OutcomeStatus.COMMITTED] > 0.9 * OFFERED


def test_a_rollback_waits_for_a_service_that_is_silent_and_then_goes_first() -> None:
    world = Deployment()
    world.ill = {"pay"}
    for _ in range(60):
        world.submit("order", 1, duration_ms=3_000)  # their rollbacks are waiting when the breaker opens
        world.run(0.1)
    world.run(4)
    assert world.core.breakers["pay"].state != "closed"
    before = world.core.open_count
    assert before
    world.ill = set()
    world.run(6)
    assert world.core.open_count == 0


def test_a_service_that_an_operator_has_paused_is_not_taken_for_down() -> None:
    """It is sent nothing, so it cannot answer: steps that it wanted to be asked again for wait."""
    world = Deployment()
    world.ill, world.answer_ill = {"pay"}, Status.NOT_YET
    world.run(1, "order")
    world.pending.include(world.core.pause(Pauses(1, [Pause("", "pay", "ann", "", 1)]), world.now_ms))
    world.run(12)
    assert world.turned() == []


def test_a_shard_that_is_full_says_so_but_for_sagas_whose_service_is_down() -> None:
    deployment = Deployment(open_max=1_000_000)
    traffic = deployment.core.traffic
    assert not traffic.is_down(["stock", "pay"])
    deployment.ill.add("pay")
    for _ in range(100):
        deployment.submit("order")
        deployment.turn()
    while not traffic.is_down(["pay"]):
        deployment.turn()
    assert (traffic.is_down(["stock", "pay"]), traffic.is_down(["stock"])) == (True, False)
