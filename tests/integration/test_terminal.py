"""`raytx top` and `raytx watch` beside a deployment that serves."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from integration.shop import POOR, Shop, order
from loadgen.cli import cli
from orchestrator.log.following import LogFollower
from orchestrator.log.reader import TransactionQuery
from orchestrator.terminal.frame import frame
from orchestrator.terminal.frame_view import view


def test_what_happens_is_seen_at_the_top(shop: Shop) -> None:
    before = shop.statuses()
    outcomes = [shop.client.submit("place_order", order()) for _ in range(20)]
    assert all(one.outcome(30).committed for one in outcomes)
    assert not shop.client.submit("place_order", order(account=POOR, quantity=4)).outcome(30).committed
    after = shop.statuses()
    found = frame(before, after)
    then, now = ([one["figures"]["at_ms"] for one in read if one["role"] == "orchestrator"] for read in (before, after))
    rates, (shard_ms,) = found["totals"], [end - begin for begin, end in zip(then, now, strict=True)]
    assert rates["committed_per_s"] * shard_ms / 1_000 == pytest.approx(20)
    assert found["seconds"] * 1_000 >= shard_ms  # every actor answers at a time of its own
    assert rates["aborted_per_s"] / rates["committed_per_s"] == pytest.approx(1 / 20)
    assert rates["decide_p50_ms"] > 0
    (orders,) = [one for one in found["sagas"] if one["saga"] == "place_order"]
    assert orders["codes"]["INSUFFICIENT_FUNDS"] == 1
    assert {one["service"]: one["state"] for one in found["services"]} == dict.fromkeys(
        ("inventory", "payment", "shipping", "notification"), "serving")
    assert {one["breaker"]["state"] for one in found["services"]} == {"closed"}
    assert found["log"]["records_per_s"] > 0
    assert found["log"]["commit_p99_ms"] > 0
    assert view(found, "raytx top", [], 80)


def test_a_transaction_is_watched_while_it_runs(shop: Shop) -> None:
    with ThreadPoolExecutor(1) as thread, LogFollower(shop.deployment.data_dir / "log" / "log.sqlite") as follower:
        placed = thread.submit(lambda: shop.client.submit("place_order", order("o-watched"), key="o-watched").outcome(30))
        changes = follower.changes(TransactionQuery(key="o-watched"), 30)
        found = [type(next(changes)[0].record).__name__ for _ in range(3)]
        assert found == ["Begun", "Decided", "Ended"]
        transaction = placed.result().transaction
    result = CliRunner().invoke(cli, ["watch", transaction, "--data", str(shop.deployment.data_dir), "--json"])
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["what"] for line in result.stdout.splitlines()][1:] == ["decided COMMIT", "ended"]
    shown = CliRunner().invoke(cli, ["show", transaction, "--data", str(shop.deployment.data_dir)])
    assert "|COMMIT" in shown.stdout
