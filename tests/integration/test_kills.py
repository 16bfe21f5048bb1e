"""kill -9 of every role with orders in flight: a pause, never a wrong outcome."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from integration.shop import Shop, open_shop, order
from orchestrator import Settings
from orchestrator.head import server_pids, wait_for_spare_workers
from orchestrator.spare import SPARES, unassigned_workers

ORDERS = 300
SERVING_S = 30
ROLES = ["orchestrator", "log", "inventory", "payment", "shipping", "notification"]


def successor(shop: Shop, role: str, killed: int) -> dict[str, Any]:
    """The role's status once it serves again: a caller is told the outcome without waiting for what is performed later."""
    end_s = time.monotonic() + SERVING_S
    while True:
        statuses = shop.statuses()
        found = [s for s in statuses if s["role"] == role and s["state"] == "serving" and s["pid"] != killed]
        if found:
            return found[0]
        assert time.monotonic() < end_s, statuses
        time.sleep(0.05)


@pytest.fixture(scope="module")
def shop(head: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One shop for all kills: what one leaves behind, the next one meets."""
    opened = open_shop(tmp_path_factory.mktemp("kills") / "data", Settings())
    yield opened
    opened.close()


def test_spare_processes_are_there_when_they_were_waited_for(shop: Shop) -> None:
    assert wait_for_spare_workers(SERVING_S)
    assert len(unassigned_workers(server_pids()["raylet"])) >= SPARES


@pytest.mark.parametrize("role", ROLES)
def test_kill_of_a_role_in_mid_flight(shop: Shop, role: str) -> None:
    earlier = shop.audit()
    done, reached = [], threading.Event()

    def count(handle) -> None:
        done.append(handle)
        if len(done) == 20:
            reached.set()

    handles = [shop.client.submit("place_order", order(f"{role}-{n}")) for n in range(ORDERS)]
    for handle in handles:
        handle.add_done_callback(count)
    assert reached.wait(60)
    before = shop.kill(role)
    handles += [shop.client.submit("place_order", order(f"{role}-after-{n}")) for n in range(20)]
    assert all(handle.outcome(60).committed for handle in handles)
    assert successor(shop, role, before)["restarts"] == 1
    totals = shop.audit()
    assert totals["committed"] - earlier["committed"] == ORDERS + 20
    assert totals["units_sold"] - earlier["units_sold"] == 2 * (ORDERS + 20)


def test_everything_killed_at_once_recovers_without_anyone_calling(shop: Shop, occurred) -> None:
    earlier = shop.audit()
    handles = [shop.client.submit("place_order", order(f"all-{n}")) for n in range(ORDERS)]
    handles[0].outcome(60)
    for pid in [status["pid"] for status in shop.statuses()]:
        os.kill(pid, signal.SIGKILL)
    assert all(handle.outcome(60).committed for handle in handles)
    assert shop.audit()["committed"] - earlier["committed"] == ORDERS
    occurred("85")


def test_a_restarted_shard_finishes_what_nobody_waits_for(shop_of: Callable[..., Shop]) -> None:
    shop = shop_of(Settings(shards=2))
    for number in range(100):
        shop.client.submit("place_order", order(f"n-{number}"))
    shop.client.submit("place_order", order("last")).outcome(60)
    shop.client._conversation.close()  # the driver is gone
    for pid in [s["pid"] for s in shop.statuses() if s["role"] == "orchestrator"]:
        os.kill(pid, signal.SIGKILL)
    assert shop.audit()["open"] == 0

