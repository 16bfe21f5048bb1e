"""The figures of the transaction log, and of the disk that it shares with everybody."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestrator.metrics.figures import Figures
from orchestrator.metrics.sizes import database_bytes, directory_bytes, free_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.deployment import DataDirectory
    from orchestrator.log.store import LogStore
    from orchestrator.log.writer import LogWriter


def log_figures(
    refused: Mapping[str, int], since_ms: int, directory: DataDirectory, store: LogStore | None, writer: LogWriter | None,
) -> dict[str, Any]:
    """All figures of the log; without a store, while it recovers, only that it does not serve.

    Args:
        refused: connections that its endpoint refused, by reason.
        since_ms: when its process began to count, Unix ms.
        directory: the deployment's.
        store: open.
        writer: of the store.
    """
    figures = Figures(since_ms)
    figures.value("serving", int(store is not None))
    figures.refused(refused)
    if store is None or writer is None:
        return figures.plain()
    figures.value("restarts", store.restarts)
    figures.value("epoch", store.epoch)
    figures.value("log_open", store.open_count)
    figures.value("log_queue", writer.waiting)
    figures.value("log_appends", writer.appended)
    figures.value("log_records", writer.records.sum)
    figures.histogram("log_commit_records", writer.records)
    figures.histogram("commit_ms", store.commit_ms)
    parked = store.parked_codes()
    figures.value("parked", len(parked))
    for code, count in Counter(code for codes in parked for code in codes).items():
        figures.value("parked_steps", count, code=code)
    figures.value("database_bytes", database_bytes(directory.log_path))
    figures.value("log_files_bytes", directory_bytes(directory.path / "logs"))
    figures.value("disk_free_bytes", free_bytes(directory.path))
    return figures.plain()
