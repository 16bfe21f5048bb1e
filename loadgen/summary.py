"""What a run came to: one JSON object for machines, a few tables for people."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Group, RenderableType
from rich.table import Table

from loadgen.capacity import Capacity
from loadgen.checker.report import CheckReport, Findings, Invariant
from loadgen.nemesis.beside import Struck
from loadgen.result import RESULT_SCHEMA
from loadgen.tally import Counts, Tally
from loadgen.timeline import marks_of, seconds_of
from loadgen.usage import Usage
from loadgen.workload import RETURN_ITEMS, Told
from orchestrator.errors import ErrorCode

TOLD = (Invariant.KEPT, Invariant.DECIDED, Invariant.EXACTLY_ONCE)  # what breaks these was told to somebody
LATER = ("committed", "aborted", "open", "absent")  # what became of unknown ones, as the log says after the run
LATE_MS_MAX = 10.0  # p99: what is due within 2 ms leaves together, on time; five times that, and the generator is behind
REPEATED_SHARE_MAX = 0.05  # of the orders: fewer are the ordinary course of things
LATE_SHARE_MAX = 0.1  # of the latencies' p99: below it the generator's part is lost in what is read as the deployment's
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


class Audited(Protocol):
    """An audit's result."""

    @property
    def ok(self) -> bool:
        """Whether it found no violation."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""


@dataclass(slots=True)
class Summary:
    """A finished run.

    Attributes:
        run: the token in the run's ids and keys.
        placed: orders, lines, units and pence that were placed.
        check: the judgement of the history.
        skipped_returns: returns whose order did not commit.
        unmatched_return_lines: credit note lines without an earlier sale that fits; None: returns were not asked for.
        rows: the trace's rows, read and skipped by reason; None: the orders were made.
        settings: what the run was asked to do.
        capacity: what a search for it found; the figures are those of its last run.
        begin_ns: of `time.perf_counter_ns`: when the run's first second began.
    """

    run: str
    placed: Mapping[str, int]
    tally: Tally
    usage: Usage
    audit: Audited
    check: CheckReport
    seed: int
    settings: Mapping[str, Any]
    skipped_returns: int = 0
    unmatched_return_lines: int | None = None
    rows: Mapping[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    chaos: Struck | None = None
    capacity: Capacity | None = None
    begin_ns: int = 0

    @property
    def ok(self) -> bool:
        """Whether audit and history are ok, something was measured, and only overload or a service that was down refused."""
        orders = self.tally.orders
        for_a_while = sum(orders.rejected_by_code[code] for code in (ErrorCode.OVERLOADED, ErrorCode.UNAVAILABLE))
        refused = orders.told[Told.REJECTED] - for_a_while
        failed = refused or self._all_in_warm_up or (self.chaos and self.chaos.failures)
        return self.audit.ok and self.check.ok and not failed

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`; times in the unit of their name."""
        orders, later = self.tally.orders, {state: self.check.counts[f"unknown_{state}"] for state in LATER}
        plain = {
            "schema_version": RESULT_SCHEMA,
            "ok": self.ok,
            "run": self.run,
            "workload": self.settings.get("workload", ""),
            **self.placed,
            **_counts(orders),
            "unknown": orders.told[Told.UNKNOWN],
            "unknown_later": later,
            "wall_s": round(self.tally.wall_s, 3),
            "window_s": round(self.tally.window_s, 3),
            "orders_per_s": round(self.orders_per_s, 1),
            "latency_ms": self.latency_ms(),
            "lateness_ms": self.lateness_ms(),
            "latency_censored": self.tally.censored,
            "latency_histogram": self.tally.latencies.encode().decode(),
            "cpu_us_per_order": self.cpu_us_per_order(),
            "processors": os.cpu_count() or 1,
            "restarts": self.usage.restarts,
            "repeats": self.tally.repeats,
            "wrong_outcomes": [str(found.first) for found in self._told_wrong()],
            "wrong_outcomes_count": sum(found.count for found in self._told_wrong()),
            "audit": self.audit.to_json(),
            "history": self.check.to_json(),
            "seed": self.seed,
            "settings": dict(self.settings),
            "notes": self.all_notes(),
            "chaos": None if self.chaos is None else self.chaos.to_json(),
            "capacity": None if self.capacity is None else self.capacity.to_json(),
            "seconds": seconds_of(self.tally, self.usage, self.begin_ns),
            "marks": marks_of(self.usage, self.begin_ns, self._strikes()),
        }
        if self.rows is not None:
            plain["rows"] = dict(self.rows)
        if self.unmatched_return_lines is not None:
            plain["returns"] = self._returns()
        return plain

    @property
    def orders_per_s(self) -> float:
        """Orders with an outcome by time, the warm-up left out."""
        return self.tally.orders_per_s

    def all_notes(self) -> list[str]:
        """What a person should know: of the clocks, of the latencies, of the run."""
        found = [*self.usage.notes]
        if self._all_in_warm_up:
            found.append(
                f"nothing was measured, for every order began within the warm-up of {self.settings['warm_up_s']:g} s: lower "
                "--warm-up, or give --duration, which comes after it")
        if self.tally.censored:
            found.append(
                f"{self.tally.censored:,} measured orders had no outcome: their latency is the time that was waited, "
                "so percentiles are lower bounds")
        late_ms = self.tally.lateness_ms(99)
        if late_ms > max(LATE_MS_MAX, LATE_SHARE_MAX * self.latency_ms()["p99"]):
            found.append(
                f"the load generator was late: 1 order of 100 was submitted {late_ms:,.1f} ms or more after it was to arrive "
                f"(at most {self.tally.lateness_ms(100):,.1f} ms), which is part of the latencies and not the deployment's: "
                "--processes or a lower --rate")
        count = sum(self.tally.orders.told.values())
        if self.tally.repeats > REPEATED_SHARE_MAX * count:
            found.append(
                f"{self.tally.repeats:,} submits of {count:,} orders were repeats, mostly of what a full deployment refused: "
                "that is a part of cost and latencies; --concurrency is too high, or open_transactions_max too low")
        return found + self.notes

    @property
    def _all_in_warm_up(self) -> bool:
        """Whether orders were answered and none of them, nor of those that were refused, came after the warm-up."""
        told, tally = self.tally.orders.told, self.tally
        answered = told.total() - told[Told.REJECTED]
        return answered > 0 and not tally.latencies.get_total_count() and not tally.lateness_us

    def latency_ms(self) -> dict[str, float]:
        """Percentiles from submit to outcome, in milliseconds; zeros where nothing was measured."""
        histogram = self.tally.latencies
        values = {name: histogram.get_value_at_percentile(at) / 1000 for name, at in PERCENTILES.items()}
        values["max"] = histogram.get_max_value() / 1000
        return {name: round(value, 3) if histogram.get_total_count() else 0.0 for name, value in values.items()}

    def lateness_ms(self) -> dict[str, float] | None:
        """How late the generator itself was, from intended arrival to submit, in milliseconds; None of a closed loop."""
        if not self.tally.lateness_us:
            return None
        return {"p99": round(self.tally.lateness_ms(99), 3), "max": round(self.tally.lateness_ms(100), 3)}

    def cpu_us_per_order(self) -> dict[str, float]:
        """Microseconds of CPU by role for each committed or aborted order, nothing where there was none.

        Refusals, returns and repeats are part of the cost, and no orders to divide it by.
        """
        told = self.tally.orders.told
        orders = told[Told.COMMITTED] + told[Told.ABORTED]
        if not orders:
            return {}
        costs = {role: round(seconds * 1e6 / orders, 1) for role, seconds in sorted(self.usage.cpu_s.items())}
        costs["total"] = round(sum(self.usage.cpu_s.values()) * 1e6 / orders, 1)
        return costs

    def _strikes(self) -> list[tuple[int, str]]:
        strikes = [] if self.chaos is None else self.chaos.strikes
        return [(strike.at_ns, f"{strike.kind} {strike.actor}") for strike in strikes if not strike.missed]

    def _returns(self) -> dict[str, Any]:
        counts = self.tally.of(RETURN_ITEMS)
        return {
            "placed": counts.told.total(),
            **_counts(counts),
            "unknown": counts.told[Told.UNKNOWN],
            "skipped": self.skipped_returns,
            "unmatched_lines": self.unmatched_return_lines,
        }

    def render(self) -> RenderableType:
        """Tables for a terminal."""
        parts: list[RenderableType] = [self._figures(), self._outcomes()]
        parts += [f"note: {note}" for note in self.all_notes()]
        parts += [] if self.chaos is None else [self.chaos.render()]
        parts += [f"[red]WRONG OUTCOME {found.first}[/red]" for found in self._told_wrong()]
        return Group(*parts, *self._audited(), self._judged())

    def _figures(self) -> Table:
        latency = self.latency_ms()
        table = Table("what", "value", title=f"run {self.run}", title_justify="left")
        for name, value in self.placed.items():
            table.add_row(name, f"{value:,}")
        table.add_row("wall", f"{self.tally.wall_s:,.2f} s, {self.tally.window_s:,.2f} s of it measured")
        if self.capacity is not None:
            table.add_row("capacity", f"{self.capacity.rate_per_s:,.0f}/s with p99 within {self.capacity.p99_ms_max:g} ms")
        table.add_row("orders/s", f"{self.orders_per_s:,.0f}")
        table.add_row("latency ms", "  ".join(f"{name} {value:,.1f}" for name, value in latency.items()))
        lateness = self.lateness_ms()
        if lateness is not None:
            table.add_row("lateness ms", "  ".join(f"{name} {value:,.1f}" for name, value in lateness.items()))
        costs = self.cpu_us_per_order()
        table.add_row("CPU µs/order", "  ".join(f"{role} {cost:,.0f}" for role, cost in costs.items()) or "none")
        table.add_row("restarts", f"{self.usage.restarts}")
        if self.rows is not None:
            skipped = self.rows["skipped"]
            table.add_row("rows", f"{self.rows['read']:,} read, " + ", ".join(f"{n:,} {why}" for why, n in skipped.items()))
        return table

    def _outcomes(self) -> Table:
        table = Table("saga", "outcome", "code", "count", title="outcomes", title_justify="left")
        for saga, counts in self.tally.by_saga.items():
            table.add_row(saga, "[green]COMMITTED[/green]", "", f"{counts.told[Told.COMMITTED]:,}")
            for code, number in counts.aborted_by_code.most_common():
                table.add_row(saga, "[yellow]ABORTED[/yellow]", code, f"{number:,}")
            for code, number in counts.rejected_by_code.most_common():
                table.add_row(saga, "[red]REJECTED[/red]", code, f"{number:,}")
            if counts.told[Told.UNKNOWN]:
                table.add_row(saga, "[red]UNKNOWN[/red]", "", f"{counts.told[Told.UNKNOWN]:,}")
        if self.skipped_returns:
            table.add_row(RETURN_ITEMS, "skipped", "order not committed", f"{self.skipped_returns:,}")
        return table

    def _audited(self) -> list[RenderableType]:
        report = self.audit.to_json()
        wrong = sum(found.count for found in self._told_wrong())
        told = "no caller was told a wrong outcome" if not wrong else f"{wrong} WRONG OUTCOMES"
        totals = ", ".join(f"{name} {value:,}" for name, value in report.get("totals", {}).items())
        if self.audit.ok:
            head = f"[bold green]audit ok[/bold green]: {report['open']:,} open, 0 violations; {told}"
        else:
            head = f"[bold red]audit FAILED[/bold red]: {report['violations']:,} violations; {told}"
        worst = [] if self.audit.ok else [f"[red]worst: {report.get('worst_violation')}[/red]"]
        return [head, f"[dim]{totals}[/dim]", *worst]

    def _judged(self) -> RenderableType:
        if not self.check.ok:
            return self.check.render()
        counts = self.check.counts
        reads = f", {counts['reads']:,} reads" if counts["reads"] else ""
        over = f"{counts['operations']:,} operations{reads}"
        return f"[bold green]history ok[/bold green]: {len(Invariant)} invariants over {over}"

    def _told_wrong(self) -> list[Findings]:
        return [found for invariant, found in self.check.findings.items() if invariant in TOLD]


def _counts(counts: Counts) -> dict[str, Any]:
    return {
        "committed": counts.told[Told.COMMITTED],
        "aborted": counts.told[Told.ABORTED],
        "aborted_by_code": dict(counts.aborted_by_code.most_common()),
        "rejected": counts.told[Told.REJECTED],
        "rejected_by_code": dict(counts.rejected_by_code.most_common()),
    }
