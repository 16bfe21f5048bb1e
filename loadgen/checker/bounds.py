"""B: gauges within their caps; N: a run in which nothing happened proves nothing."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from loadgen.checker.limits import Limits
from loadgen.checker.report import CheckReport, Invariant
from loadgen.history import Note

MEASURED = "measured"
RECOVERED = "recovered"


def gauges(notes: Iterable[Note], data_dir: Path | None) -> dict[str, int]:
    """The highest value of every gauge that was measured, with the files as they are now.

    Args:
        notes: of a history; those that measured have values by gauge.
        data_dir: its files count as `file:PATH`, all together as `files`; None: none do.
    """
    highest: dict[str, int] = {}
    for note in notes:
        for name, value in note.values.items() if note.what == MEASURED else ():
            highest[name] = max(value, highest.get(name, value))
    if data_dir is not None:
        files = {f"file:{path.relative_to(data_dir)}": path.stat().st_size for path in data_dir.rglob("*") if path.is_file()}
        highest |= files
        highest["files"] = sum(files.values())
    return highest


def check_caps(limits: Limits, measured: dict[str, int], report: CheckReport) -> None:
    """B: every gauge within every cap that names it; a cap that names nothing was not checked, so it is broken."""
    for pattern, most in limits.caps.items():
        named = {name: value for name, value in measured.items() if fnmatchcase(name, pattern)}
        if not named:
            report.add(Invariant.BOUNDED, pattern, "nothing of that name was measured")
        for name, value in named.items():
            if value > most:
                report.add(Invariant.BOUNDED, name, f"it reached {value:,}, the cap is {most:,}", weight=value - most)


def check_enough(limits: Limits, report: CheckReport) -> None:
    """N: what was examined, by the report's counts, is as much as was asked for."""
    wanted = {
        "told_committed": limits.commits_min, "told_aborted": limits.aborts_min, "recoveries": limits.recoveries_min,
        "duplicates": limits.duplicates_min, "reads": limits.reads_min}
    for name, least in wanted.items():
        if report.counts[name] < least:
            report.add(
                Invariant.ENOUGH, name, f"{report.counts[name]:,}, at least {least:,} were asked for",
                weight=least - report.counts[name])
