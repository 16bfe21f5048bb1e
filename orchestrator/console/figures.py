"""The figures that the pages show, each as text with its unit; what is not known is a dash."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.console.trends import Reading

UNKNOWN = "\N{EN DASH}"
SERVICE_COLUMNS = ("Waiting", "Prepare p50", "Prepare p99", "Retries/s", "Held", "In doubt")
SHARD_COLUMNS = ("Open", "Decided/s", "Append p99", "Partitions")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_KIB = 1_024
_TEN = 10


class Figure(NamedTuple):
    """One figure."""

    name: str
    value: str
    unit: str = ""


def overview_figures(reading: Reading | None) -> list[Figure]:
    """What goes through, how fast, and how much of it in vain."""
    if reading is None:
        return []
    committed = reading.rate("transactions", "shard-", outcome="committed")
    aborted = reading.rate("transactions", "shard-", outcome="aborted")
    decided = None if committed is None or aborted is None else committed + aborted
    share = 100 * aborted / decided if decided and aborted is not None else None
    return [
        Figure("Decided", number(decided), "/s"),
        Figure("Aborted", number(share), "%"),
        Figure("Refused", number(reading.rate("rejected", "shard-")), "/s"),
        Figure("Half within", number(reading.quantile("decide_ms", 0.5, "shard-")), "ms"),
        Figure("99 % within", number(reading.quantile("decide_ms", 0.99, "shard-")), "ms"),
        Figure("In doubt", number(reading.total("in_doubt", "service-"))),
        Figure("Disk free", size(reading.total("disk_free_bytes", "log"))),
    ]


def service_cells(reading: Reading | None, services: Sequence[str]) -> dict[str, list[str]]:
    """For each service the cells below `SERVICE_COLUMNS`."""
    if reading is None:
        return {}
    return {name: [
        number(reading.total("waiting", "shard-", service=name)),
        milliseconds(reading.quantile("step_ms", 0.5, "shard-", service=name, phase="prepare")),
        milliseconds(reading.quantile("step_ms", 0.99, "shard-", service=name, phase="prepare")),
        number(reading.rate("retries", "shard-", service=name)),
        number(reading.total("held", f"service-{name}", service=name)),
        number(reading.total("in_doubt", f"service-{name}", service=name)),
    ] for name in services}


def shard_cells(reading: Reading | None, actors: Sequence[str]) -> dict[str, list[str]]:
    """For each shard the cells below `SHARD_COLUMNS`."""
    if reading is None:
        return {}
    return {name: [
        number(reading.total("open", name)), number(reading.rate("transactions", name)),
        milliseconds(reading.quantile("append_ms", 0.99, name)), number(reading.total("partitions", name)),
    ] for name in actors}


def log_figures(reading: Reading | None) -> list[Figure]:
    """How the log does."""
    if reading is None:
        return []
    return [
        Figure("Records written", number(reading.rate("log_records", "log")), "/s"),
        Figure("Records a commit", number(reading.mean("log_commit_records", "log"))),
        Figure("Commit, 99 % within", number(reading.quantile("commit_ms", 0.99, "log")), "ms"),
        Figure("Waiting for the writer", number(reading.total("log_queue", "log"))),
        Figure("Its size", size(reading.total("database_bytes", "log"))),
        Figure("Disk free", size(reading.total("disk_free_bytes", "log"))),
    ]


def number(value: float | None) -> str:
    """A number with as many digits as one can use."""
    if value is None:
        return UNKNOWN
    if value == int(value) or value >= _TEN:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def milliseconds(value: float | None) -> str:
    """A duration."""
    return UNKNOWN if value is None else f"{number(value)} ms"


def size(value: float | None) -> str:
    """So many bytes."""
    if value is None:
        return UNKNOWN
    for unit in _UNITS:
        if value < _KIB or unit == _UNITS[-1]:
            break
        value /= _KIB
    return f"{number(value)} {unit}"
