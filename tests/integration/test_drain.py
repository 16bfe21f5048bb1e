"""Draining a deployment on a real Ray: nothing new is begun, what is open ends, and the report says what is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from integration.shop import Shop, order
from orchestrator import FaultSettings, OutcomeKind, RefusedForNowError, Settings
from orchestrator.deployment import DataDirectory
from orchestrator.drain import drain, resume
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader


def slow(latency_ms: int) -> Settings:
    return Settings(shards=2, faults={"shipping": FaultSettings(latency_ms=latency_ms)})


def await_open(shop: Shop, count: int) -> None:
    """Until so many are begun: a submit returns before that."""
    end_s = time.monotonic() + 30
    while True:
        with closing(LogReader(DataDirectory(shop.deployment.data_dir).log_path)) as log:
            if len(log.find(TransactionQuery(state="open", saga="place_order"))) == count:
                return
        assert time.monotonic() < end_s
        time.sleep(0.02)  # the log's file tells nobody when it changes


def draining_ms(shop: Shop) -> list[int]:
    """How much longer each shard says that it begins nothing new."""
    return [status["detail"].get("draining_ms", 0) for status in shop.statuses() if status["role"] == "orchestrator"]


def test_what_is_open_ends_and_what_is_new_is_refused(shop_of: Callable[..., Shop]) -> None:
    shop = shop_of(slow(1_500))
    handles = [shop.client.submit("place_order", order(), key=f"open-{n}") for n in range(4)]
    await_open(shop, len(handles))
    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(drain, shop.deployment, 60.0, lambda _: waiting.set())
        assert waiting.wait(10)
        os.kill(shop.statuses()[-1]["pid"], signal.SIGKILL)  # one of the shards: its successor is told again
        joined = shop.client.lookup(key="open-0")
        report = draining.result()
    new = [shop.client.submit("place_order", order(), key=f"new-{number}") for number in range(8)]  # some of either shard
    assert (report.complete, report.left, report.parked) == (True, [], [])
    for handle in new:
        with pytest.raises(RefusedForNowError, match="E_DRAINING") as refusal:
            handle.outcome(30)
        assert refusal.value.retry_after_ms == 1_000
    assert all(0 < left_ms <= 30_000 for left_ms in draining_ms(shop))
    assert [handle.outcome(30).status for handle in [*handles, joined]] == [OutcomeKind.COMMITTED] * 5
    resume(shop.deployment)
    assert draining_ms(shop) == [0, 0]
    assert shop.client.submit("place_order", order(), key="new-0").outcome(30).committed


def test_the_time_is_over_before_all_has_ended(shop_of: Callable[..., Shop]) -> None:
    shop = shop_of(slow(3_000))
    handle = shop.client.submit("place_order", order(), key="slow")
    await_open(shop, 1)
    told: list[str] = []
    report = drain(shop.deployment, 0.5, told.append)
    assert not report.complete
    assert [(one.key, one.state) for one in report.left] == [("slow", "preparing")]
    assert told[-1] == "waiting for 1 open transactions"
    resume(shop.deployment)
    assert handle.outcome(30).committed
