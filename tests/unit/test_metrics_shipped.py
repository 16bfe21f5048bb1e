"""The dashboard and the alert rules that ship with raytx name metrics and labels that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from actors import meter
from orchestrator.metrics import figures, log_meter, shard_meter
from orchestrator.metrics.registry import ACTOR, METRICS, PREFIX, RAY_PREFIX, Type, described
from orchestrator.terminal.metrics import ALERTS, GRAFANA, shipped

OWN = RAY_PREFIX + PREFIX
NAMED = re.compile(rf"\b{OWN}(\w+)\b(?:\{{([^}}]*)\}})?")
GROUPED = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)\s*\(")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")
Query = tuple[str, str]  # an expression, and the text that is shown with it


def problems(query: Query) -> list[str]:
    """What in a query is not in the registry."""
    expression, text = query
    found = [told for name, selector in NAMED.findall(expression) for told in _unknown(name, LABEL.findall(selector))]
    if not NAMED.search(expression):
        found.append(f"no metric of raytx in {expression!r}")
    grouped: set[str] = set()
    for group in GROUPED.finditer(expression):
        labels = re.findall(r"\w+", group[1])
        grouped.update(labels)
        inner = NAMED.search(expression, group.end())
        found += _unknown(inner[1], labels) if inner else [f"nothing is grouped by {labels}"]
    found += [f"label {label!r} is shown, but not grouped by" for label in SHOWN.findall(text) if label not in grouped]
    return found


def _unknown(name: str, labels: list[str]) -> list[str]:
    total = name.endswith("_total")
    try:
        _, known = described(name.removesuffix("_total"))
    except KeyError:
        return [f"there is no metric {name!r}"]
    found = [f"{name} has no label {label!r}" for label in labels if label not in (*known, ACTOR)]
    return found if total is rises(name) else [*found, f"{name!r} is exported {'without' if total else 'with'} _total"]


def rises(name: str) -> bool:
    metric = METRICS.get(name.removesuffix("_total"))
    return metric is None or metric.type is not Type.GAUGE  # a part of a histogram rises


def dashboard_queries(text: str) -> Iterator[Query]:
    for panel in json.loads(text)["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"].replace("$__rate_interval", "5m"), target["legendFormat"]


def alert_queries(text: str) -> Iterator[Query]:
    for group in yaml.safe_load(text)["groups"]:
        for rule in group["rules"]:
            told = "".join(rule["annotations"].values())
            yield rule["expr"], "".join(found for found in re.findall(r"\{\{[^}]*\}\}", told) if "$value" not in found)


def test_the_dashboard_asks_for_what_there_is() -> None:
    queries = list(dashboard_queries(shipped(GRAFANA)))
    assert len(queries) > 30
    assert [told for query in queries for told in problems(query)] == []


def test_the_alerts_ask_for_what_there_is() -> None:
    queries = list(alert_queries(shipped(ALERTS)))
    assert len(queries) > 10
    assert [told for query in queries for told in problems(query)] == []


def test_every_metric_is_told_by_somebody() -> None:
    meters = "".join(Path(module.__file__).read_text() for module in (shard_meter, log_meter, meter, figures))
    assert [name for name in METRICS if f'"{name}"' not in meters] == []


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(shipped(GRAFANA))["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("query", [
    ("sum(rate(ray_raytx_transaction_total[5m]))", ""),
    ("sum(rate(ray_raytx_transactions[5m]))", ""),
    ("max(ray_raytx_open_total)", ""),
    ("max(ray_raytx_open_bucket_total)", ""),
    ('max(ray_raytx_open{transaction="1"})', ""),
    ("sum by (transaction) (rate(ray_raytx_transactions_total[5m]))", ""),
    ("sum by (le) (rate(ray_raytx_decide_ms_count_total[5m]))", ""),
    ("sum by (code) (rate(ray_raytx_transactions_total[5m]))", "{{saga}}"),
    ("sum(rate(raytx_transactions_total[5m]))", ""),
    ("1", ""),
])
def test_a_wrong_name_or_label_is_caught(query: Query) -> None:
    assert problems(query)


@pytest.mark.parametrize("query", [
    ("histogram_quantile(0.9, sum by (le, saga) (rate(ray_raytx_decide_ms_bucket_total[5m])))", "{{saga}}"),
    ('max by (actor) (ray_raytx_epoch{actor=~"shard-.*"})', "{{actor}}")])
def test_a_right_one_is_not(query: Query) -> None:
    assert problems(query) == []
