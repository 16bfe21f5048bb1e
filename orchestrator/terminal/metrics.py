"""`raytx metrics`: what a deployment measures of itself, once; and the files that show and watch it elsewhere."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.deployment import DataDirectory
from orchestrator.metrics.registry import METRICS
from orchestrator.metrics.scrape import scrape, urls_of_cluster, urls_of_head
from orchestrator.metrics.text import to_text
from orchestrator.terminal.answer import answer, report_errors
from orchestrator.terminal.options import DATA_DEFAULT, Data, Json

FALLBACK = "# from the actors themselves: Ray's metrics agent has nothing of them"
EXACT_BELOW = 100
GRAFANA, ALERTS = "grafana.json", "alerts.yaml"


def metrics(
    *,
    data: Data = DATA_DEFAULT,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="What Prometheus would scrape, in its text format.")] = False,
    grafana: Annotated[bool, typer.Option("--grafana", help="Print the Grafana dashboard (JSON), and nothing else.")] = False,
    alerts: Annotated[bool, typer.Option("--alerts", help="Print the alert rules for Prometheus (YAML).")] = False,
    as_json: Json = False,
) -> None:
    """Every actor's counters, gauges and histograms since its start; exit 3 where nothing runs.

    Example: raytx metrics --grafana > raytx-grafana.json
    """
    if grafana or alerts:
        typer.echo(shipped(GRAFANA if grafana else ALERTS), nl=False)
        return
    with report_errors(as_json=as_json):
        if prometheus:
            typer.echo(_scraped_from_head(data) or _scraped_from_cluster(data), nl=False)
            return
        statuses = _statuses(data)
        figures = {status["name"]: status.get("figures") for status in statuses}
        answer({"actors": figures}, tables(figures), as_json=as_json)


def _scraped_from_head(data: Path) -> str:
    record = DataDirectory(data).running()
    return scrape(urls_of_head(Path(record.temp_dir))) if record is not None and record.own_head else ""


def _scraped_from_cluster(data: Path) -> str:
    from orchestrator.cluster import attach  # noqa: PLC0415 - Ray takes a second to import

    deployment = attach(data)
    try:
        return scrape(urls_of_cluster()) or f"{FALLBACK}\n{to_text(deployment.statuses())}"
    finally:
        deployment.stop()


def _statuses(data: Path) -> list[dict[str, Any]]:
    from orchestrator.cluster import attach  # noqa: PLC0415 - as above

    deployment = attach(data)
    try:
        return deployment.statuses()
    finally:
        deployment.stop()


def shipped(name: str) -> str:
    """The text of a file that comes with raytx."""
    return files("orchestrator.metrics").joinpath(name).read_text(encoding="utf-8")


def tables(figures: dict[str, Any]) -> RenderableType:
    """Every metric's series of all actors, those with a value first, then the histograms."""
    plain, timed = Table(box=None, pad_edge=False), Table(box=None, pad_edge=False)
    for header in ("metric", "actor", "labels", "value"):
        plain.add_column(header, justify="right" if header == "value" else "left")
    for header in ("metric", "actor", "labels", "count", "p50", "p90", "p99", "max"):
        timed.add_column(header, justify="left" if header in ("metric", "actor", "labels") else "right")
    for name, metric in METRICS.items():
        for actor, found in figures.items():
            for series in ((found or {}).get("metrics") or {}).get(name, []):
                labels = " ".join(series[label] for label in metric.labels if series[label])
                if "value" in series:
                    plain.add_row(name, actor, labels, f"{series['value']:,.0f}")
                elif series["count"]:
                    quantiles = (_short(series[share]) for share in ("p50", "p90", "p99", "max"))
                    timed.add_row(name, actor, labels, f"{series['count']:,}", *quantiles)
    silent = [actor for actor, found in figures.items() if not found]
    lines = [Text(f"no answer: {', '.join(silent)}")] if silent else []
    return Group(plain, "", timed, *lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= EXACT_BELOW else f"{value:.3g}"
