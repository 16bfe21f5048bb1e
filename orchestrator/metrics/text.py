"""Figures in Prometheus' text format, under the names that Ray exports them by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.metrics.export import samples
from orchestrator.metrics.registry import ACTOR, PREFIX, RAY_PREFIX, described

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def to_text(statuses: Iterable[Mapping[str, Any]]) -> str:
    """What a scrape of all these actors would give; those that did not answer are left out.

    Args:
        statuses: of actors, with their figures.
    """
    families: dict[str, list[str]] = {}
    for status in statuses:
        metrics = (status.get("figures") or {}).get("metrics", {})
        for name, labels, value, rises in samples(metrics):
            exported = f"{RAY_PREFIX}{name}_total" if rises else RAY_PREFIX + name
            if exported not in families:
                about, kind = described(name.removeprefix(PREFIX))[0], "counter" if rises else "gauge"
                families[exported] = [f"# HELP {exported} {about}", f"# TYPE {exported} {kind}"]
            families[exported].append(f"{exported}{_labels({**labels, ACTOR: status['name']})} {value:.10g}")
    return "\n".join(line for lines in families.values() for line in lines) + "\n" if families else ""


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{text.translate(_ESCAPES)}"' for name, text in labels.items()) + "}"
