"""What a deployment's processes and files say of it from outside: memory, bytes written, commits, size on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import psutil

from orchestrator.app import App
from orchestrator.database import open_reader
from orchestrator.deployment import DataDirectory
from orchestrator.protocol.identifiers import began_ms_of, oldest_id
from orchestrator.protocol.records import State

MB = 1 << 20
LOG_ROLE = "log"


class Snapshot(msgspec.Struct, frozen=True):
    """At one moment, by actor's name or by database's.

    Attributes:
        rss: resident memory of the actors, bytes.
        written: what the actors had the disk write, bytes (/proc/PID/io).
        commits: local transactions made durable, by database; each is one fsync.
        size: of the databases, what is still in their write-ahead logs included, bytes.
        appends: calls of the transaction log, by all shards.
        oldest_ms: when the oldest transaction began that each database still knows, Unix ms; absent where there is none.
    """

    rss: dict[str, int]
    written: dict[str, int]
    commits: dict[str, int]
    size: dict[str, int]
    appends: int
    oldest_ms: dict[str, int]


def look(statuses: Sequence[Mapping[str, Any]], data: Path, app: App) -> Snapshot:
    """Look at a deployment of this machine.

    Args:
        statuses: what its actors say of themselves, for their pids.
        data: its data directory.
        app: its services have a database each.
    """
    rss, written = {}, {}
    for status in statuses:
        if status["pid"] is not None:
            process = psutil.Process(status["pid"])
            rss[status["name"]] = process.memory_info().rss
            written[status["name"]] = process.io_counters().write_bytes
    commits, size, oldest_ms = {}, {}, {}
    for name, path in database_paths(data, app).items():
        commits[name], size[name] = _commits_and_size(path)
        oldest = _oldest(path, "transactions" if name == LOG_ROLE else "ledger")
        if oldest is not None:
            oldest_ms[name] = began_ms_of(oldest)
    return Snapshot(rss, written, commits, size, _appends(DataDirectory(data).log_path), oldest_ms)


def database_paths(data: Path, app: App) -> dict[str, Path]:
    """The databases of a data directory, by role."""
    directory = DataDirectory(data)
    return {LOG_ROLE: directory.log_path} | {
        service.name: directory.service_path(service.name) for service in app.services}


def figures(before: Snapshot, after: Snapshot, orders: int) -> dict[str, float]:
    """What passed between two looks, by order; commits also by database, bytes written also by actor.

    `forgotten_s.NAME` is how much of the past a database has forgotten meanwhile, in seconds of that past.
    """
    found = {
        "bytes_on_disk_per_order": _grown(before.size, after.size) / orders,
        "bytes_written_per_order": _grown(before.written, after.written) / orders,
        "commits_per_order": _grown(before.commits, after.commits) / orders,
        "log_appends_per_order": (after.appends - before.appends) / orders,
    }
    for name, commits in after.commits.items():
        found[f"commits_per_order.{name}"] = (commits - before.commits[name]) / orders
        found[f"bytes_on_disk_per_order.{name}"] = (after.size[name] - before.size[name]) / orders
    for name in after.written.keys() & before.written.keys():
        found[f"bytes_written_per_order.{name}"] = (after.written[name] - before.written[name]) / orders
    for name in after.oldest_ms.keys() & before.oldest_ms.keys():
        found[f"forgotten_s.{name}"] = (after.oldest_ms[name] - before.oldest_ms[name]) / 1_000
    return found


def memory(snapshot: Snapshot, prefix: str) -> dict[str, float]:
    """Resident memory in MB, by actor."""
    return {f"{prefix}.{name}": rss / MB for name, rss in snapshot.rss.items()}


def committed_since(log: Path, saga: str, since_ms: int) -> int:
    """Transactions of a saga that began since then and are committed, ended or not, as the log says; Unix ms."""
    with closing(open_reader(log)) as connection:
        row = connection.execute(
            "SELECT COUNT(*) FROM transactions WHERE txn >= ? AND saga = ? AND state IN (?, ?)",
            (oldest_id(since_ms), saga, State.COMMITTING.value, State.COMMITTED.value)).fetchone()
    return int(row[0])


def ids_by_key(log: Path, since_ms: int) -> dict[str, str]:
    """Transaction ids by key, of those that began since then; Unix ms."""
    with closing(open_reader(log)) as connection:
        return dict(connection.execute("SELECT key, txn FROM transactions WHERE txn >= ?", (oldest_id(since_ms),)))


def size_of(data: Path) -> int:
    """Bytes of a directory's files, ballast left out."""
    return sum(file.stat().st_size for file in _files(data) if not file.name.endswith(".ballast"))


def _files(data: Path) -> Iterable[Path]:
    return (path for path in data.rglob("*") if path.is_file())


def _grown(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    return sum(after[name] - before[name] for name in before.keys() & after.keys())


def _commits_and_size(path: Path) -> tuple[int, int]:
    with closing(open_reader(path)) as connection:
        (sequence,) = connection.execute("SELECT value FROM meta WHERE name = 'sequence'").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(sequence), int(pages) * int(page_bytes)


def _oldest(path: Path, table: str) -> str | None:
    with closing(open_reader(path)) as connection:
        (oldest,) = connection.execute(f"SELECT min(txn) FROM {table}").fetchone()  # noqa: S608 - of two constants
    return None if oldest is None else str(oldest)


def _appends(log: Path) -> int:
    with closing(open_reader(log)) as connection:
        (appends,) = connection.execute("SELECT COALESCE(SUM(last_sequence), 0) FROM shards").fetchone()
    return int(appends)
