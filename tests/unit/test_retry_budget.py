"""Repeats are bounded by a budget, and waiting by a bulkhead: a service that is down costs the others nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.protocol.breaker import BreakerPolicy
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.effects import Effects, Waiter
from orchestrator.protocol.messages import Command, Kind, OutcomeStatus, Reply, Status, SubmitRequest
from orchestrator.protocol.records import AppendResult, AppendStatus, Decided
from orchestrator.protocol.retry import BUDGET_PER_S, BUDGET_TOKENS_MAX, RetryBudget, RetryPolicy
from orchestrator.protocol.traffic import TrafficPolicy
from orchestrator.saga import encode_plain
from unit.ill_services import PER_TURN, SAGAS, TURN_MS, Deployment

NO_BREAKER = TrafficPolicy(breaker=BreakerPolicy(failures=0))  # the budget alone


@pytest.mark.parametrize("answer", [None, Status.ERROR, Status.NOT_YET])
def test_an_ill_service_is_not_stormed_and_goodput_recovers_at_once(answer: Status | None, occurred) -> None:
    world = Deployment(policy=NO_BREAKER)
    world.run(2, "order")
    healthy = world.sent[1]["pay"]
    world.ill, world.answer_ill = {"pay"}, answer
    world.run(20, "order")
    first_attempts = PER_TURN * 1_000 // TURN_MS
    storm = [second["pay"] for second in world.sent[2:22]]
    allowed = first_attempts * 1.1 + BUDGET_PER_S
    assert sum(storm) <= 20 * allowed + BUDGET_TOKENS_MAX + 2 * PER_TURN  # what leaves in the turns at both ends
    assert max(storm) <= allowed + BUDGET_TOKENS_MAX + 2 * PER_TURN
    assert world.core.open_count > 3_900  # without a budget these would be repeated every second or two
    world.ill = set()
    world.run(4, "order")
    assert world.committed("order", 22) >= 0.95 * first_attempts  # new ones at once ...
    world.run(3)
    assert world.core.open_count == 0  # ... and the old ones soon after
    assert healthy == 2 * first_attempts
    occurred("72")


def test_a_budget_lets_isolated_failures_be_repeated_at_once() -> None:
    budget = RetryBudget()
    assert all(budget.take(1) for _ in range(BUDGET_TOKENS_MAX))
    assert not budget.take(1)
    assert budget.take(1 + 1_000 // BUDGET_PER_S)
    for _ in range(10):
        budget.first()
    assert budget.take(11)
    assert not budget.take(11)
    budget.answered()
    assert budget.take(11)
    assert budget.take(11)
    assert not budget.take(10)  # time that runs backwards gives nothing


def test_the_share_and_the_floor_of_a_budget_can_be_set() -> None:
    budget = RetryBudget(per_s=1, percent=100)
    while budget.take(1):
        pass
    budget.first()
    assert budget.take(1)
    assert not budget.take(1_000)
    assert budget.take(1_001)


def test_what_is_postponed_is_spread() -> None:
    policy = RetryPolicy(attempt_timeout_ms=1_000)
    delays = [policy.postponed_ms(5_000, f"t{n}") for n in range(1_000)]
    assert min(delays) > 500
    assert max(delays) <= 1_500
    assert len(set(delays)) > 500
    assert policy.postponed_ms(5_000, "t1") == policy.postponed_ms(5_000, "t1")


def test_transactions_that_do_not_need_a_stopped_service_go_on(occurred) -> None:
    world = Deployment(open_max=1_600, policy=NO_BREAKER)
    world.run(2, "order", "count")
    world.ill = {"pay"}
    world.run(20, "order", "count")
    offered = PER_TURN * 1_000 // TURN_MS
    assert all(world.committed("count", second) >= 0.98 * offered for second in range(1, 22))
    refused = world.told[20]["order", OutcomeStatus.REJECTED]
    assert refused > 0.9 * offered
    assert world.core.open_count <= 1_600
    world.ill = set()
    world.run(5, "order", "count")
    assert world.committed("order", 26) >= 0.95 * offered
    occurred("70")


def test_a_refusal_because_of_a_service_names_it() -> None:
    world = Deployment(open_max=4)
    world.ill = {"pay"}
    world.submit("order", 3)
    world.turn()
    world.turn()
    world.submit("order")
    world.turn()
    (_, outcome), = world.pending.outcomes
    assert (outcome.status, outcome.code, outcome.service) == (OutcomeStatus.REJECTED, "E_OVERLOADED", "pay")
    assert outcome.retry_after_ms > 0
    assert world.core.full_ms == {"order": outcome.retry_after_ms}


def test_places_at_a_service_are_given_back_however_a_transaction_ends() -> None:
    world = Deployment(open_max=40)
    world.ill = {"pay"}
    for _ in range(5):
        world.run(1, "order", "count")
    world.core.drop(range(128), world.now_ms)
    world.ill = set()
    world.run(40)
    assert world.core.open_count == 0
    assert not any(service.waiting for service in world.core._drive.traffic._services.values())


def test_a_service_that_is_slow_is_not_taken_for_one_that_loses_what_it_is_sent() -> None:
    """Answers take 3 s, the policy says 1 s: at first everything is repeated, soon hardly anything."""
    core = Coordinator(SAGAS, open_max=1_000_000)
    core.adopt(dict.fromkeys(range(256), 1), [], 0)
    due: dict[int, list[Command]] = {}
    repeats: Counter[int] = Counter()

    def take(effects: Effects, now_ms: int) -> None:
        stored = [(r, AppendResult(AppendStatus.STORED, r if isinstance(r, Decided) else None)) for r in effects.records]
        for commands in effects.commands.values():
            due.setdefault(now_ms + 3_000, []).extend(commands)
            repeats[now_ms // 1_000] += sum(command.attempt > 1 for command in commands)
        if stored:
            take(core.appended(stored, now_ms), now_ms)

    for number, now_ms in enumerate(range(0, 20_000, TURN_MS)):
        submit = SubmitRequest(number, f"k{number}", "count", encode_plain({}), 0)
        take(core.submit([(Waiter("client", number), submit)], now_ms), now_ms)
        replies = [Reply(c.transaction, c.step, c.kind, c.attempt, Status.YES if c.kind is Kind.PREPARE else Status.ACK)
                   for c in due.pop(now_ms, [])]
        take(core.receive(replies, now_ms), now_ms)
        take(core.tick(now_ms), now_ms)
    assert repeats[2] > 40
    assert sum(repeats[second] for second in range(10, 20)) == 0
