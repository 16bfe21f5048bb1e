"""How an examination is told: a table of what was tried, the first violation as a story, JSON for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.testing.examine import Examination, Plan
from orchestrator.testing.simulation.simulator import Explored
from orchestrator.testing.simulation.story import tell
from orchestrator.testing.simulation.sweep import SweepReport


def render(plan: Plan, done: Examination) -> RenderableType:
    """A table, and the first violation where there is one."""
    table = Table("part", "of", "tried", "what", "violations", box=None, pad_edge=False, expand=False)
    for report in done.contracts:
        checks = f"{len(report.checks)} rules, {report.cases} random cases, seed {report.seed}"
        table.add_row("contract", report.service, f"{sum(report.checks.values()):,} checks", checks, str(len(report.findings)))
    for name, swept in done.sweeps.items():
        for kind, count in swept.trials.items():
            table.add_row("sweep", name, f"{count:,} runs", kind, "0" if swept.violation is None else "")
        table.add_row("sweep", name, "", _outcomes(swept), str(int(swept.violation is not None)))
    for name, explored in done.explored.items():
        table.add_row("simulator", name, f"{explored.schedules:,} schedules", _explored(explored),
                      str(int(explored.violation is not None)))
    return Group(table, *(Text(story) for story in _stories(plan, done)))


def to_json(plan: Plan, done: Examination) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "target": plan.target,
        "ok": done.ok,
        "contracts": [
            {"service": r.service, "ok": r.ok, "checks": sum(r.checks.values()), "findings": [str(f) for f in r.findings]}
            for r in done.contracts],
        "sweeps": {name: {"trials": s.trials, "outcomes": s.outcomes, "ok": s.violation is None}
                   for name, s in done.sweeps.items()},
        "simulator": {name: {
            "schedules": e.schedules, "not_counted": e.idle, "distinct_traces": len(e.traces), "committed": e.committed,
            "aborted": e.aborted, "faults": e.faults, "cpu_s": round(e.cpu_s, 1), "schedules_per_s": round(_rate(e), 1),
            "ok": e.violation is None} for name, e in done.explored.items()},
        "elapsed_s": {part: round(s, 1) for part, s in done.elapsed_s.items()},
        "violations": _stories(plan, done),
    }


def progress_line(saga: str, explored: Explored) -> str:
    """How far the simulator has come with one saga."""
    return f"{saga}: {explored.schedules:,} schedules, {_rate(explored):,.0f} a second of one core, {explored.faults:,} faults"


def _rate(explored: Explored) -> float:
    return explored.schedules / explored.cpu_s if explored.cpu_s else 0.0


def _outcomes(swept: SweepReport) -> str:
    return "outcomes: " + ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(swept.outcomes.items()))


def _explored(e: Explored) -> str:
    return (f"{_rate(e):,.0f}/s of one core; {len(e.traces):,} distinct traces; {e.faults:,} faults; "
            f"{e.committed:,} committed, {e.aborted:,} aborted; not counted: {e.idle:,}")


def _stories(plan: Plan, done: Examination) -> list[str]:
    stories = [str(report) for report in done.contracts if not report.ok]
    for name, swept in done.sweeps.items():
        if swept.violation is not None:
            guarantee, text = swept.violation.violation or ("", "")
            where = [swept.violation.points[point - 1] for point in swept.violation.trial.crashes]
            stories.append(f"{name}, swept: {swept.violation.trial} {where}\n{tell(swept.violation.trace)}\n"
                           f"guarantee {guarantee} was broken: {text}")
    if done.shrunk is not None:
        name, run = done.shrunk
        guarantee, text = run.violation or ("", "")
        replay = f"--only simulator --first-seed {run.seed} --seeds 1{' --disk' if plan.on_disk else ''}"
        stories.append(
            f"{name}, seed {run.seed}: {run.options}\nwith the faults {run.fired}\n{tell(run.trace)}\n"
            f"guarantee {guarantee} was broken: {text}\n"
            f"replay: raytx test {plan.target} {replay}")
    return stories
