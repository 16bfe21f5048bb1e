"""`raytx doctor`: whether this machine and this installation can run a deployment, and what to do where not."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.checkup import Finding, Health, examine
from orchestrator.machine import Machine
from orchestrator.terminal.answer import EXIT_BAD, answer
from orchestrator.terminal.options import DATA_DEFAULT, Data, Json

_STYLES = {Health.OK: "green", Health.WARN: "yellow", Health.BAD: "bold red"}


def doctor(
    *,
    data: Data = DATA_DEFAULT,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Start a Ray head for a moment, too.")] = True,
    as_json: Json = False,
) -> None:
    """Check installation, disk, clock, limits, ports and Ray; exit 1 where something is bad. Nothing is changed.

    Example: raytx doctor --data orders --no-ray
    """
    findings = list(examine(Machine(data), with_ray=ray))
    bad = any(finding.health is Health.BAD for finding in findings)
    told: dict[str, Any] = {"ok": not bad, "checks": [finding._asdict() for finding in findings]}
    answer(told, findings_table(findings), as_json=as_json)
    raise typer.Exit(EXIT_BAD if bad else 0)


def findings_table(findings: list[Finding]) -> Table:
    """One line a check."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("check", "", "found", "what to do"):
        table.add_column(header, overflow="fold")
    for finding in findings:
        table.add_row(
            Text(finding.check), Text(finding.health, _STYLES[finding.health]), Text(finding.found), Text(finding.do))
    return table
