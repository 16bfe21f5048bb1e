"""Random exchanges: several transactions at once, messages repeated and batched anyhow, the service opened anew."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from orchestrator.protocol.messages import Kind, Reply, Status
from orchestrator.testing.contract.company import Company
from orchestrator.testing.contract.report import Rule, Verdicts, differences
from orchestrator.testing.contract.trial import Message, Sample, Trial, number_of, same_answer

TRANSACTIONS = (2, 4)
TURNS = (8, 16)
BATCH_MAX = 4
_Ran = tuple[str, int]  # which handler, for which transaction
_ENDS: Final = (Kind.COMMIT, Kind.ROLLBACK, Kind.ROLLBACK, None)
_KINDS: Final = {"prepare": Kind.PREPARE, "commit": Kind.COMMIT, "rollback": Kind.ROLLBACK, "perform": Kind.PERFORM}


class _Plan:
    """What becomes of one transaction: its messages come in the order in which a shard may send them."""

    def __init__(self, number: int, sample: Sample, end: Kind | None) -> None:
        self.number, self.sample, self.end = number, sample, end
        self.vote: Reply | None = None

    def next(self, chance: random.Random) -> Message:
        """One of the messages that may come now; any that came before may come again."""
        return Message(chance.choice(self._allowed()), self.number, self.sample)

    def last(self) -> Message | None:
        """What ends it; None where it is left as it is."""
        if self.end is None or (self.end is Kind.COMMIT and not self.yes):
            return None
        return Message(self.end, self.number, self.sample)

    @property
    def yes(self) -> bool:
        """Whether it may be committed."""
        return self.vote is not None and self.vote.status is Status.YES

    def heard(self, reply: Reply) -> None:
        """A reply; the first definite vote is the vote."""
        if reply.kind is Kind.PREPARE and self.vote is None and reply.status in (Status.YES, Status.NO):
            self.vote = reply

    def _allowed(self) -> list[Kind]:
        if not self.sample.prepares:
            return [Kind.PERFORM]
        if self.end is Kind.ROLLBACK:
            return [Kind.PREPARE, Kind.PREPARE, Kind.ROLLBACK]  # it may overtake its prepare
        return [Kind.PREPARE, Kind.COMMIT] if self.yes and self.end is Kind.COMMIT else [Kind.PREPARE]


def retries(trial: Trial, company: Company, verdicts: Verdicts, case: int) -> None:
    """One random exchange: it must come to what each message once comes to, and to nothing of what was rolled back."""
    chance = random.Random(f"{verdicts.seed}/{case}")
    verdicts.case = case
    plans = {
        number: _Plan(number, sample, chance.choice(_ENDS) if sample.prepares else Kind.PERFORM)
        for number, sample in enumerate(company.drawn(chance, chance.randint(*TRANSACTIONS)), 1)}
    fork = trial.fork()
    _exchange(fork, plans, chance)
    ran = [(call.part, number_of(call.transaction)) for call, _ in fork.calls]
    _once_each(fork, trial, ran, plans)
    _own_share(trial, ran, plans)
    verdicts.case = None


def _exchange(fork: Trial, plans: Mapping[int, _Plan], chance: random.Random) -> None:
    for _ in range(chance.randint(*TURNS)):
        batch = [chance.choice(list(plans.values())).next(chance) for _ in range(chance.randint(1, BATCH_MAX))]
        _hear(fork, plans, fork.send_all(batch))
        if chance.random() < 0.15:  # noqa: PLR2004 - now and then
            fork.reopen()
    _hear(fork, plans, fork.send_all([message for plan in plans.values() if (message := plan.last()) is not None]))


def _hear(fork: Trial, plans: Mapping[int, _Plan], replies: Sequence[Reply]) -> None:
    for reply in replies:
        plan = plans[number_of(reply.transaction)]
        plan.heard(reply)
        fork.judge_end(plan.sample, reply)


def _once_each(fork: Trial, trial: Trial, ran: Sequence[_Ran], plans: Mapping[int, _Plan]) -> None:
    """Whatever was repeated, the handlers ran once; one message at a time in their order gives the same."""
    sample = next(iter(plans.values())).sample
    finished = [key for key in ran if key[0] != "prepare"]
    twice = sorted({key for key in finished if finished.count(key) > 1})
    fork.expect(Rule.RETRIES, not twice, sample, f"handlers ran twice for one transaction: {twice}")
    once = trial.fork()
    _replay(once, ran, plans)
    left = differences(once.state(), fork.state())
    told = "with repeated messages, batches and restarts it comes to something else than with each message once"
    fork.expect(Rule.RETRIES, not left, sample, told, difference=left)


def _own_share(trial: Trial, ran: Sequence[_Ran], plans: Mapping[int, _Plan]) -> None:
    """What was rolled back has left no trace, unless it made another one vote otherwise; shown with as few as break it."""
    gone = {number for part, number in ran if part == "rollback"}
    if not gone or any(trial.broke(Rule.RESTORES, plans[number].sample) for number in gone):
        return
    trace, left = _traces(trial, ran, plans, gone)
    for number in plans if left else ():
        fewer = [key for key in ran if key[1] != number]
        if not any(part == "rollback" for part, _ in fewer):
            continue
        shorter, still = _traces(trial, fewer, plans, gone)
        if still:
            ran, trace, left = fewer, shorter, still
    guilty = next(number for part, number in ran if part == "rollback")
    told = "after the rollbacks it is not as the transactions that were not rolled back would have left it"
    trace.expect(Rule.OWN_SHARE, not left, plans[guilty].sample, told, difference=left)


def _traces(
    trial: Trial, ran: Sequence[_Ran], plans: Mapping[int, _Plan], gone: Collection[int],
) -> tuple[Trial, list[str]]:
    """What differs between all that ran, and what ran for those that were not rolled back."""
    every, rest = trial.fork(), trial.fork()
    votes = _replay(every, ran, plans)
    others = _replay(rest, [key for key in ran if key[1] not in gone], plans)
    for number, vote in others.items():
        if number not in votes or not same_answer(vote, votes[number]):
            return every, []  # it was refused, or given something else, because of what was held for the others
    return every, differences(rest.state(), every.state())


def _replay(trial: Trial, ran: Sequence[_Ran], plans: Mapping[int, _Plan]) -> dict[int, Reply]:
    votes: dict[int, Reply] = {}
    for part, number in ran:
        reply = trial.send(_KINDS[part], number, plans[number].sample)
        if part == "prepare" and reply.status in (Status.YES, Status.NO):
            votes[number] = reply
    return votes
