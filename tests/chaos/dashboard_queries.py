"""Has a real Prometheus answer every query of the dashboard and of the alert rules from what a deployment really told.

    python tests/chaos/dashboard_queries.py SNAPSHOT SNAPSHOT... [--prometheus DIR]

A snapshot is the output of `raytx metrics --prometheus`; take several, some seconds apart, while something runs. They are
written into a database of Prometheus with the times at which the files were written. `promtool` and `prometheus` (package
`prometheus`) are looked for in PATH, or in DIR. It fails where a rule or a query is refused, and where a query has no answer
although the newest snapshot has all that it selects.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.terminal.metrics import ALERTS, GRAFANA, shipped

START_S_MAX = 120.0
RATE_INTERVAL = "10m"
SELECTOR = re.compile(r"\bray_raytx_\w+(?:\{[^}]*\})?")
BAD = ("REFUSED", "NO ANSWER")


class Answer(NamedTuple):
    """What became of one query."""

    title: str
    expression: str
    values: int  # series with a number
    error: str = ""
    told: bool = True  # whether the newest snapshot has all that the expression selects

    @property
    def verdict(self) -> str:
        """What an operator reads."""
        if self.error:
            return f"REFUSED: {self.error}"
        if self.values:
            return f"{self.values} series"
        return "NO ANSWER" if self.told else "nothing told"


def open_metrics(snapshots: Iterable[tuple[str, float]]) -> str:
    """Snapshots (text, Unix time in s) as one OpenMetrics file, whose samples of a series stand together in time."""
    samples: dict[str, list[str]] = {}
    for text, at_s in sorted(snapshots, key=lambda snapshot: snapshot[1]):
        for line in text.splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                samples.setdefault(series, []).append(f"{series} {value} {at_s:.3f}")
    return "".join(f"{line}\n" for _, lines in sorted(samples.items()) for line in lines) + "# EOF\n"


def queries() -> Iterator[tuple[str, str]]:
    """Title and expression of every query of the dashboard."""
    for panel in json.loads(shipped(GRAFANA))["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", RATE_INTERVAL)


def ask(base: str, title: str, expression: str, at_s: float) -> Answer:
    """Have Prometheus answer one query."""
    parameters = urllib.parse.urlencode({"query": expression, "time": f"{at_s:.3f}"})
    try:
        with urllib.request.urlopen(f"{base}/api/v1/query?{parameters}", timeout=START_S_MAX) as response:
            found: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        return Answer(title, expression, 0, json.load(error).get("error", str(error)))
    values = sum(not math.isnan(float(one["value"][1])) for one in found["data"]["result"])
    selected = [] if values or SELECTOR.fullmatch(expression) else SELECTOR.findall(expression)
    return Answer(title, expression, values, told=all(ask(base, "", selector, at_s).values for selector in selected))


@contextlib.contextmanager
def served(snapshots: list[Path], prometheus: str) -> Iterator[str]:
    """A Prometheus of our own that has the snapshots; gives its address."""
    with tempfile.TemporaryDirectory(prefix="raytx-queries-") as scratch:
        told, rules, configuration = (Path(scratch) / name for name in ("told.txt", "rules.yaml", "prometheus.yaml"))
        told.write_text(open_metrics((path.read_text(), path.stat().st_mtime) for path in snapshots))
        rules.write_text(shipped(ALERTS))
        configuration.write_text("global: {scrape_interval: 1h}\n")
        subprocess.run([f"{prometheus}promtool", "check", "rules", str(rules)], check=True)
        subprocess.run([f"{prometheus}promtool", "tsdb", "create-blocks-from", "openmetrics", str(told), scratch], check=True)
        port = _free_port()
        server = subprocess.Popen(
            [f"{prometheus}prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={scratch}",
             f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
        try:
            _await(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def _await(base: str) -> None:
    end_s = time.monotonic() + START_S_MAX
    while True:
        try:
            urllib.request.urlopen(f"{base}/-/ready", timeout=START_S_MAX).close()
        except OSError:
            if time.monotonic() > end_s:
                raise
        else:
            return
        time.sleep(0.2)  # another program's start: there is no event to wait for


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Ask, tell, and exit 1 where a query was refused or had no answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshots", nargs="+", type=Path)
    parser.add_argument("--prometheus", default="", help="directory of promtool and prometheus")
    options = parser.parse_args()
    newest_s = max(path.stat().st_mtime for path in options.snapshots)
    with served(options.snapshots, f"{options.prometheus}/" if options.prometheus else "") as base:
        answers = [ask(base, title, expression, newest_s) for title, expression in queries()]
    for answer in answers:
        sys.stdout.write(f"{answer.verdict:<12}  {answer.title}: {answer.expression}\n")
    bad = sum(answer.verdict.startswith(BAD) for answer in answers)
    sys.stdout.write(f"{sum(bool(answer.values) for answer in answers)} of {len(answers)} queries answered, {bad} bad\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
