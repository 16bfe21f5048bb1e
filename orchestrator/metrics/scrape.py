"""One scrape of what Ray's metrics agents offer to Prometheus, as far as it is raytx's own."""

from __future__ import annotations

import re
import urllib.request
from typing import TYPE_CHECKING

from orchestrator.metrics.registry import PREFIX, RAY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SCRAPE_S_MAX = 5.0
OWN = RAY_PREFIX + PREFIX
_COMMENT = re.compile(r"^# (HELP|TYPE) ")


def urls_of_head(temp_dir: Path) -> list[str]:
    """Where the agent of a head of raytx answers, from its directory; none where it has not started."""
    return [f"http://127.0.0.1:{path.read_text().strip()}/metrics"
            for path in temp_dir.glob("session_latest/metrics_export_port_*")]


def urls_of_cluster() -> list[str]:
    """Where the agent of every node of the cluster that this process is connected to answers."""
    import ray  # noqa: PLC0415 - it takes a second to import; a head of raytx is asked without

    return [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            for node in ray.nodes() if node["Alive"] and node.get("MetricsExportPort")]


def scrape(urls: Iterable[str]) -> str:
    """The lines of raytx's metrics from all of these; those that do not answer are left out."""
    return "".join(own_lines(_get(url)) for url in urls)


def own_lines(text: str) -> str:
    """The lines about metrics of raytx, comments about them included."""
    return "".join(f"{line}\n" for line in text.splitlines() if _COMMENT.sub("", line).startswith(OWN))


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=SCRAPE_S_MAX) as response:  # noqa: S310 - http, from Ray itself
            text: str = response.read().decode()
            return text
    except OSError:
        return ""
