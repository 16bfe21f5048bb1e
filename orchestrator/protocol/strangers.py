"""Rows that participants hold of transactions that the log does not know."""

from __future__ import annotations

from orchestrator.protocol.messages import Inquiry

STRANGERS_MAX = 10_000
PERSISTS_MS = 120_000  # longer than any message is late; a participant asks again for ever, once a minute or more often


class Strangers:
    """Tells a row that is really held from one that was settled while its inquiry was on its way.

    A transaction may end, and be forgotten (retention), between a participant's question and the log's answer. Then the row is
    settled as well, and the participant, which looks before it asks, does not ask again.
    """

    def __init__(self) -> None:
        self._first_ms: dict[tuple[str, str], int] = {}

    def persists(self, inquiry: Inquiry, now_ms: int) -> bool:
        """Whether it is still asked about long after the first time; the newest `STRANGERS_MAX` are remembered.

        Args:
            inquiry: about a row of which the log knows nothing.
            now_ms: as the shard counts time.
        """
        key = (inquiry.transaction, inquiry.step)
        first_ms = self._first_ms.get(key)
        if first_ms is not None:
            return now_ms - first_ms >= PERSISTS_MS
        if len(self._first_ms) >= STRANGERS_MAX:
            del self._first_ms[next(iter(self._first_ms))]
        self._first_ms[key] = now_ms
        return False
