"""What a contract check tries, and what it says: rules, findings, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

from orchestrator.saga import decode_plain

SHOWN_KEYS_MAX = 6
SHOWN_TEXT_MAX = 100


class Rule(Enum):
    """What every service owes the protocol."""

    COVERED = "every operation has a sample request that gets a yes"
    ANSWERS = "prepare and perform answer sample requests, they do not raise"
    RESTORES = "a rollback restores what was there before its prepare"
    OWN_SHARE = "a rollback takes back its own share only, whatever others did meanwhile"
    FINISHES = "what voted yes can be committed and rolled back, whatever happened since"
    IDEMPOTENT = "a repeated message changes nothing and is answered alike"
    RETRIES = "any retries, batches and restarts come to the same as each message once"
    EMPTY = "a rollback without a prepare, and the prepare that comes after it, change nothing"
    REPLAYS = "the same request on the same state gives the same answer and the same writes"
    NO_LEAK = "what is refused, put off or fails leaves nothing behind"
    KEEPS_NOTHING = "handlers keep nothing outside the state"
    READ_ONLY = "handlers leave requests and results as they are"
    CODEC = "requests and results survive their encoding"
    LATE_ANSWER = "the answer of an asynchronous part that comes after the rollback is dropped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that a service breaks.

    Attributes:
        rule: which one.
        operation: of which operation.
        told: what happened, for a person.
        request: the sample request, plain data.
        difference: the state's keys that differ, expected and found.
        sent: the messages up to then.
        replay: how to see it again.
        times: how often the rule was broken by this operation; the first one is shown.
    """

    rule: Rule
    operation: str
    told: str
    request: Any
    difference: tuple[str, ...]
    sent: tuple[str, ...]
    replay: str
    times: int = 1

    def __str__(self) -> str:
        often = f" ({self.times} times, this is the first)" if self.times > 1 else ""
        lines = [f"{self.operation}: {self.told}{often}", f"  rule     {self.rule.value}", f"  request  {short(self.request)}"]
        lines.extend(f"  state    {line}" for line in self.difference)
        lines.extend(f"  sent     {line}" for line in self.sent)
        return "\n".join([*lines, f"  replay   {self.replay}"])


@dataclass(frozen=True, slots=True)
class ContractReport:
    """What the check of one service tried and found.

    Attributes:
        service: its name.
        seed: of the random cases.
        cases: how many of them.
        checks: how often each rule was put to the test.
        answers: how often each operation answered its sample requests yes, no, not_yet or error.
        findings: rules that are broken, at most one a rule and operation.
    """

    service: str
    seed: int
    cases: int
    checks: Mapping[Rule, int]
    answers: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no rule is broken."""
        return not self.findings

    def __str__(self) -> str:
        verdict = "keeps the contract" if self.ok else f"breaks the contract: {len(self.findings)} findings"
        first = f"service {self.service} {verdict} ({sum(self.checks.values())} checks, seed {self.seed})"
        return "\n".join([first, *(str(finding) for finding in self.findings)])


@dataclass(slots=True)
class Verdicts:
    """Counts what is tested and keeps what is broken, the first one of each rule and operation."""

    seed: int
    checks: Counter[Rule] = field(default_factory=Counter)
    found: dict[tuple[Rule, str], Finding] = field(default_factory=dict)
    case: int | None = None  # the random case under way

    def expect(
        self, rule: Rule, holds: bool, operation: str, told: str, *, request: Any = None,  # noqa: FBT001 - what is judged
        difference: Iterable[str] = (), sent: Iterable[str] = (),
    ) -> None:
        """Judge one instance of a rule."""
        self.checks[rule] += 1
        if holds:
            return
        known = self.found.get((rule, operation))
        times = 1 if known is None else known.times + 1
        if known is None:
            case = "" if self.case is None else f", case={self.case}"
            known = Finding(rule, operation, told, request, tuple(difference), tuple(sent), f"seed={self.seed}{case}")
        self.found[rule, operation] = Finding(
            rule, operation, known.told, known.request, known.difference, known.sent, known.replay, times)


def differing(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """The keys by which two states differ; a map's order makes no difference, a number's type does."""
    if expected == found:
        return []
    return sorted(key for key in expected.keys() | found.keys() if _canonical(expected.get(key)) != _canonical(found.get(key)))


def differences(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """The same for a person, with what was expected and found."""
    keys = differing(expected, found)
    lines = [f"{key}: expected {_shown(expected.get(key))}, found {_shown(found.get(key))}" for key in keys[:SHOWN_KEYS_MAX]]
    return [*lines, f"and {len(keys) - SHOWN_KEYS_MAX} more keys"] if len(keys) > SHOWN_KEYS_MAX else lines


def _canonical(value: bytes | None) -> bytes | None:
    return None if value is None else _ORDERED.encode(decode_plain(value))


def _shown(value: bytes | None) -> str:
    return "nothing" if value is None else short(decode_plain(value))


def short(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_TEXT_MAX else f"{text[:SHOWN_TEXT_MAX]}..."


_ORDERED = msgspec.msgpack.Encoder(order="deterministic")
