"""What a chaos run came to: who was killed how often, how long callers waited for it, and whether all stayed true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from rich.console import Group, RenderableType
from rich.table import Table

from loadgen.nemesis.faults import LOSES_DRIVER, Strike
from loadgen.nemesis.plan import Kind

TERMINAL_S_MAX = 10.0
RECOVERY_MS_MEDIAN_MAX = 1_000.0


class Checked(Protocol):
    """A judgement of stores, or of stores and history."""

    @property
    def ok(self) -> bool:
        """Whether it found no violation."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""


class Placed(Protocol):
    """What a report needs of the load; `LoadProcess` is one."""

    lives: int

    def total(self) -> Counter[str]:
        """What was told."""

    def aborted_by_code(self) -> Counter[str]:
        """Why."""


class Outcome(Protocol):
    """What came of a run; `Judged` is one."""

    terminal_s: float | None
    placed_s: float
    checks: dict[str, Checked]
    failures: list[str]
    facts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which faults a run must have contained; one that did not has shown nothing.

    Attributes:
        kills: processes killed one by one or several at once; a whole deployment counts once.
        deployments: kills of the whole deployment.
        others: of each of these kinds so many.
    """

    kills: int = 0
    deployments: int = 0
    others: Mapping[Kind, int] = field(default_factory=dict)


@dataclass(slots=True)
class ChaosReport:
    """A finished run.

    Attributes:
        seed: of the plan.
        replay: the command that runs the same plan.
        planned, done: steps.
        strikes: everything that was done.
        placed_s: seconds during which orders were placed, outages included.
        told: orders by what was told, over all lives of the driver; and those repeated or cancelled on purpose.
        lives: how often the driver was started.
        terminal_s: from the last heal until no transaction was open; None: some still were.
        checks: audits and judgements by name.
        facts: what else was counted.
        failures: why the run is not good; empty where it is.
    """

    seed: int
    replay: str
    planned: int
    done: int
    strikes: Sequence[Strike]
    placed_s: float
    told: Mapping[str, int]
    aborted_by_code: Mapping[str, int]
    lives: int
    terminal_s: float | None
    checks: Mapping[str, Checked]
    wanted: Wanted
    facts: Mapping[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, load: Placed, judged: Outcome, **more: Any) -> Self:
        """The report of a run from its load and its judgement."""
        return cls(
            placed_s=judged.placed_s, told=load.total(), aborted_by_code=load.aborted_by_code(), lives=load.lives,
            terminal_s=judged.terminal_s, checks=judged.checks, facts=judged.facts, failures=judged.failures, **more)

    @property
    def ok(self) -> bool:
        """Whether there is no violation, everything came to an end in time, and the run contained what it must."""
        return not self.all_failures()

    @property
    def orders(self) -> int:
        """Orders that have an outcome."""
        return self.told.get("COMMITTED", 0) + self.told.get("ABORTED", 0)

    def all_failures(self) -> list[str]:
        """Everything that is not as it must be, in words."""
        found = list(self.failures)
        for name, check in self.checks.items():
            if not check.ok:
                found.append(f"{name}: {check.to_json().get('violations')} violations")
        if self.terminal_s is None:
            found.append("transactions were still open long after the last heal")
        elif self.terminal_s > TERMINAL_S_MAX:
            found.append(
                f"the last transaction ended {self.terminal_s:.1f} s after the last heal; {TERMINAL_S_MAX:.0f} s wanted")
        hung = [strike for strike in self.strikes if strike.waited and not strike.missed and strike.took_ms is None]
        found += [f"step {strike.step}: nobody was served after {strike.kind} of {strike.actor}" for strike in hung]
        return found + self._lacking()

    def _lacking(self) -> list[str]:
        kinds = Counter(strike.kind for strike in self.strikes if not strike.missed)
        had = {
            "kills": (sum(strike.killed for strike in self.strikes), self.wanted.kills),
            "kills of the whole deployment": (kinds[Kind.ALL], self.wanted.deployments),
            **{f"faults {kind}": (kinds[kind], number) for kind, number in self.wanted.others.items()}}
        return [f"it contained {found} {name}; {wanted} wanted" for name, (found, wanted) in had.items() if found < wanted]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "ok": self.ok, "failures": self.all_failures(), "seed": self.seed, "replay": self.replay,
            "steps": {"planned": self.planned, "done": self.done},
            "kills": sum(strike.killed for strike in self.strikes),
            "kills_by_role": dict(Counter(strike.role for strike in self.strikes if strike.killed)),
            "kills_by_kind": dict(Counter(str(strike.kind) for strike in self.strikes if strike.killed)),
            "other_faults": dict(Counter(
                str(strike.kind) for strike in self.strikes if not strike.killed and not strike.missed)),
            "missed": dict(Counter(str(strike.kind) for strike in self.strikes if strike.missed)),
            "recovery_ms": {name: spread(values) for name, values in self.recoveries().items()},
            "restart_ms": {name: spread(values) for name, values in self.restarts().items()},
            "terminal_s": None if self.terminal_s is None else round(self.terminal_s, 2),
            "orders": self.orders, "told": dict(self.told), "aborted_by_code": dict(self.aborted_by_code),
            "placed_s": round(self.placed_s, 1), "orders_per_s": round(self.orders / max(self.placed_s, 1e-9), 1),
            "driver_lives": self.lives, "counted": dict(self.facts),
            "checks": {name: check.to_json() for name, check in self.checks.items()},
        }

    def recoveries(self) -> dict[str, list[float]]:
        """Milliseconds from a kill of an actor to the first outcome that needed its successor.

        Returns:
            `all`; of these `one`, a single actor that was killed, by role besides, and `together`, several at once.
        """
        found: dict[str, list[float]] = {"all": [], "together": [], "one": []}
        for strike in self.strikes:
            if strike.killed and strike.took_ms is not None and strike.kind not in LOSES_DRIVER:
                groups = ["together"] if strike.kind is Kind.TOGETHER else ["one", strike.role]
                for group in ["all", *groups]:
                    found.setdefault(group, []).append(strike.took_ms)
        return found

    def restarts(self) -> dict[str, list[float]]:
        """The same of larger faults, by kind: the start of another driver, or Ray's giving a node up, is part of it."""
        by_kind: dict[str, list[float]] = {}
        for strike in self.strikes:
            if strike.took_ms is not None and strike.kind in LOSES_DRIVER | {Kind.ZOMBIE, Kind.PARTITION}:
                by_kind.setdefault(str(strike.kind), []).append(strike.took_ms)
        return by_kind

    def render(self) -> RenderableType:
        """Tables for a terminal."""
        told = self.to_json()
        parts: list[RenderableType] = [_kills(told), _times(told), _figures(told)]
        for name, check in self.checks.items():
            parts.append(f"{name} {'[green]ok[/green]' if check.ok else '[red]FAILED[/red]'}")
            parts += [f"  {line}" for line in _worst(check)]
        parts += [f"[red]{failure}[/red]" for failure in told["failures"]]
        verdict = "[bold green]held[/bold green]" if self.ok else "[bold red]FAILED[/bold red]"
        return Group(*parts, f"{verdict}: seed {self.seed}; again with: {self.replay}")


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, 99th percentile, maximum and number."""
    order = sorted(values)
    if not order:
        return {"n": 0}
    at = {name: order[min(int(share * len(order)), len(order) - 1)] for name, share in (("median", 0.5), ("p99", 0.99))}
    return {"n": len(order), **{name: round(value, 1) for name, value in at.items()}, "max": round(order[-1], 1)}


def _worst(check: Checked) -> list[str]:
    """What a judgement found: the first and the worst of each sort, as it tells them itself."""
    told = check.to_json()
    broken = [f"{name} {one['first']} (worst: {one['worst']})" for name, one in told.get("findings", {}).items()]
    return broken + [str(told[name]) for name in ("first_violation", "worst_violation") if told.get(name)]


def _kills(told: Mapping[str, Any]) -> Table:
    table = Table("kills of", "number", title=f"{told['kills']} kills", title_justify="left")
    for name, number in sorted(told["kills_by_role"].items()):
        table.add_row(name, str(number))
    table.add_section()
    for name, number in sorted(told["kills_by_kind"].items()):
        table.add_row(f"by {name}", str(number))
    for name, number in sorted(told["other_faults"].items()):
        table.add_row(f"other: {name}", str(number))
    for name, number in sorted(told["missed"].items()):
        table.add_row(f"missed: {name}", str(number))
    return table


def _times(told: Mapping[str, Any]) -> Table:
    table = Table("from the kill to the first outcome, ms", "n", "median", "p99", "max")
    for group in ("recovery_ms", "restart_ms"):
        for name, values in told[group].items():
            if values["n"]:
                table.add_row(name, str(values["n"]), *(f"{values[part]:,.0f}" for part in ("median", "p99", "max")))
        table.add_section()
    return table


def _figures(told: Mapping[str, Any]) -> Table:
    table = Table("what", "value")
    table.add_row("orders with an outcome", f"{told['orders']:,} ({told['orders_per_s']:,}/s over {told['placed_s']:,} s)")
    table.add_row("told", "  ".join(f"{name} {number:,}" for name, number in sorted(told["told"].items())))
    table.add_row("aborts", "  ".join(f"{code} {number:,}" for code, number in told["aborted_by_code"].items()))
    ended = "never" if told["terminal_s"] is None else f"{told['terminal_s']} s after the last heal"
    table.add_row("everything terminal", ended)
    table.add_row("steps", f"{told['steps']['done']} of {told['steps']['planned']}")
    table.add_row("counted", "  ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in told["counted"].items()))
    table.add_row("lives of the driver", str(told["driver_lives"]))
    return table
