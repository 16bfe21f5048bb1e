"""What a service's host counts, and its figures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orchestrator.metrics.figures import Figures
from orchestrator.metrics.sizes import database_bytes
from orchestrator.protocol.counts import Histogram
from orchestrator.protocol.messages import Kind, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actors.doubt import Doubts
    from actors.store import Store

_KINDS, _STATUSES = list(Kind), list(Status)


class ServiceMeter:
    """Counts on behalf of one process of a service; lives on its event loop.

    Args:
        service: its name.
        refused: connections that it ended for what came over them, by reason, live.

    Attributes:
        answers: by kind and status of the reply.
        messages: of each batch.
        took_ms: one batch, from handing it to the store's writer to having its outcomes.
        inquiries: rows whose decision was asked for.
        began_s: when the batch under way was handed over.
    """

    def __init__(self, service: str, refused: Mapping[str, int]) -> None:
        self.since_ms = time.time_ns() // 1_000_000
        self.answers = [[0] * len(_STATUSES) for _ in _KINDS]
        self.messages, self.took_ms = Histogram(), Histogram()
        self.inquiries = 0
        self.began_s = 0.0
        self._service, self._refused = service, refused

    def finished(self, messages: int, now_s: float) -> None:
        """A batch came back from the store's writer."""
        self.messages.observe(messages)
        self.took_ms.observe((now_s - self.began_s) * 1_000)

    def figures(self, store: Store | None, doubts: Doubts, pending: int) -> dict[str, Any]:
        """All figures of a service; without a store, while it recovers, only that it does not serve."""
        figures, service = Figures(self.since_ms), self._service
        figures.value("serving", int(store is not None))
        figures.refused(self._refused)
        if store is None:
            return figures.plain()
        figures.value("restarts", store.database.restarts)
        figures.value("epoch", store.database.epoch)
        figures.value("pending", pending, service=service)
        figures.value("held", len(doubts), service=service)
        figures.value("in_doubt", doubts.in_doubt, service=service)
        figures.value("inquiries", self.inquiries, service=service)
        figures.histogram("batch_messages", self.messages, service=service)
        figures.histogram("batch_ms", self.took_ms, service=service)
        figures.histogram("commit_ms", store.database.commit_ms)
        figures.value("database_bytes", database_bytes(store.path))
        for kind, counts in zip(_KINDS, self.answers, strict=True):
            for status, count in zip(_STATUSES, counts, strict=True):
                if count:
                    figures.value(
                        "answers", count, service=service, message=kind.name.lower(), status=status.name.lower())
        return figures.plain()
