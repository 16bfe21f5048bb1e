"""The circuit breaker alone: when it opens and when it must not, what may leave while it is open, and that it closes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.protocol.breaker import (
    PROBES,
    QUIET_PROBES,
    WINDOW_MS,
    WINDOW_MS_MIN,
    Breaker,
    BreakerPolicy,
    BreakerState,
    Cause,
)

POLICY = BreakerPolicy(failures=3, silent_ms=4_000, probe_ms=1_000)


class Watched:
    """A breaker, and what it said when it turned."""

    def __init__(self, policy: BreakerPolicy = POLICY) -> None:
        self.turns: list[tuple[bool, str]] = []
        self.breaker = Breaker(policy, lambda breaker, why: self.turns.append((breaker.state is BreakerState.OPEN, why)))

    @property
    def is_open(self) -> bool:
        return self.breaker.state is not BreakerState.CLOSED

    def silence(self, transactions: int = 3, until_ms: int = 4_000, since_ms: int = 0) -> None:
        """Attempts of so many transactions time out, again and again."""
        for now_ms in range(since_ms, until_ms + 1, 1_000):
            for number in range(transactions):
                self.breaker.unanswered(f"t{number}", now_ms)

    def errors(self, transactions: int = 3, until_ms: int = WINDOW_MS_MIN, since_ms: int = 0) -> None:
        for now_ms in range(since_ms, until_ms + 1, 100):
            for number in range(transactions):
                self.breaker.failed(f"t{number}", "E_SERVICE_ERROR", now_ms)


def test_it_opens_when_several_transactions_time_out_and_nothing_is_heard() -> None:
    watched = Watched()
    watched.silence(until_ms=3_000)
    assert not watched.is_open
    watched.silence(since_ms=4_000)
    assert (watched.breaker.state, watched.breaker.cause) == (BreakerState.OPEN, Cause.SILENT)
    assert (watched.breaker.since_ms, watched.breaker.last_error) == (4_000, "no answer")
    assert [opened for opened, _ in watched.turns] == [True]


def test_one_transactions_bad_luck_does_not_open_it() -> None:
    watched = Watched()
    watched.silence(transactions=2, until_ms=60_000)
    watched.errors(transactions=2, until_ms=60_000)
    assert not watched.turns


@pytest.mark.parametrize("word", ["recovers", "heard"])
def test_a_service_that_is_slow_but_answers_does_not_open_it(word: str) -> None:
    watched = Watched()
    for second in range(60):
        watched.silence(transactions=50, since_ms=second * 1_000, until_ms=second * 1_000)
        if second % 4 == 3:  # one answer in four seconds is enough
            getattr(watched.breaker, word)(second * 1_000 + 500)
    assert not watched.turns


def test_it_opens_when_nearly_all_answers_are_errors_and_only_after_more_than_a_batch() -> None:
    watched = Watched()
    watched.errors(transactions=100, until_ms=WINDOW_MS_MIN - 100)
    assert not watched.is_open
    watched.errors(since_ms=WINDOW_MS_MIN)
    assert (watched.breaker.cause, watched.breaker.last_error) == (Cause.FAILING, "E_SERVICE_ERROR")


def test_a_service_that_fails_three_times_in_four_is_asked_again_all_the_same() -> None:
    watched = Watched()
    for number in range(4_000):
        if number % 4:
            watched.breaker.failed(f"t{number}", "E_SERVICE_ERROR", number * 10)
        else:
            watched.breaker.recovers(number * 10)
    assert not watched.turns


def test_commits_that_are_acknowledged_do_not_make_up_for_work_that_fails() -> None:
    watched = Watched()
    for now_ms in range(0, 2_000, 10):
        watched.breaker.failed(f"t{now_ms}", "E_SERVICE_ERROR", now_ms)
        watched.breaker.heard(now_ms)
    assert watched.is_open


def test_good_answers_before_the_first_failure_do_not_delay_it() -> None:
    watched = Watched()
    for now_ms in range(0, 100_000, 10):
        watched.breaker.recovers(now_ms)
    watched.errors(since_ms=100_000, until_ms=101_000)
    assert watched.is_open


def test_failures_of_an_earlier_window_are_forgotten() -> None:
    watched = Watched()
    for number in range(20):  # never three transactions in one window
        watched.breaker.failed(f"t{number}", "E_SERVICE_ERROR", number * WINDOW_MS // 2)
    assert not watched.turns


def test_zero_means_that_there_is_none() -> None:
    watched = Watched(BreakerPolicy(failures=0))
    watched.silence(transactions=100, until_ms=60_000)
    watched.errors(transactions=100, until_ms=60_000)
    assert not watched.turns
    assert watched.breaker.may_send(0, finishing=False)
    assert watched.breaker.may_begin(0)


def test_while_it_is_open_a_few_leave_in_each_while() -> None:
    watched = Watched()
    watched.silence()
    allowed = [now_ms for now_ms in range(4_000, 14_000, 10) if watched.breaker.may_send(now_ms, finishing=False)]
    assert len(allowed) == 9 * PROBES
    assert allowed[0] == 5_000
    assert watched.breaker.state is BreakerState.HALF_OPEN
    watched.breaker.unanswered("t", 14_000)
    assert watched.breaker.state is BreakerState.OPEN


def test_what_ends_a_transaction_probes_before_what_begins_one() -> None:
    watched = Watched()
    watched.silence()
    asked = [(now_ms, finishing, watched.breaker.may_send(now_ms, finishing=finishing))
             for now_ms in range(4_000, 14_000, 10) for finishing in (True, False)]
    assert sum(may for _, finishing, may in asked if finishing) == 9 * PROBES
    assert not any(may for _, finishing, may in asked if not finishing)


def test_what_begins_one_probes_where_nothing_is_there_to_be_ended() -> None:
    watched = Watched()
    watched.silence()
    assert not watched.breaker.may_send(4_100, finishing=True)
    assert not watched.breaker.may_send(5_100, finishing=False)
    assert watched.breaker.may_send(4_100 + QUIET_PROBES * POLICY.probe_ms, finishing=False)


def test_commits_and_rollbacks_are_not_held_from_a_service_that_answers() -> None:
    watched = Watched()
    watched.errors()
    assert all(watched.breaker.may_send(2_000, finishing=True) for _ in range(1_000))
    assert sum(watched.breaker.may_send(2_000, finishing=False) for _ in range(1_000)) == PROBES


@pytest.mark.parametrize("word", ["recovers", "heard"])
def test_any_answer_closes_it_after_a_silence(word: str) -> None:
    watched = Watched()
    watched.silence()
    getattr(watched.breaker, word)(9_000)
    assert watched.turns[-1] == (False, "it answers again; it was open for 5000 ms")
    assert not watched.breaker.troubled


def test_some_good_answers_in_a_row_close_it_after_failures_and_acknowledgements_do_not() -> None:
    watched = Watched()
    watched.errors()
    for _ in range(10):
        watched.breaker.heard(2_000)
        for _ in range(PROBES - 1):
            watched.breaker.recovers(2_000)
        watched.breaker.failed("t", "E_SERVICE_ERROR", 2_000)
    assert watched.is_open
    for _ in range(PROBES):
        watched.breaker.recovers(3_000)
    assert not watched.is_open


def test_a_silent_service_that_begins_to_fail_is_failing() -> None:
    watched = Watched()
    watched.silence()
    watched.breaker.failed("t", "E_SERVICE_ERROR", 5_000)
    assert (watched.is_open, watched.breaker.cause) == (True, Cause.FAILING)


def test_a_new_transaction_is_begun_only_where_nobody_else_can_be_the_probe() -> None:
    watched = Watched()
    watched.silence()
    assert not watched.breaker.may_begin(5_000)
    quiet_ms = 4_000 + QUIET_PROBES * POLICY.probe_ms
    assert [watched.breaker.may_begin(quiet_ms) for _ in range(PROBES + 1)] == [True] * PROBES + [False]
    assert watched.breaker.may_begin(quiet_ms + POLICY.probe_ms)
    while watched.breaker.may_send(quiet_ms + 2_000, finishing=False):
        pass
    assert not watched.breaker.may_begin(quiet_ms + 3_500)  # somebody waits


class Schedule:
    """Steps that ask as a shard's do, and a service that answers, fails, is silent, as it is told."""

    def __init__(self, waiting: int, finishing: int) -> None:
        self.watched = Watched()
        self.now_ms = 10_000
        self.steps = [(f"t{n}", n < finishing) for n in range(waiting)]
        self.sent: list[int] = []  # when a probe left
        self.number = 0

    def second(self, answers: str) -> None:
        """Every step asks once, at a time of its own; what leaves is answered, or times out a second later."""
        breaker = self.watched.breaker
        late: list[str] = []
        for index, (name, finishing) in enumerate(list(self.steps)):
            now_ms = self.now_ms + 1_000 * index // max(len(self.steps), 1)
            probing = breaker.state is not BreakerState.CLOSED and not (finishing and breaker.cause is Cause.FAILING)
            if breaker.may_send(now_ms, finishing=finishing):
                self.sent += [now_ms] * probing
                self.answer(answers, name, finishing, now_ms, late)
        for name in late:
            breaker.unanswered(name, self.now_ms + 1_000)
        self.now_ms += 1_000
        if breaker.may_begin(self.now_ms):
            self.number += 1
            self.steps.append((f"new{self.number}", False))

    def answer(self, answers: str, name: str, finishing: bool, now_ms: int, late: list[str]) -> None:
        breaker = self.watched.breaker
        if answers == "silent":
            late.append(name)
        elif answers == "failing" and not finishing:
            breaker.failed(name, "E_SERVICE_ERROR", now_ms)
        elif finishing:
            breaker.heard(now_ms)
        else:
            breaker.recovers(now_ms)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 40), st.integers(0, 10), st.lists(st.sampled_from(["good", "silent", "failing"]), max_size=40))
def test_it_is_never_stuck_and_its_probes_are_few(waiting: int, finishing: int, history: list[str]) -> None:
    schedule = Schedule(waiting, min(waiting, finishing))
    for answers in history:
        schedule.second(answers)
    for start in schedule.sent:  # any second has the probes of two rounds at most
        assert sum(start <= sent < start + POLICY.probe_ms for sent in schedule.sent) <= 2 * PROBES
    for _ in range(QUIET_PROBES + PROBES + 2):  # the service answers, and somebody asks or comes once a second
        schedule.second("good")
    assert not schedule.watched.is_open


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10), st.integers(1, 40))
def test_a_service_that_answers_everything_never_opens_it(waiting: int, finishing: int, seconds: int) -> None:
    schedule = Schedule(waiting, min(waiting, finishing))
    for _ in range(seconds):
        schedule.second("good")
    assert not schedule.watched.turns
