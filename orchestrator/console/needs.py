"""What is wrong, since when, and what can be done: the first thing that somebody on call has to see."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.console.link import Tie
from orchestrator.console.records import OLD_MS, PARKED_MAX
from orchestrator.logs import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestrator.console.link import Standing
    from orchestrator.console.records import LogFacts
    from orchestrator.console.trends import Sample
    from orchestrator.protocol.records import Pause


class Need(NamedTuple):
    """One thing that needs somebody.

    Args:
        name: tells it from others, so that it keeps its beginning.
        severity: bad, warn or info.
        what: is wrong.
        remedy: what to do.
        link: where on these pages, or "".
        since_ms: Unix ms; 0 = not known.
    """

    name: str
    severity: str
    what: str
    remedy: str
    link: str = ""
    since_ms: int = 0


class Memory:
    """Since when each need has been there, as far as this console has seen; thread-safe."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._lock = threading.Lock()

    def dated(self, needs: Iterable[Need], now_ms: int) -> list[Need]:
        """The needs with their beginnings, the worst first; those that are not among them are forgotten."""
        found = list(needs)
        with self._lock:
            self._first = {need.name: self._first.get(need.name) or need.since_ms or now_ms for need in found}
            dated = [need._replace(since_ms=need.since_ms or self._first[need.name]) for need in found]
        return sorted(dated, key=lambda need: _RANKS[need.severity])


_RANKS = {"bad": 0, "warn": 1, "info": 2}


def needs_of(
    standing: Standing, sample: Sample | None, facts: LogFacts, data: str, pauses: Sequence[Pause] = (),
) -> Iterator[Need]:
    """Everything that needs somebody now.

    Args:
        standing: how the console and the deployment stand.
        sample: the newest statuses; None where they cannot be had.
        facts: of the log.
        data: the data directory, as a command names it.
        pauses: what operators have paused.
    """
    yield from _of_tie(standing, data)
    for status in sample.statuses if sample else ():
        yield from _of_actor(status)
    if sample is not None:
        yield from _of_breakers(sample.statuses)
    yield from _of_log(facts)
    for pause in pauses:
        what = f"saga {pause.saga}" if pause.saga else f"service {pause.service}"
        yield Need(f"paused {what}", "warn", f"{what.capitalize()} is paused by {pause.who}: {redact(pause.reason)}.",
                   "New transactions that need it are refused until it is resumed.", "/acts", since_ms=pause.at_ms)


def _of_tie(standing: Standing, data: str) -> Iterator[Need]:
    if standing.tie is Tie.DOWN:
        yield Need("down", "bad", "The deployment is down. These pages are read-only.",
                   f"Start it: raytx up --data {data}", since_ms=standing.since_ms)
    elif standing.tie is Tie.LOST:
        yield Need("lost", "bad", f"The deployment cannot be reached: {standing.why}",
                   f"Look at it: raytx status --data {data}. The console tries again by itself.", since_ms=standing.since_ms)
    elif standing.tie is Tie.STARTING:
        yield Need("starting", "info", f"Not attached yet: {standing.why}.", "Wait a few seconds.",
                   since_ms=standing.since_ms)


def _of_actor(status: Mapping[str, Any]) -> Iterator[Need]:
    name, state = status["name"], status["state"]
    why = f": {status['detail']}" if isinstance(status.get("detail"), str) and status["detail"] else ""
    if state == "unreachable":
        yield Need(f"actor {name}", "bad", f"{name} does not answer{why}.",
                   "Ray starts it again by itself; if it stays so, look at its log file.", "/services")
    elif state in ("refused", "failed"):
        yield Need(f"actor {name}", "bad", f"{name} refuses its database{why}.",
                   "Restore the newest copy of the whole data directory, never a part of it.", "/services")
    elif state != "serving":
        yield Need(f"actor {name}", "warn", f"{name} is {state}{why}.", "It serves again when its recovery is done.",
                   "/services")
    elif why:
        yield Need(f"detail {name}", "warn", f"{name}{why}.", "See docs/operations.md.", "/services")


def _of_breakers(statuses: Sequence[Mapping[str, Any]]) -> Iterator[Need]:
    for service, breaker in breakers_of(statuses).items():
        if breaker.get("state", "closed") != "closed":
            said = f": {breaker['last_error']}" if breaker.get("last_error") else ""
            yield Need(
                f"breaker {service}", "bad", f"Calls to {service} are broken off ({breaker['state'].replace('_', ' ')}){said}.",
                "New transactions that need it are refused until a probe succeeds. Look at that service.", "/services",
                since_ms=int(breaker.get("since_ms") or 0))


def breakers_of(statuses: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The worst breaker that any shard has for a service, by service."""
    worst: dict[str, dict[str, Any]] = {}
    for status in statuses:
        for service, breaker in (status.get("breakers") or {}).items():
            told = dict(breaker) if isinstance(breaker, dict) else {"state": str(breaker)}
            if service not in worst or _BREAKER_RANKS.get(told.get("state", ""), 0) > _BREAKER_RANKS.get(
                    worst[service].get("state", ""), 0):
                worst[service] = told
    return worst


_BREAKER_RANKS = {"closed": 0, "half_open": 1, "open": 2}


def _of_log(facts: LogFacts) -> Iterator[Need]:
    if facts.parked:
        count = f"{facts.parked}{' or more' if facts.parked >= PARKED_MAX else ''}"
        noun = "transaction is" if facts.parked == 1 else "transactions are"
        yield Need("parked", "warn", f"{count} {noun} parked.",
                   "Mend what the code names, then retry them; or resolve a step with a reason.", "/parked")
    if facts.old is not None:
        yield Need("old", "warn", f"A transaction has been open for more than {OLD_MS // 1000} s.",
                   "Look at what it waits for.", f"/transactions/{facts.old.transaction}", since_ms=facts.old.began_ms)
