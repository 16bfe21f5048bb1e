"""Contract reports for a person: a table of what was tried, then each finding."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.testing.contract_report import ContractReport, Rule


def contract_table(reports: Sequence[ContractReport]) -> Table:
    """How often each rule was put to the test, by service; `broken` where it does not hold, `-` where nothing tried it."""
    table = Table("rule", *(report.service for report in reports), box=None, pad_edge=False, header_style="bold")
    for rule in Rule:
        table.add_row(rule.value, *(_cell(report, rule) for report in reports))
    table.add_row("sample requests: yes, no, not yet, error", *(_answers(report) for report in reports))
    return table


def contract_text(reports: Sequence[ContractReport]) -> Group:
    """The table, the findings, and a line that says how the run went."""
    findings = [Text(f"\n{report.service} {finding}") for report in reports for finding in report.findings]
    checks = sum(sum(report.checks.values()) for report in reports)
    broken = f"{len(findings)} rules broken" if findings else "no finding"
    seeds = ", ".join(sorted({str(report.seed) for report in reports}))
    last = Text(f"\ncontract: {len(reports)} services, {checks} checks, seed {seeds}: {broken}", "red" if findings else "green")
    return Group(contract_table(reports), *findings, last)


def _cell(report: ContractReport, rule: Rule) -> Text:
    times = sum(finding.times for finding in report.findings if finding.rule is rule)
    tried = report.checks.get(rule, 0)
    return Text(f"broken {times} of {tried}", "bold red") if times else Text(str(tried or "-"))


def _answers(report: ContractReport) -> str:
    return ", ".join(
        str(sum(counts.get(word, 0) for counts in report.answers.values())) for word in ("yes", "no", "not_yet", "error"))
