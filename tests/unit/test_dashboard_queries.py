"""What the command that asks a real Prometheus makes of snapshots and answers."""

from __future__ import annotations

import pytest

from chaos.dashboard_queries import BAD, Answer, open_metrics, queries


def test_samples_of_a_series_stand_together_in_time() -> None:
    late, early = ('# TYPE a gauge\na 2\nb{c="d e"} 5\n', 20.0), ("a 1\n", 10.0)
    assert open_metrics([late, early]) == 'a 1 10.000\na 2 20.000\nb{c="d e"} 5 20.000\n# EOF\n'


@pytest.mark.parametrize(("answer", "bad"), [
    (Answer("", "rate(ray_raytx_open[1m])", 2), False),
    (Answer("", "rate(ray_raytx_open[1m])", 0), True),
    (Answer("", "rate(ray_raytx_retries_total[1m])", 0, told=False), False),  # nothing was retried
    (Answer("", "rate(ray_raytx_open)", 0, "expected type range vector"), True)])
def test_no_answer_is_bad_where_there_was_something_to_tell(answer: Answer, bad: bool) -> None:
    assert answer.verdict.startswith(BAD) is bad


def test_every_query_has_a_range() -> None:
    found = list(queries())
    assert len(found) > 30
    assert not [expression for _, expression in found if "$" in expression]
