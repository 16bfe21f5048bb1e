"""Draws panels of the dashboard as a picture, from what a real Prometheus answers to their queries.

    python tests/chaos/dashboard_plots.py PICTURE SNAPSHOT... [--prometheus DIR] [--panel TITLE]...

Snapshots are those of `tests/chaos/dashboard_queries.py`. It is for looking at a run where no Grafana is at hand.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from dashboard_queries import START_S_MAX, served
from matplotlib.figure import Figure

from orchestrator.terminal.metrics import GRAFANA, shipped

PANELS = ("Outcomes", "Refused", "Step p99", "Retries and timeouts", "Circuit breakers", "Open, parked, in doubt")
COLUMNS = 2
STEPS = 120


class Panel(NamedTuple):
    """One panel: its unit, and expressions with their legends."""

    title: str
    unit: str
    targets: list[tuple[str, str]]


def panels(titles: list[str], rate_interval: str) -> list[Panel]:
    """Those panels of the dashboard.

    Raises:
        KeyError: there is none of a title.
    """
    found = {panel["title"]: panel for panel in json.loads(shipped(GRAFANA))["panels"] if panel["type"] == "timeseries"}
    return [
        Panel(title, found[title]["fieldConfig"]["defaults"]["unit"],
              [(target["expr"].replace("$__rate_interval", rate_interval), target["legendFormat"])
               for target in found[title]["targets"]])
        for title in titles]


def legend(text: str, labels: dict[str, str]) -> str:
    """A legend with the labels of one series put in."""
    for name, value in labels.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def series(base: str, expression: str, times: tuple[float, float]) -> list[dict[str, Any]]:
    """What Prometheus answers over a time."""
    first_s, last_s = times
    parameters = urllib.parse.urlencode({
        "query": expression, "start": first_s, "end": last_s, "step": max((last_s - first_s) / STEPS, 1)})
    with urllib.request.urlopen(f"{base}/api/v1/query_range?{parameters}", timeout=START_S_MAX) as response:
        found: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return found


def draw(base: str, chosen: list[Panel], times: tuple[float, float]) -> Figure:
    """All panels, two in a row."""
    rows = -(-len(chosen) // COLUMNS)
    figure = Figure(figsize=(12, 2.9 * rows), layout="constrained")
    for number, panel in enumerate(chosen):
        axes = figure.add_subplot(rows, COLUMNS, number + 1, title=panel.title, ylabel=panel.unit)
        for expression, text in panel.targets:
            for one in series(base, expression, times):
                points = [(datetime.fromtimestamp(at_s, UTC), float(value)) for at_s, value in one["values"]]
                shown = [(at, value) for at, value in points if not math.isnan(value)]
                axes.plot([at for at, _ in shown], [value for _, value in shown], label=legend(text, one["metric"]))
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", labelrotation=20, labelsize=7)
        if axes.lines:
            axes.legend(fontsize=7)
    return figure


def main() -> int:
    """Ask and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("snapshots", nargs="+", type=Path)
    parser.add_argument("--prometheus", default="", help="directory of promtool and prometheus")
    parser.add_argument("--panel", action="append", help="titles; those of transactions and services by default")
    parser.add_argument("--rate-interval", default="1m", help="at least four times the pause between snapshots")
    options = parser.parse_args()
    times = [path.stat().st_mtime for path in options.snapshots]
    with served(options.snapshots, f"{options.prometheus}/" if options.prometheus else "") as base:
        chosen = panels(options.panel or list(PANELS), options.rate_interval)
        draw(base, chosen, (min(times), max(times))).savefig(options.picture, dpi=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
