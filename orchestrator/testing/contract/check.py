"""The contract check: does a service keep what the protocol asks of every service? Tried, not proved.

A service may declare what legitimately differs: keys of its state that only count (`ignore_keys`), attributes that are no
memory (`ignore_attributes`). What it cannot see: the order of a set of texts, which differs from process to process, and
effects outside the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.app import App, Participant
from orchestrator.protocol.messages import Kind, Status
from orchestrator.saga import encode_plain
from orchestrator.testing.contract.company import Company
from orchestrator.testing.contract.recording import EXAMPLES, OPENING, record
from orchestrator.testing.contract.report import ContractReport, Rule, Verdicts
from orchestrator.testing.contract.retries import retries
from orchestrator.testing.contract.rules import PAIRED, SINGLE, SINGLE_PREPARED, first_answer
from orchestrator.testing.contract.trial import Sample, Surroundings, Trial

CASES = 100


def check_app(
    app: App, *, services: Collection[str] = (), examples: int = EXAMPLES, seed: int = 0, cases: int = CASES,
    case: int | None = None, ignore_keys: Collection[str] = (), ignore_attributes: Collection[str] = (),
) -> list[ContractReport]:
    """Check an app's services on the requests that its sagas' examples send them, over the books that it opens.

    Args:
        app: services, sagas with `example`, `opening`.
        services: names of those to check; all by default.
        examples: so many of each saga are run.
        seed: of the random cases.
        cases: how many random cases per service.
        case: only this random case; the others are left out.
        ignore_keys: prefixes of keys of the state that may differ (counters for people, say).
        ignore_attributes: names of attributes of a service that may change (a client's connections, say).

    Raises:
        DefiniteError: E_SAGA_DEFINITION where an example or the opening is wrong.
    """
    recording = record(app, examples)
    return [
        _Check(service, recording.samples[service.name], recording.entries[service.name], seed, ignore_keys, ignore_attributes)
        .run(_chosen(cases, case))
        for service in app.services if not services or service.name in services]


def check_service(
    service: Participant, requests: Mapping[str, Sequence[Any]], *, opening: Sequence[tuple[str, Any]] = (), seed: int = 0,
    cases: int = CASES, case: int | None = None, ignore_keys: Collection[str] = (), ignore_attributes: Collection[str] = (),
) -> ContractReport:
    """Check one service on sample requests; see `check_app` for the arguments that are not here.

    Args:
        service: the service.
        requests: sample requests by operation: plain data or models. Give at least one that gets a yes for each operation,
            and where there are any, some that are refused or put off.
        opening: (operation, request) to be prepared and committed, or performed, before each check.
        seed: of the random cases.
        cases: how many of them.
        case: only this one.
        ignore_keys: prefixes of keys of the state that may differ.
        ignore_attributes: names of attributes that may change.

    Raises:
        ValueError: an operation is unknown, or the opening is refused.
    """
    prepares = service.operations()
    unknown = sorted({*requests, *(name for name, _ in opening)} - prepares.keys())
    if unknown:
        raise ValueError(f"service {service.name!r} has no operation {', '.join(unknown)}; it has {', '.join(prepares)}")
    samples = [Sample(name, prepares[name], encode_plain(request)) for name, given in requests.items() for request in given]
    books = Trial(service, Surroundings(service, Verdicts(seed), ()))
    for number, (name, request) in enumerate(opening, OPENING):
        _open(books, number, Sample(name, prepares[name], encode_plain(request)))
    check = _Check(service, samples, books.journal.entries, seed, ignore_keys, ignore_attributes)
    return check.run(_chosen(cases, case))


def _open(books: Trial, number: int, sample: Sample) -> None:
    for kind in (Kind.PREPARE, Kind.COMMIT) if sample.prepares else (Kind.PERFORM,):
        reply = books.send(kind, number, sample)
        if reply.status not in (Status.YES, Status.ACK):
            raise ValueError(f"opening: {kind.name.lower()} {sample.operation} was answered {reply.status.name} "
                             f"{reply.code} {reply.message}")


def _chosen(cases: int, case: int | None) -> Sequence[int]:
    return range(cases) if case is None else (case,)


class _Check:
    def __init__(  # noqa: PLR0917 - as the public functions have them
        self, service: Participant, samples: Sequence[Sample], entries: Sequence[Any], seed: int,
        ignore_keys: Collection[str], ignore_attributes: Collection[str],
    ) -> None:
        self._service, self._samples, self._verdicts = service, samples, Verdicts(seed)
        self._trial = Trial(service, Surroundings(service, self._verdicts, ignore_attributes), entries, ignore_keys)

    def run(self, cases: Sequence[int]) -> ContractReport:
        answers = self._singles()
        company = Company(self._trial, self._samples)
        self._pairs(company)
        for case in cases if self._samples else ():
            retries(self._trial, company, self._verdicts, case)
        self._covered(answers)
        verdicts = self._verdicts
        return ContractReport(
            self._service.name, verdicts.seed, len(cases), dict(verdicts.checks),
            {name: dict(counts) for name, counts in answers.items()}, tuple(verdicts.found.values()))

    def _singles(self) -> Mapping[str, Mapping[str, int]]:
        answers: dict[str, Counter[str]] = {name: Counter() for name in self._service.operations()}
        for sample in self._samples:
            answers[sample.operation][_word(first_answer(self._trial, sample).status)] += 1
            for rule in (*SINGLE, *SINGLE_PREPARED) if sample.prepares else SINGLE:
                rule(self._trial, sample)
        return answers

    def _pairs(self, company: Company) -> None:
        for one, other in company.pairs():
            for rule in PAIRED:
                rule(self._trial, one, other)

    def _covered(self, answers: Mapping[str, Mapping[str, int]]) -> None:
        for operation, counts in answers.items():
            told = "no sample request got a yes, so next to nothing was checked: give some, by hand or by the sagas' examples"
            self._verdicts.expect(Rule.COVERED, bool(counts.get("yes")), operation, told)


def _word(status: Status) -> str:
    return "yes" if status is Status.ACK else status.name.lower()
