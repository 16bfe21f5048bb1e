"""The checker of span trees sees every way in which one can be broken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration.span_tree import problems, spans_of, transactions_spans

STEPS = ["reserve", "charge"]


def span(name: str, one: str, above: str | None, *events: str, trace: str = "0xt", start: str = "2") -> dict[str, Any]:
    return {"name": name, "context": {"trace_id": trace, "span_id": f"0x{one}"}, "parent_id": above and f"0x{above}",
            "start_time": start, "attributes": {"raytx.transaction": "x"}, "events": [{"name": event} for event in events]}


def whole(**more: str) -> list[dict[str, Any]]:
    return [
        span("order", "r", None, "recovered", "decided", start=more.get("start", "1")), span("reserve", "a", "r"),
        span("charge", "b", "r"), span("prepare reserve", "a1", "a"), span("payment prepare", "b1", "b")]


def test_a_whole_tree_is_one() -> None:
    assert problems(whole(), steps=STEPS, recovered=True) == []
    assert problems([*whole(), whole()[1]], steps=STEPS, recovered=True) == []  # written again by a successor


@pytest.mark.parametrize(("broken", "told"), [
    ([], "not of one trace"),
    (whole()[1:], "0 roots"),
    ([*whole(), span("other", "z", None)], "2 roots"),
    (whole()[:2] + whole()[3:], "its parent b is not there"),
    ([*whole()[:4], span("payment prepare", "b1", "b", trace="0xu")], "not of one trace"),
    (whole()[:4], "step charge has no attempt"),
    ([whole()[0], whole()[1], whole()[3]], "step charge has no span"),
    ([*whole(), span("left", "c", "d"), span("right", "d", "c")], "left: does not hang under the root"),
    ([*whole(), span("stranger", "a", "b")], "two spans have the id a"),
    ([span("order", "r", None, "decided"), *whole()[1:]], "a recovery has happened"),
    ([span("order", "r", None, "recovered"), *whole()[1:]], "not tell of the decision"),
    (whole(start="3"), "begins after"),
])
def test_a_broken_tree_is_seen(broken: list[dict[str, Any]], told: str) -> None:
    assert any(told in problem for problem in problems(broken, steps=STEPS, recovered=True))


def test_a_recovery_that_was_none_is_seen() -> None:
    assert problems(whole(), steps=STEPS) == ["the root tells of ['recovered', 'decided']: a recovery has not happened"]


def test_the_callers_span_is_above_the_root() -> None:
    below = [{**whole()[0], "parent_id": "0xdriver"}, *whole()[1:]]
    assert problems(below, steps=STEPS, above="driver", recovered=True) == []
    assert problems(below, steps=STEPS, recovered=True) == ["0 roots"]


def test_files_are_read_up_to_a_line_that_was_cut(tmp_path) -> None:
    file = tmp_path / "shard.jsonl"
    file.write_text(json.dumps(span("a", "1", None)) + "\n" + '{"name": "cut')
    assert [one["name"] for one in transactions_spans(spans_of([file]), "x")] == ["a"]
    assert transactions_spans(spans_of([file]), "y") == []
