"""Sides of a comparison, run alternately, and the ratios of what they measured.

A machine's speed drifts, by a factor of two within an hour on a shared one. So A B A B, and the ratio of each round's
neighbours, whose median is told with its range: the drift divides out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.plan import Measured, Plan

Execute = Callable[[Plan], Measured]


class Ratio(NamedTuple):
    """One side's figure divided by another's, round by round."""

    median: float
    least: float
    most: float


Rounds = dict[str, list[Measured]]


def alternate(
    sides: Mapping[str, Plan], rounds: int, execute: Execute, progress: Callable[[str], None] = lambda _: None,
) -> Rounds:
    """Every side once in every round, the order of the sides turned round from one round to the next.

    Args:
        sides: plans by name.
        rounds: how often.
        execute: runs one plan.
        progress: told what ran and what came of it.
    """
    found: Rounds = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides)[::1 if number % 2 == 0 else -1]
        for name in names:
            measured = execute(sides[name])
            found[name].append(measured)
            progress(f"round {number + 1} of {rounds}: {name} {measured.orders_per_s:,.0f} orders/s"
                     f"{'' if measured.ok else ', NOT OK'}")
    return found


def middle(runs: Sequence[Measured], name: str) -> float | None:
    """The median of a figure over the runs; None where they did not measure it."""
    try:
        return median(run.value(name) for run in runs)
    except KeyError:
        return None


def ratio(rounds: Rounds, side: str, base: str, name: str) -> Ratio | None:
    """A figure of one side divided by the base's, from neighbouring runs.

    Args:
        rounds: what was measured.
        side: the numerator.
        base: the denominator.
        name: of the figure, see `Measured.value`.

    Returns:
        None where one of them did not measure it, or measured nothing.
    """
    try:
        pairs = [(a.value(name), b.value(name)) for a, b in zip(rounds[side], rounds[base], strict=True)]
    except KeyError:
        return None
    if not pairs or any(below == 0 for _, below in pairs):
        return None
    quotients = [above / below for above, below in pairs]
    return Ratio(median(quotients), min(quotients), max(quotients))


def all_ok(rounds: Rounds) -> bool:
    """Whether every run counts."""
    return all(run.ok for runs in rounds.values() for run in runs)
