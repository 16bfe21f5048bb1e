"""What operators have paused: which new transactions are kept out, and to which services nothing new is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.protocol.records import Pause, Pauses

PAUSED_RETRY_MS = 5_000  # nobody knows when it will be resumed


class Paused:
    """One saying of the log on what is paused; false where nothing is.

    Attributes:
        pauses: as the log has them.
        services: those that are paused.
    """

    def __init__(self, pauses: Pauses) -> None:
        self.pauses = pauses
        self.services = frozenset(pause.service for pause in pauses.paused if pause.service)

    def __bool__(self) -> bool:
        return bool(self.pauses.paused)

    def keeps_out(self, saga: str, services: Iterable[str]) -> str:
        """Why a new transaction of this saga, which needs these services, is refused; empty if it is not."""
        needed = set(services)
        for pause in self.pauses.paused:
            if pause.saga == saga or pause.service in needed:
                return _told(pause)
        return ""


def _told(pause: Pause) -> str:
    what = f"saga {pause.saga!r}" if pause.saga else f"service {pause.service!r}"
    return f"{what} is paused by {pause.who}{f': {pause.reason}' if pause.reason else ''}"
