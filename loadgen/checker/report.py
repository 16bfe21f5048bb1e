"""What the checker found: of every invariant the first violation and the worst, and how much was examined."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Group
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import RenderableType


class Invariant(StrEnum):
    """What is checked, the worst first."""

    ATOMIC = "A"
    DECIDED = "D"
    KEPT = "K"
    CONSERVED = "C"
    NOT_OVERSOLD = "O"
    PAID = "P"
    EXACTLY_ONCE = "X"
    LEGAL = "M"
    ISOLATED = "I"
    ACYCLIC = "G"
    NO_ORPHAN = "H"
    LIVE = "L"
    FENCED = "F"
    REPLAYED = "R"
    BOUNDED = "B"
    ENOUGH = "N"


MEANINGS: Final = {
    Invariant.ATOMIC: "final states agree with each other and with the logged decision",
    Invariant.DECIDED: "one decision per transaction, ever",
    Invariant.KEPT: "what was acknowledged is logged; an acknowledged abort left no effect",
    Invariant.CONSERVED: "stock and money are conserved, in integers",
    Invariant.NOT_OVERSOLD: "nothing below zero at any prefix of a ledger",
    Invariant.PAID: "one capture at most, captured less refunded is the price where it committed, else nothing",
    Invariant.EXACTLY_ONCE: "effects are unique; an unknown operation applied once or not at all",
    Invariant.LEGAL: "legal transitions only",
    Invariant.ISOLATED: "no reader saw held stock or money as available, or an aborted order's as sold",
    Invariant.ACYCLIC: "no cycle of dependencies between a service's transitions and its readers",
    Invariant.NO_ORPHAN: "nothing is held without a live transaction",
    Invariant.LIVE: "nothing is open some seconds after healing",
    Invariant.FENCED: "epochs only rise",
    Invariant.REPLAYED: "the live state is what a cold replay of the ledger gives",
    Invariant.BOUNDED: "memory, queues and files stay within their caps",
    Invariant.ENOUGH: "the run contained enough of what it is to be judged by",
}
_SEVERITY: Final = {invariant: rank for rank, invariant in enumerate(Invariant)}


class Violation(msgspec.Struct, frozen=True):
    """One finding.

    Attributes:
        about: the transaction, key, SKU, account or file that it concerns.
        weight: how bad it is beside others of its kind, such as the units or minor units that are wrong.
    """

    invariant: Invariant
    about: str
    text: str
    weight: int = 1

    def __str__(self) -> str:
        return f"{self.invariant} {self.about}: {self.text}" if self.about else f"{self.invariant} {self.text}"


class Findings(msgspec.Struct):
    """The violations of one invariant: how many, the first and the worst."""

    count: int
    first: Violation
    worst: Violation


class CheckReport(msgspec.Struct):
    """The judgement of a run.

    Attributes:
        findings: by invariant, broken ones only.
        counts: how much was examined, by name.
        left_out: what could not be judged, and why.
    """

    findings: dict[Invariant, Findings] = msgspec.field(default_factory=dict)
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    left_out: list[str] = msgspec.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no invariant is broken."""
        return not self.findings

    @property
    def violations(self) -> int:
        """How many violations there are in all."""
        return sum(found.count for found in self.findings.values())

    @property
    def worst(self) -> Violation | None:
        """The worst violation of the gravest broken invariant."""
        if not self.findings:
            return None
        return self.findings[min(self.findings, key=_SEVERITY.__getitem__)].worst

    def add(self, invariant: Invariant, about: str, text: str, *, weight: int = 1, times: int = 1) -> None:
        """Note a violation.

        Args:
            invariant: the one that is broken.
            about: what it concerns.
            text: what is wrong, for a person.
            weight: for choosing the worst.
            times: how many this one stands for.
        """
        found = self.findings.get(invariant)
        violation = Violation(invariant, about, text, weight)
        if found is None:
            self.findings[invariant] = Findings(times, violation, violation)
            return
        found.count += times
        if weight > found.worst.weight:
            found.worst = violation

    def equal(self, invariant: Invariant, about: str, what: str, found: int, expected: int) -> None:
        """Two numbers must be the same; the worst is the one that is furthest off."""
        if found != expected:
            self.add(invariant, about, f"{what} is {found}, must be {expected}", weight=abs(found - expected))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "ok": self.ok,
            "violations": self.violations,
            "by_invariant": {invariant.value: 0 for invariant in Invariant}
            | {invariant.value: found.count for invariant, found in self.findings.items()},
            "worst": None if self.worst is None else str(self.worst),
            "findings": {
                invariant.value: {"first": str(found.first), "worst": str(found.worst)}
                for invariant, found in self.findings.items()},
            "counts": dict(self.counts),
            "left_out": self.left_out,
        }

    def render(self) -> RenderableType:
        """For a terminal: a line that says it all, and a table of what is broken."""
        examined = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in self.counts.items())
        notes = [f"[dim]not judged: {text}[/dim]" for text in self.left_out]
        if self.ok:
            head = f"[bold green]history ok[/bold green]: {len(Invariant)} invariants hold"
            return Group(head, f"[dim]{examined}[/dim]", *notes)
        table = Table("", "invariant", "count", "first", "worst", title="broken", title_justify="left")
        for invariant in sorted(self.findings, key=_SEVERITY.__getitem__):
            found = self.findings[invariant]
            worst = "" if found.worst is found.first else str(found.worst)
            table.add_row(invariant.value, MEANINGS[invariant], f"{found.count:,}", str(found.first), worst)
        return Group(
            f"[bold red]history BROKEN[/bold red]: {self.violations:,} violations", table, f"[dim]{examined}[/dim]", *notes)
