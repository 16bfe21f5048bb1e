"""A service holds something for a transaction that the log does not know: nothing is undone, and if it lasts, an alarm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from orchestrator import shard as shard_module
from orchestrator.protocol.coordinator import Coordinator
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Inquiry
from orchestrator.protocol.records import StoredTransaction
from orchestrator.protocol.strangers import PERSISTS_MS, STRANGERS_MAX, Strangers
from orchestrator.shard import Shard


class EmptyLog:
    """Knows nothing."""

    async def load(self, _keys: list[str], transactions: list[str]) -> list[StoredTransaction]:
        self.asked = transactions
        return []


async def test_an_id_that_the_log_does_not_know_is_never_so_rolled_back(
    monkeypatch: pytest.MonkeyPatch, occurred: Callable[..., None],
) -> None:
    alarms: list[dict[str, Any]] = []
    monkeypatch.setattr(shard_module, "log_event", lambda event, **fields: alarms.append({"event": event} | fields))
    shard, log, stranger = Shard.__new__(Shard), EmptyLog(), make_id(5, 7, 1, 1)
    shard._state, shard._log = "serving", log
    shard._core = Coordinator({}, open_max=1)
    shard._core.adopt({7: 1}, [], 1_000)
    shard._strangers = Strangers()
    inquiry = msgspec.msgpack.encode([Inquiry(stranger, "pay", 1)])
    for now_ms in (1_000, 1_000, 1_000 + PERSISTS_MS - 1, 1_000 + PERSISTS_MS):
        assert alarms == []  # so far it may have ended, and been forgotten, while the question was on its way
        monkeypatch.setattr(shard, "_now_ms", lambda now_ms=now_ms: now_ms)
        answer = await shard.inquire(inquiry)
        assert msgspec.msgpack.decode(answer) == []  # neither Commit nor Rollback: the hold stays
        assert log.asked == [stranger]
    (alarm,) = alarms
    assert (alarm["event"], alarm["level"], alarm["transaction"]) == ("unknown_to_log", "CRITICAL", stranger)
    occurred("10b")


def test_what_is_remembered_of_strangers_is_bounded_and_the_newest_stay() -> None:
    strangers = Strangers()
    for number in range(STRANGERS_MAX + 1):
        assert not strangers.persists(Inquiry(make_id(5, 7, 1, number), "pay", 1), 0)
    assert not strangers.persists(Inquiry(make_id(5, 7, 1, 0), "pay", 1), PERSISTS_MS)  # the oldest is taken for a new one
    assert strangers.persists(Inquiry(make_id(5, 7, 1, STRANGERS_MAX), "pay", 1), PERSISTS_MS)
