"""One frame of `raytx top`: what two readings of every actor's status say together. Plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.metrics.figures import quantile
from orchestrator.metrics.reading import rate_per_s, series, total

Status = Mapping[str, Any]
Pair = tuple[Any, Any]  # an actor's figures before and now; None where it did not tell them
LOG, ORCHESTRATOR = "log", "orchestrator"
BREAKER_ORDER = ("closed", "half_open", "open")  # the worst of the shards' is shown


def frame(before: Sequence[Status], after: Sequence[Status]) -> dict[str, Any]:
    """What happens between two readings of the statuses of all actors.

    Args:
        before: the earlier one; may be empty, then there are no rates and quantiles are since each actor's start.
        after: the later one.

    Returns:
        `totals`, `sagas`, `services`, `shards` and `log`; rates a second, times in ms; None is what cannot be told.
    """
    earlier = {status["name"]: status.get("figures") for status in before}
    pairs = {status["name"]: (earlier.get(status["name"]), status.get("figures")) for status in after}
    shards = [status for status in after if status["role"] == ORCHESTRATOR]
    of_shards = [pairs[status["name"]] for status in shards]
    services = [status for status in after if status["role"] not in (LOG, ORCHESTRATOR)]
    log = next((status for status in after if status["role"] == LOG), None)
    return {
        "at_ms": max((now["at_ms"] for _, now in pairs.values() if now), default=None),
        "seconds": max(((now["at_ms"] - then["at_ms"]) / 1_000 for then, now in pairs.values() if now and then), default=None),
        "totals": _totals(of_shards, pairs.get(LOG, (None, None)), [pairs[one["name"]] for one in services]),
        "sagas": _sagas(of_shards),
        "services": [_service(status, pairs[status["name"]], of_shards, shards) for status in services],
        "shards": [_shard(status, pairs[status["name"]]) for status in shards],
        "log": None if log is None else _log(log, pairs[LOG]),
    }


def _totals(shards: Sequence[Pair], log: Pair, services: Sequence[Pair]) -> dict[str, Any]:
    return {
        "committed_per_s": _rate(shards, "transactions", outcome="committed"),
        "aborted_per_s": _rate(shards, "transactions", outcome="aborted"),
        "rejected_per_s": _rate(shards, "rejected"),
        "retries_per_s": _rate(shards, "retries"),
        "timeouts_per_s": _rate(shards, "timeouts"),
        **_quantiles(shards, "decide", "decide_ms", outcome="committed"),
        **_quantiles(shards, "end", "end_ms", outcome="committed"),
        "open": _now(shards, "open"),
        "parked": _now([log], "parked"),
        "in_doubt": _now(services, "in_doubt"),
        "fenced": _now(shards, "fenced"),
    }


def _sagas(shards: Sequence[Pair]) -> list[dict[str, Any]]:
    """Every saga's outcomes and the codes of its aborts, the most frequent first."""
    names = sorted({one["saga"] for _, now in shards for one in series(now, "transactions")})
    return [{
        "saga": name,
        "committed_per_s": _rate(shards, "transactions", saga=name, outcome="committed"),
        "aborted_per_s": _rate(shards, "transactions", saga=name, outcome="aborted"),
        **_quantiles(shards, "decide", "decide_ms", saga=name),
        "codes": _codes(shards, name),
    } for name in names]


def _codes(shards: Sequence[Pair], saga: str) -> dict[str, float]:
    codes = {one["code"] for _, now in shards for one in series(now, "transactions", saga=saga) if one["code"]}
    found = {code: _now(shards, "transactions", saga=saga, code=code) or 0 for code in sorted(codes)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _service(status: Status, own: Pair, shards: Sequence[Pair], shard_statuses: Sequence[Status]) -> dict[str, Any]:
    name = status["role"]
    return {
        **_who(status), "service": name,
        "answers_per_s": _rate([own], "answers"),
        **_quantiles(shards, "prepare", "step_ms", service=name, phase="prepare"),
        **_quantiles(shards, "finish", "step_ms", service=name, phase="finish"),
        **_quantiles([own], "commit", "commit_ms"),
        "retries_per_s": _rate(shards, "retries", service=name),
        "timeouts_per_s": _rate(shards, "timeouts", service=name),
        "waiting": _now(shards, "waiting", service=name),
        "held": _now([own], "held"),
        "in_doubt": _now([own], "in_doubt"),
        "breaker": _breaker(shard_statuses, name),
    }


def _breaker(shards: Sequence[Status], service: str) -> dict[str, Any] | None:
    """The worst that any shard's breaker of the service is in."""
    found = [shard["breakers"][service] for shard in shards if service in (shard.get("breakers") or {})]
    return max(found, key=lambda one: (BREAKER_ORDER.index(one["state"]), one["since_ms"]), default=None)


def _shard(status: Status, own: Pair) -> dict[str, Any]:
    return {
        **_who(status),
        "partitions": _now([own], "partitions"),
        "open": _now([own], "open"),
        "decided_per_s": _rate([own], "transactions"),
        **_quantiles([own], "decide", "decide_ms", outcome="committed"),
        **_quantiles([own], "append", "append_ms"),
        "append_queue": _now([own], "append_queue"),
        "fenced": _now([own], "fenced"),
    }


def _log(status: Status, own: Pair) -> dict[str, Any]:
    return {
        **_who(status),
        "records_per_s": _rate([own], "log_records"),
        "appends_per_s": _rate([own], "log_appends"),
        **_quantiles([own], "commit", "commit_ms"),
        "queue": _now([own], "log_queue"),
        "open": _now([own], "log_open"),
        "parked": _now([own], "parked"),
        "database_bytes": _now([own], "database_bytes"),
        "disk_free_bytes": _now([own], "disk_free_bytes"),
    }


def _who(status: Status) -> dict[str, Any]:
    return {name: status.get(name) for name in ("name", "state", "pid", "epoch", "restarts")}


def _rate(pairs: Iterable[Pair], name: str, **labels: str) -> float | None:
    return _sum(rate_per_s(then, now, name, **labels) for then, now in pairs)


def _now(pairs: Iterable[Pair], name: str, **labels: str) -> float | None:
    """The present sum of a gauge, or a counter since the start; None where nobody tells it."""
    return _sum(total(now, name, **labels) if now else None for _, now in pairs)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _quantiles(pairs: Sequence[Pair], told: str, name: str, **labels: str) -> dict[str, float | None]:
    """p50 and p99 of what a histogram of all these actors together counted between the readings."""
    bounds, counts = _between(pairs, name, labels)
    return {f"{told}_{share}_ms": quantile(bounds, counts, of) for share, of in (("p50", 0.5), ("p99", 0.99))}


def _between(pairs: Sequence[Pair], name: str, labels: Mapping[str, str]) -> tuple[list[float], list[int]]:
    bounds: list[float] = []
    counts: list[int] = []
    for then, now in pairs:
        same_life = then and now and then["since_ms"] == now["since_ms"]
        for sign, figures in ((1, now), (-1, then if same_life else None)):
            for one in series(figures, name, **labels):
                bounds = one["bounds"]
                counts = counts or [0] * len(one["counts"])
                counts = [count + sign * more for count, more in zip(counts, one["counts"], strict=True)]
    return bounds, counts
