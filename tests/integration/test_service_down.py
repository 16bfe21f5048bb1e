"""A service that stops answering under load: its breaker opens, callers are told at once, what is in flight ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from integration.shop import Shop, order
from orchestrator import Outcome, Settings
from orchestrator.advice import Severity, advise
from orchestrator.deployment import DataDirectory
from orchestrator.errors import RefusedForNowError
from orchestrator.observation import observe

WAIT_S = 30
SETTINGS = Settings(breaker_failures=5, breaker_silent_ms=300, breaker_probe_ms=200)


def until(shop: Shop, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The report of payment's breaker once it fits."""
    end_s = time.monotonic() + WAIT_S
    while True:
        (shard,) = [status for status in shop.deployment.statuses(0.5) if status["role"] == "orchestrator"]
        report = shard.get("breakers", {}).get("payment")
        if report is not None and fits(report):
            return report
        assert time.monotonic() < end_s, shard
        time.sleep(0.05)


def once_it_may(shop: Shop, data: dict[str, object]) -> Outcome:
    """The outcome of an order that is sent when the client has been told to come back."""
    while True:
        try:
            return shop.client.submit("place_order", data).outcome(WAIT_S)
        except RefusedForNowError as refused:
            time.sleep(refused.retry_after_ms / 1_000)


def test_a_service_that_is_stopped_and_goes_on(shop_of: Callable[..., Shop]) -> None:
    shop = shop_of(SETTINGS)
    assert shop.client.submit("place_order", order()).outcome(WAIT_S).committed
    assert until(shop, lambda report: True)["state"] == "closed"
    (pid,) = [status["pid"] for status in shop.statuses() if status["role"] == "payment"]
    first = order()
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [shop.client.submit("place_order", order()) for _ in range(20)]
        waiting.append(shop.client.submit("place_order", first, key="mine"))
        report = until(shop, lambda report: report["state"] != "closed")
        assert (report["cause"], report["last_error"], report["retry_after_ms"]) == ("silent", "no answer", 200)
        directory = DataDirectory(shop.deployment.data_dir)
        observed = observe(directory, directory.record(), shop.deployment.statuses(0.5))
        assert [one.what[:20] for one in advise(observed) if one.severity is Severity.BAD] == [
            "service-payment does", "payment is down for "]
        waiting.append(shop.client.submit("place_order", first, key="mine"))  # a repeat of what was accepted
        with pytest.raises(RefusedForNowError) as refused:
            shop.client.submit("place_order", order()).outcome(WAIT_S)
        assert refused.value.code == "E_UNAVAILABLE"
        assert refused.value.retry_after_ms == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    assert all(handle.outcome(WAIT_S).committed for handle in waiting)
    until(shop, lambda report: report["state"] == "closed")
    assert once_it_may(shop, order()).committed
    assert shop.audit()["committed"] == 23
