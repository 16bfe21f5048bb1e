"""What is wrong with a deployment, and what to do about it: a pure function of what was observed of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from orchestrator.errors import ErrorCode
from orchestrator.log.backlog import NO_BACKLOG, OVERDUE_MS, Backlog
from orchestrator.metrics.reading import total

FREE_BYTES_MIN = 1 << 30
RESTARTS_MAX = 5
HOST_OF_ACTOR = "service-"


class Severity(StrEnum):
    """How grave it is."""

    BAD = "bad"  # something is refused, or does not get on
    WARN = "warn"  # somebody should look


class Advice(NamedTuple):
    """One thing that is wrong."""

    severity: Severity
    what: str
    do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What `advise` judges.

    Attributes:
        actors: as `Deployment.statuses` returns them.
        backlog: of the transaction log.
        now_ms: Unix time.
        without_ballast: databases beside which there is no ballast: their disk is full, or was a moment ago.
        free_bytes: on the disk of the data directory; None: not known.
        open_to: the address of a Ray cluster that others can reach and that asks nobody for a token; empty: none.
        paused: what an operator has paused, in words.
    """

    actors: Sequence[Mapping[str, Any]]
    backlog: Backlog = NO_BACKLOG
    now_ms: int = 0
    without_ballast: Sequence[str] = ()
    free_bytes: int | None = None
    open_to: str = ""
    paused: Sequence[str] = field(default=())


def advise(observed: Observed) -> list[Advice]:
    """What is wrong, the gravest first; empty if nothing is."""
    found = [advice for rule in RULES for advice in rule(observed)]
    return sorted(found, key=lambda advice: list(Severity).index(advice.severity))  # stable


def is_healthy(observed: Observed, advice: Sequence[Advice]) -> bool:
    """Whether every actor serves and nothing is bad."""
    return all(actor["state"] == "serving" for actor in observed.actors) and not any(
        one.severity is Severity.BAD for one in advice)


def unreachable(observed: Observed) -> Iterator[Advice]:
    """An actor does not answer."""
    for actor in _in_state(observed, "unreachable"):
        yield Advice(
            Severity.BAD, f"{actor['name']} does not answer",
            f"if it was killed, it is back within seconds; if this stays, read logs/{_role(actor)}-*.jsonl, "
            "then `raytx down` and `raytx up`")


def refused(observed: Observed) -> Iterator[Advice]:
    """A database was refused."""
    for actor in _in_state(observed, "refused"):
        yield Advice(
            Severity.BAD, f"{actor['name']} does not serve: {actor.get('detail') or 'refused'}",
            "restore the newest copy of the whole data directory, never a part of it, and `raytx up` again")


def recovering(observed: Observed) -> Iterator[Advice]:
    """An actor is not ready yet."""
    for actor in _in_state(observed, "recovering"):
        said = actor.get("detail")
        yield Advice(
            Severity.WARN, f"{actor['name']} is recovering{f': {said}' if isinstance(said, str) and said else ''}",
            f"wait; if this stays, read logs/{_role(actor)}-*.jsonl")


def restarting(observed: Observed) -> Iterator[Advice]:
    """An actor dies again and again."""
    for actor in observed.actors:
        if (actor.get("restarts") or 0) >= RESTARTS_MAX:
            yield Advice(
                Severity.WARN, f"{actor['name']} was started anew {actor['restarts']} times",
                f"read why in logs/{_role(actor)}-*.jsonl (events stuck, crashed, fatal) and in Ray's logs")


def full_disk(observed: Observed) -> Iterator[Advice]:
    """There is no room, or soon there will be none."""
    for name in observed.without_ballast:
        yield Advice(
            Severity.BAD, f"the disk of {name} is full: what is new is refused ({ErrorCode.DISK_FULL})",
            "make room; what has begun ends on the space set aside, new transactions are admitted again by themselves")
    if not observed.without_ballast and observed.free_bytes is not None and observed.free_bytes < FREE_BYTES_MIN:
        yield Advice(
            Severity.WARN, f"{observed.free_bytes >> 20} MiB are left on the disk of the data directory",
            "make room, or lower retention_ms")


def breakers(observed: Observed) -> Iterator[Advice]:
    """A service is taken for down."""
    shards: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for actor in observed.actors:
        for service, report in (actor.get("breakers") or {}).items():
            if report["state"] != "closed":
                shards[service].append(report)
    for service, reports in sorted(shards.items()):
        since_s = max((observed.now_ms - min(report["since_ms"] for report in reports)) // 1_000, 0)
        yield Advice(
            Severity.BAD,
            f"{service} is down for {since_s} s ({reports[0]['last_error']}): what needs it gets {ErrorCode.UNAVAILABLE}",
            f"read logs/{service}-*.jsonl and mend it; its circuit breaker closes by itself, and what is open goes on")


def parked(observed: Observed) -> Iterator[Advice]:
    """Decided transactions cannot be finished."""
    least = "at least " if observed.backlog.parked_more else ""
    for (service, code), count in sorted(observed.backlog.parked.items()):
        where = f" at {service}" if service else ""
        yield Advice(
            Severity.WARN, f"{least}{count} parked{where}: {code or 'no code'}", f"`raytx list --parked`; {_of_code(code)}")


def overdue(observed: Observed) -> Iterator[Advice]:
    """Transactions are not decided although their time is over."""
    count = observed.backlog.overdue
    if count:
        yield Advice(
            Severity.BAD, f"{count} undecided more than {OVERDUE_MS // 1_000} s after their deadline",
            "a shard or the log does not get on: see above, then logs/shard-*.jsonl and logs/log-*.jsonl")


def unfinished(observed: Observed) -> Iterator[Advice]:
    """Decided transactions wait, and what services prepared for them is held."""
    count = observed.backlog.unfinished
    if count:
        yield Advice(
            Severity.WARN,
            f"{count} decided and not finished, the oldest since {observed.backlog.oldest_unfinished_ms // 1_000} s: "
            "services hold what they have prepared",
            "`raytx list --state open`, and `raytx show ID` says which service has not acknowledged")


def in_doubt(observed: Observed) -> Iterator[Advice]:
    """A service has prepared something, and has heard nothing of it for long."""
    for actor in observed.actors:
        count = int(total(actor.get("figures"), "in_doubt"))
        if count:
            yield Advice(
                Severity.WARN, f"{count} prepared at {_role(actor)} and not heard of for longer than in_doubt_after_ms",
                "it asks by itself and is told; if this stays, a shard does not get on: logs/shard-*.jsonl")


def unlocked(observed: Observed) -> Iterator[Advice]:
    """Anybody who reaches the cluster may run code on it."""
    if observed.open_to:
        yield Advice(
            Severity.WARN, f"Ray at {observed.open_to} asks nobody for a token, and is not on the loopback interface",
            "start the cluster with RAY_AUTH_MODE=token, or keep others from its ports: whoever reaches them can run any code")


def paused(observed: Observed) -> Iterator[Advice]:
    """An operator has stopped something."""
    for what in observed.paused:
        yield Advice(Severity.WARN, f"paused: {what}", "`raytx resume` when what it was paused for is done")


RULES = (
    unreachable, refused, full_disk, breakers, overdue, recovering, parked, in_doubt, unfinished, restarting, paused, unlocked)

_REMEDIES: dict[str, str] = {
    ErrorCode.SERVICE_UNAVAILABLE: "mend the service; it is tried again by itself",
    ErrorCode.SERVICE_ERROR: "its code raises: read its log for the traceback and mend it; it is tried again by itself",
    ErrorCode.BUILDER_FAILED: "mend the saga's request builder and deploy it",
    ErrorCode.UNKNOWN_SAGA: "deploy an app that has this version of the saga",
    ErrorCode.QUARANTINED: "its shard died over it again and again: read the shard's log before anything else",
    ErrorCode.SUSPECT: "it is being tried alone; wait",
    ErrorCode.VIOLATION: "log and ledger contradict each other: stop, `raytx audit`, find out which store was tampered with",
}


def _of_code(code: str) -> str:
    return _REMEDIES.get(code, "mend what the service complains of; the next attempt succeeds")


def _in_state(observed: Observed, state: str) -> list[Mapping[str, Any]]:
    return [actor for actor in observed.actors if actor["state"] == state]


def _role(actor: Mapping[str, Any]) -> str:
    """The role in the names of its log files."""
    return str(actor["name"]).removeprefix(HOST_OF_ACTOR)
