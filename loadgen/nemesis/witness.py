"""The client of a chaos run: every request is recorded, some are repeated or cancelled at once, and none is forgotten."""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter
from functools import partial
from typing import Any

from loadgen.history import Call, HistoryWriter
from loadgen.nemesis.marks import Marks
from orchestrator.client import Client
from orchestrator.errors import RaytxError
from orchestrator.outcome import Handle

TWICE_ONE_IN = 40
CANCELLED_ONE_IN = 80


class Witness:
    """Fits `Driver`'s port. Which orders are repeated and which are cancelled follows from their keys.

    Args:
        client: of the deployment.
        history: where everything is recorded.
        marks: told of every outcome.
    """

    def __init__(self, client: Client, history: HistoryWriter, marks: Marks) -> None:
        self._client, self._history, self._marks = client, history, marks
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()  # repeated, cancelled

    def submit(self, saga: str, data: Any, *, key: str) -> Handle:
        """Submit, with what the key asks for besides."""
        handle = self._submit(saga, data, key)
        draw = zlib.crc32(key.encode())
        if draw % TWICE_ONE_IN == 0:
            self._count("repeated")
            self._submit(saga, data, key)
        if draw % CANCELLED_ONE_IN == 1:
            self._count("cancelled")
            number = self._history.invoke(key, call=Call.CANCEL)
            self._client.cancel(key=key).add_done_callback(partial(self._history.told, number))
        return handle

    def _submit(self, saga: str, data: Any, key: str) -> Handle:
        asked = {"amount_minor": data["amount_minor"]} if "amount_minor" in data else {}
        number = self._history.invoke(key, saga=saga, asked=asked)
        began_ns = time.monotonic_ns()
        handle = self._client.submit(saga, data, key=key)
        handle.add_done_callback(partial(self._told, number, began_ns))
        return handle

    def _told(self, number: int, began_ns: int, handle: Handle) -> None:
        self._history.told(number, handle)
        try:
            committed = handle.outcome(timeout_s=0).committed
        except RaytxError:
            return  # refused, or the client was closed: it says nothing of who serves
        self._marks.see(handle.key, began_ns, time.monotonic_ns(), committed=committed)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1
