"""One transaction's spans, as OpenTelemetry's SDK writes them in JSON: do they form one tree, and is everything in it?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Span = Mapping[str, Any]


def spans_of(files: Iterable[Path]) -> list[Span]:
    """All spans of files with a JSON object per line; a last line that a kill cut short is left out."""
    found = []
    for file in files:
        *whole, _cut = file.read_text().split("\n")
        found += [json.loads(line) for line in whole]
    return found


def transactions_spans(spans: Iterable[Span], transaction: str) -> list[Span]:
    """Those that say they are of the transaction."""
    return [span for span in spans if span["attributes"].get("raytx.transaction") == transaction]


def identity(span: Span) -> str:
    return str(span["context"]["span_id"]).removeprefix("0x")


def parent(span: Span) -> str:
    return str(span["parent_id"] or "").removeprefix("0x")


def problems(
    spans: Sequence[Span], *, steps: Iterable[str], above: str = "", recovered: bool = False,
) -> list[str]:
    """What is wrong with one transaction's tree; empty if nothing is.

    Args:
        spans: of the transaction, and of whoever is above it.
        steps: that must be there, each with an attempt of the shard's or of its service's.
        above: id of the caller's span that the transaction's hangs under; "" = the transaction's is the root.
        recovered: whether a shard died in between, so that the root must tell of it.
    """
    by_id, found = _distinct(spans)
    if len({span["context"]["trace_id"] for span in by_id.values()}) != 1:
        found.append("the spans are not of one trace")
    roots = [span for span in by_id.values() if parent(span) == above]
    if len(roots) != 1:
        return [*found, f"{len(roots)} roots"]
    found += [f"{span['name']}: its parent {parent(span)} is not there" for span in by_id.values()
              if parent(span) != above and parent(span) not in by_id]
    (root,) = roots
    found += [f"{span['name']}: does not hang under the root" for one, span in by_id.items()
              if not _is_below(one, identity(root), by_id)]
    found += _steps_missing(root, list(by_id.values()), steps)
    told = [event["name"] for event in root["events"]]
    if "decided" not in told:
        found.append("the root does not tell of the decision")
    if recovered is not ("recovered" in told):
        found.append(f"the root tells of {told}: a recovery has {'' if recovered else 'not '}happened")
    return found


def _distinct(spans: Sequence[Span]) -> tuple[dict[str, Span], list[str]]:
    """By id; what a successor has written again must say the same of where it belongs."""
    by_id: dict[str, Span] = {}
    found = []
    for span in spans:
        first = by_id.setdefault(identity(span), span)
        if (first["name"], first["parent_id"], first["context"]["trace_id"]) != (
                span["name"], span["parent_id"], span["context"]["trace_id"]):
            found.append(f"two spans have the id {identity(span)}")
    return by_id, found


def _is_below(one: str, root: str, by_id: Mapping[str, Span]) -> bool:
    seen: set[str] = set()
    while one in by_id and one not in seen:
        if one == root:
            return True
        seen.add(one)
        one = parent(by_id[one])
    return False


def _steps_missing(root: Span, spans: Sequence[Span], steps: Iterable[str]) -> list[str]:
    children = {span["name"]: identity(span) for span in spans if parent(span) == identity(root)}
    found = []
    for step in steps:
        if step not in children:
            found.append(f"step {step} has no span below the root")
        elif not any(parent(span) == children[step] for span in spans):
            found.append(f"step {step} has no attempt")
    begun = min(span["start_time"] for span in spans)
    return [*found, *(["the root begins after something in it"] if root["start_time"] > begun else [])]
