"""What is wrong, since when, and what can be done: the first thing that somebody on call has to see."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator import advice
from orchestrator.console.link import Tie

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestrator.advice import Observed
    from orchestrator.console.link import Standing

_RANKS = {"bad": 0, "warn": 1, "info": 2}
_PAGES = {
    "unreachable": "/services", "refused": "/services", "recovering": "/services", "restarting": "/services",
    "breakers": "/services", "in_doubt": "/services", "full_disk": "/shards", "parked": "/parked",
    "overdue": "/transactions?state=preparing", "unfinished": "/transactions?state=open", "paused": "/acts"}
_WITHOUT_ACTORS = frozenset({"full_disk", "parked", "paused"})  # what is wrong all the same when nothing runs
_NUMBERS = re.compile(r"\d+")


class Need(NamedTuple):
    """One thing that needs somebody.

    Args:
        name: tells it from others, so that it keeps its beginning.
        severity: bad, warn or info.
        what: is wrong.
        remedy: what to do.
        link: where on these pages, or "".
        since_ms: Unix ms; 0 = not known.
        exact: whether it began then; else that is when this console first saw it.
    """

    name: str
    severity: str
    what: str
    remedy: str
    link: str = ""
    since_ms: int = 0
    exact: bool = True


class Memory:
    """Since when each need has been there, as far as this console has seen; thread-safe."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._lock = threading.Lock()

    def dated(self, needs: Iterable[Need], now_ms: int) -> list[Need]:
        """The needs with their beginnings, the worst first; those that are not among them are forgotten."""
        found = list(needs)
        with self._lock:
            self._first = {need.name: self._first.get(need.name, now_ms) for need in found}
            dated = [
                need if need.since_ms else need._replace(since_ms=self._first[need.name], exact=False) for need in found]
        return sorted(dated, key=lambda need: _RANKS[need.severity])


def needs_of(standing: Standing, observed: Observed, data: str) -> Iterator[Need]:
    """Everything that needs somebody now.

    Args:
        standing: how the console and the deployment stand.
        observed: what is known of the deployment; without actors where they cannot be asked.
        data: the data directory, as a command names it.
    """
    yield from _of_tie(standing, data)
    for rule in advice.RULES:
        name = rule.__name__
        if observed.actors or name in _WITHOUT_ACTORS:
            for one in rule(observed):
                yield Need(
                    f"{name} {_NUMBERS.sub('#', one.what)}", one.severity.value, one.what, one.do, _PAGES.get(name, ""),
                    _began_ms(name, one.what, observed))


def _of_tie(standing: Standing, data: str) -> Iterator[Need]:
    if standing.tie is Tie.DOWN:
        yield Need("down", "bad", "The deployment is down. These pages are read-only.",
                   f"start it: `raytx up --data {data}`", since_ms=standing.since_ms, exact=False)
    elif standing.tie is Tie.LOST:
        yield Need("lost", "bad", f"The deployment cannot be reached: {standing.why}",
                   f"look at it: `raytx status --data {data}`; the console tries again by itself", since_ms=standing.since_ms)
    elif standing.tie is Tie.STARTING:
        yield Need("starting", "info", f"Not attached yet: {standing.why}", "wait a few seconds", since_ms=standing.since_ms)


def _began_ms(rule: str, what: str, observed: Observed) -> int:
    """When it began, where that is stored; else 0."""
    if rule == "breakers":
        report = breakers_of(observed.actors).get(what.partition(" ")[0], {})
        return int(report.get("since_ms") or 0)
    if rule == "unfinished":
        return observed.now_ms - observed.backlog.oldest_unfinished_ms
    return 0


def breakers_of(statuses: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The worst breaker that any shard has for a service, by service; of those alike the one that is so for longest."""
    worst: dict[str, Mapping[str, Any]] = {}
    for status in statuses:
        for service, report in (status.get("breakers") or {}).items():
            worst[service] = max(worst.get(service, report), report, key=_badness)
    return worst


def _badness(report: Mapping[str, Any]) -> tuple[int, int]:
    return {"closed": 0, "half_open": 1, "open": 2}.get(report["state"], 0), -report["since_ms"]
