"""Which sample requests get in each other's way: those that write the same keys are tried together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product

from orchestrator.protocol.messages import Kind, Status
from orchestrator.testing.contract.report import differing
from orchestrator.testing.contract.trial import Sample, Trial

PAIRS_MAX = 6  # of two operations, and as many of a request with itself; the random cases bring together any
COMPANY_SHARE = 0.6  # of the other transactions of a random case write what its first one writes


class Company:
    """Sample requests by the keys that their transactions write on the books as they were opened.

    Args:
        trial: the books.
        samples: the requests.
    """

    def __init__(self, trial: Trial, samples: Sequence[Sample]) -> None:
        self._samples = list(samples)
        self._keys = {sample: _written(trial.fork(), sample) for sample in samples}

    def pairs(self) -> list[tuple[Sample, Sample]]:
        """Pairs for every two operations that prepare: such as write the same keys, or else any one pair."""
        operations = sorted({sample.operation for sample in self._samples if sample.prepares})
        return [pair for one, other in product(operations, repeat=2) for pair in self._pairs(one, other)]

    def drawn(self, chance: random.Random, count: int) -> list[Sample]:
        """Samples for one random case."""
        first = chance.choice(self._samples)
        near = [sample for sample in self._samples if self._meet(first, sample)] or self._samples
        return [first, *(
            chance.choice(near if chance.random() < COMPANY_SHARE else self._samples) for _ in range(count - 1))]

    def _pairs(self, operation: str, other: str) -> list[tuple[Sample, Sample]]:
        every = list(product(self._of(operation), self._of(other)))
        meeting = [pair for pair in every if self._meet(*pair)]
        apart = [pair for pair in meeting if pair[0] != pair[1]]
        alike = [pair for pair in meeting if pair[0] == pair[1]]
        return [*apart[:PAIRS_MAX], *alike[:PAIRS_MAX]] or every[:1]

    def _of(self, operation: str) -> Iterator[Sample]:
        return (sample for sample in self._samples if sample.operation == operation and self._keys[sample])

    def _meet(self, one: Sample, other: Sample) -> bool:
        return not self._keys[one].isdisjoint(self._keys[other])


def _written(fork: Trial, sample: Sample) -> frozenset[str]:
    before = fork.state()
    first = fork.send(Kind.PREPARE if sample.prepares else Kind.PERFORM, 1, sample)
    written = set(differing(before, fork.state()))
    if first.status is Status.YES:
        fork.send(Kind.COMMIT, 1, sample)
        written.update(differing(before, fork.state()))
    return frozenset(written)
