"""A clean run of an app's sagas: opens its books, then notes every request that the sagas' examples send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from orchestrator.app import App
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol.messages import Kind, Reply, Status
from orchestrator.saga import Context, Saga, Step, decode_plain, encode_plain
from orchestrator.testing.contract.report import Verdicts
from orchestrator.testing.contract.trial import Sample, Surroundings, Trial, transaction_id

EXAMPLES = 16
OPENING = 0x1000  # numbers of the transactions that are there before a check begins its own


class Recording(NamedTuple):
    """What a contract check starts from."""

    entries: Mapping[str, Sequence[Any]]  # of each service's journal once the books are open
    samples: Mapping[str, Sequence[Sample]]  # of each service, no two alike


def record(app: App, examples: int = EXAMPLES) -> Recording:
    """Run the app's opening, then the first examples of every saga that has any.

    Raises:
        DefiniteError: E_SAGA_DEFINITION where an opening or example does not fit, or an opening transaction aborts.
    """
    run = _CleanRun(app)
    for number, (saga, given) in enumerate(app.opening_inputs()):
        refused = run.transact(saga, given)
        if refused is not None:
            told = f"{saga.name}: {refused.step} answered {refused.status.name} {refused.code} {refused.message}"
            raise DefiniteError(ErrorCode.SAGA_DEFINITION, f"opening {number} of the app was aborted: {told}")
    entries = {name: list(trial.journal.entries) for name, trial in run.trials.items()}
    for saga in app.sagas:
        for number in range(examples if saga.example else 0):
            run.transact(saga, saga.sample(number))
    return Recording(entries, {name: list(found) for name, found in run.samples.items()})


class _CleanRun:
    """Services side by side, and one transaction after the other without any fault."""

    def __init__(self, app: App) -> None:
        self.trials = {
            service.name: Trial(service, Surroundings(service, Verdicts(0), ())) for service in app.services}
        self.samples: dict[str, dict[Sample, None]] = {service.name: {} for service in app.services}
        self._number = OPENING

    def transact(self, saga: Saga, given: BaseModel) -> Reply | None:
        """Run one transaction to its end; the answer that aborted it, None where it committed."""
        self._number += 1
        sent: list[tuple[Step, Sample]] = []
        results: dict[str, Any] = {}
        for step in _in_order(saga, saga.prepares):
            sample = self._sample(saga, step, given, results)
            sent.append((step, sample))
            reply = self._send(Kind.PREPARE, step, sample)
            if reply.status is not Status.YES:
                self._finish(Kind.ROLLBACK, sent)
                return reply
            results[step.name] = decode_plain(reply.result)
        self._finish(Kind.COMMIT, sent)
        for step in _in_order(saga, saga.performs):
            reply = self._send(Kind.PERFORM, step, self._sample(saga, step, given, results))
            results[step.name] = decode_plain(reply.result)
        return None

    def _sample(self, saga: Saga, step: Step, given: BaseModel, results: Mapping[str, Any]) -> Sample:
        seen = {name: results[name] for name in saga.ancestors[step.name]}
        request = encode_plain(step.request(Context(transaction_id(self._number), given, seen)))
        sample = Sample(step.operation, not step.after_commit, request)
        self.samples[step.service].setdefault(sample)
        return sample

    def _finish(self, kind: Kind, sent: Sequence[tuple[Step, Sample]]) -> None:
        for step, sample in sent:
            self._send(kind, step, sample)

    def _send(self, kind: Kind, step: Step, sample: Sample) -> Reply:
        return self.trials[step.service].send(kind, self._number, sample)


def _in_order(saga: Saga, steps: Sequence[Step]) -> list[Step]:
    wanted = {step.name: step for step in steps}
    return [wanted[name] for layer in saga.layers for name in layer if name in wanted]
