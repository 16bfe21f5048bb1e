"""The rules of the contract, each tried on sample requests by the shortest exchange of messages that can break it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from orchestrator.protocol.messages import Kind, Reply, Status
from orchestrator.testing.contract.report import Rule, differences
from orchestrator.testing.contract.trial import Message, Sample, Trial, refused_request, same_answer

PREPARE, COMMIT, ROLLBACK, PERFORM = Kind.PREPARE, Kind.COMMIT, Kind.ROLLBACK, Kind.PERFORM
REPEATS = 3
_A, _B = 1, 2

_ORDERS: Final = (  # each ends with the rollback of A, after which it must be as if B had been alone
    ((PREPARE, _A), (PREPARE, _B)),
    ((PREPARE, _B), (PREPARE, _A)),
    ((PREPARE, _A), (PREPARE, _B), (COMMIT, _B)),
    ((PREPARE, _B), (PREPARE, _A), (COMMIT, _B)),
    ((PREPARE, _B), (COMMIT, _B), (PREPARE, _A)),
)


def first_answer(trial: Trial, sample: Sample) -> Reply:
    """What a sample request is answered on the books as they were opened; it must be an answer, not a failure."""
    reply = trial.fork().send(PREPARE if sample.prepares else PERFORM, _A, sample)
    trial.expect(
        Rule.ANSWERS, reply.status is not Status.ERROR, sample,
        f"it raised {reply.message}: return Refused or NotYet; an exception is tried again until the deadline")
    trial.expect(Rule.ANSWERS, not refused_request(reply), sample, f"the sample is no request of it: {reply.message}")
    return reply


def restores(trial: Trial, sample: Sample) -> None:
    """Prepare and roll back; at once, and with the service opened anew in between."""
    for anew in (False, True):
        fork = trial.fork()
        before = fork.state()
        if fork.send(PREPARE, _A, sample).status is not Status.YES:
            return
        if anew:
            fork.reopen()
        fork.send(ROLLBACK, _A, sample)
        left = differences(before, fork.state())
        told = "after the rollback it is not as it was before the prepare"
        fork.expect(Rule.RESTORES, not left, sample, told, difference=left)


def own_share(trial: Trial, sample: Sample, other: Sample) -> None:
    """Roll the sample back in the midst of another transaction, which is prepared or committed."""
    if trial.broke(Rule.RESTORES, sample):
        return
    alone = trial.fork()
    vote = alone.send(PREPARE, _B, other)
    if vote.status is not Status.YES:
        return
    prepared = alone.state()
    alone.send(COMMIT, _B, other)
    for order in _ORDERS:
        _around(trial.fork(), order, (sample, other), vote, alone.state() if (COMMIT, _B) in order else prepared)


def finishes(trial: Trial, sample: Sample, other: Sample) -> None:
    """What voted yes is committed although another transaction has come and gone, and the service was opened anew."""
    for end in (COMMIT, ROLLBACK):
        fork = trial.fork()
        if fork.send(PREPARE, _A, sample).status is Status.YES and fork.send(PREPARE, _B, other).status is Status.YES:
            fork.send(end, _B, other)
            fork.reopen()
            fork.send(COMMIT, _A, sample)  # the trial judges that it does not fail


def _around(
    fork: Trial, order: Sequence[tuple[Kind, int]], samples: tuple[Sample, Sample], vote: Reply, expected: dict[str, bytes],
) -> None:
    for kind, number in order:
        reply = fork.send(kind, number, samples[number - 1])
        if kind is PREPARE and (reply.status is not Status.YES or (number == _B and not same_answer(reply, vote))):
            return  # one held what the other wanted: nothing to compare with
    fork.send(ROLLBACK, _A, samples[0])
    left = differences(expected, fork.state())
    told = f"after its rollback it is not as {samples[1].operation} of the other transaction alone would have left it"
    fork.expect(Rule.OWN_SHARE, not left, samples[0], told, difference=left)


def idempotent(trial: Trial, sample: Sample) -> None:
    """Repeat each message: at once, in one batch, after the service was opened anew."""
    for ends in ([(PREPARE, COMMIT), (PREPARE, ROLLBACK)] if sample.prepares else [(PERFORM,)]):
        fork = trial.fork()
        for kind in ends:
            first = fork.send(kind, _A, sample)
            if first.status not in (Status.YES, Status.NO, Status.ACK):
                return
            _repeat(fork, kind, sample, first)
            if first.status is Status.NO:
                break
        _together(trial, ends, sample, fork)


def _repeat(fork: Trial, kind: Kind, sample: Sample, first: Reply) -> None:
    before = fork.state()
    repeated = [fork.send(kind, _A, sample), *fork.send_all([Message(kind, _A, sample)] * REPEATS)]
    fork.reopen()
    repeated.append(fork.send(kind, _A, sample))
    left = differences(before, fork.state())
    name = kind.name.lower()
    fork.expect(Rule.IDEMPOTENT, not left, sample, f"a repeated {name} changed something", difference=left)
    other = next((reply for reply in repeated if not same_answer(reply, first)), None)
    fork.expect(Rule.IDEMPOTENT, other is None, sample, f"a repeated {name} was answered {other!r}, first {first!r}")


def _together(trial: Trial, kinds: Sequence[Kind], sample: Sample, one_by_one: Trial) -> None:
    """The same messages as duplicates that arrive at the same time."""
    fork = trial.fork()
    for kind in kinds:
        replies = fork.send_all([Message(kind, _A, sample)] * REPEATS)
        alike = len(replies) == REPEATS and all(same_answer(reply, replies[0]) for reply in replies)
        fork.expect(Rule.IDEMPOTENT, alike, sample, f"{REPEATS} at the same time were answered {replies!r}")
        if not replies or replies[0].status is Status.NO:
            break
    left = differences(one_by_one.state(), fork.state())
    fork.expect(Rule.IDEMPOTENT, not left, sample, "duplicates at the same time came to something else", difference=left)


def empty(trial: Trial, sample: Sample) -> None:
    """Roll back what was never prepared, then let the prepare come."""
    fork = trial.fork()
    before = fork.state()
    told = [fork.send(ROLLBACK, _A, sample), fork.send(PREPARE, _A, sample), fork.send(ROLLBACK, _A, sample)]
    _unmoved(fork, sample, before, told, [Status.ACK, Status.NO, Status.ACK], "a rollback without a prepare")


def rolled_back_refusal(trial: Trial, sample: Sample) -> None:
    """Roll back what was refused, and ask again."""
    fork = trial.fork()
    before = fork.state()
    if fork.send(PREPARE, _A, sample).status is Status.NO:
        told = [fork.send(ROLLBACK, _A, sample), fork.send(PREPARE, _A, sample)]
        _unmoved(fork, sample, before, told, [Status.ACK, Status.NO], "the rollback of a refusal")


def _unmoved(  # noqa: PLR0917 - one exchange
    fork: Trial, sample: Sample, before: dict[str, bytes], told: Sequence[Reply], expected: Sequence[Status], what: str,
) -> None:
    answers = [reply.status for reply in told]
    names = ", ".join(status.name for status in answers)
    fork.expect(Rule.EMPTY, answers == expected, sample, f"{what}, and what followed, were answered {names}")
    left = differences(before, fork.state())
    fork.expect(Rule.EMPTY, not left, sample, f"{what} changed something", difference=left)


def replays(trial: Trial, sample: Sample) -> None:
    """The same messages to two lives of the same books."""
    for ends in ([(PREPARE, COMMIT), (PREPARE, ROLLBACK)] if sample.prepares else [(PERFORM,)]):
        one, two = trial.fork(), trial.fork()
        for kind in ends:
            answers = one.send(kind, _A, sample), two.send(kind, _A, sample)
            name = kind.name.lower()
            two.expect(
                Rule.REPLAYS, same_answer(*answers), sample,
                f"the same {name} was answered {_said(answers[0])} and, in a second life, {_said(answers[1])}")
            left = differences(one.state(), two.state())
            told = f"the same {name} wrote something else in a second life"
            two.expect(Rule.REPLAYS, not left, sample, told, difference=left)
            if answers[0].status not in (Status.YES, Status.ACK):
                break


def late_answer(trial: Trial, sample: Sample) -> None:
    """Roll back while the asynchronous part runs; then it answers."""
    fork = trial.fork()
    before = fork.state()
    told = fork.post([Message(PREPARE, _A, sample)])
    waiting = fork.waits
    if not waiting:
        return
    told += fork.post([Message(ROLLBACK, _A, sample)])
    told += fork.answer_late(waiting)
    left = differences(before, fork.state())
    fork.expect(Rule.LATE_ANSWER, not left, sample, "an answer after the rollback changed something", difference=left)
    answers = sorted((reply.kind.name, reply.status.name) for reply in told)
    expected = [("PREPARE", "NO"), ("ROLLBACK", "ACK")]
    fork.expect(Rule.LATE_ANSWER, answers == expected, sample, f"expected {expected}, answered {answers}")


def _said(reply: Reply) -> str:
    return f"{reply.status.name} {reply.code} {reply.result!r}"


SINGLE: Final[tuple[Callable[[Trial, Sample], None], ...]] = (idempotent, replays)
SINGLE_PREPARED: Final[tuple[Callable[[Trial, Sample], None], ...]] = (restores, empty, rolled_back_refusal, late_answer)
PAIRED: Final[tuple[Callable[[Trial, Sample, Sample], None], ...]] = (own_share, finishes)
