"""Figures of a live deployment: in every actor's status."""

from __future__ import annotations

from integration.shop import Shop, order
from orchestrator.metrics.reading import series, total
from orchestrator.metrics.scrape import urls_of_cluster


def test_every_actor_tells_its_figures(shop: Shop) -> None:
    handles = [shop.client.submit("place_order", order()) for _ in range(20)]
    handles.append(shop.client.submit("place_order", order(sku="none", quantity=1)))
    committed = sum(handle.outcome(30).committed for handle in handles)
    shop.audit()  # waits until all have ended
    figures = {status["name"]: status["figures"] for status in shop.statuses()}
    assert set(figures) == {"log", "shard-0", *(f"service-{name}" for name in shop.deployment.app.by_service)}
    assert all(total(one, "serving") == 1 for one in figures.values())
    shard, log, payment = figures["shard-0"], figures["log"], figures["service-payment"]
    assert committed == total(shard, "transactions", saga="place_order", outcome="committed") == 20
    assert total(shard, "transactions", saga="place_order", outcome="aborted") == 1
    assert total(shard, "decide_ms", saga="place_order") == total(shard, "end_ms", saga="place_order") == 21
    assert {(one["service"], one["phase"]) for one in series(shard, "step_ms")} >= {
        ("inventory", "prepare"), ("payment", "finish"), ("notification", "finish")}
    assert total(shard, "open") == total(log, "log_open") == total(log, "parked") == 0
    assert total(log, "log_records") >= 3 * 21
    assert 0 < total(log, "log_commit_records") <= total(log, "commit_ms")
    assert total(log, "disk_free_bytes") > total(log, "database_bytes") > 0
    assert total(payment, "answers", message="commit", status="ack") >= 20
    assert total(payment, "batch_messages") == total(payment, "batch_ms") > 0
    assert total(payment, "held") == total(payment, "in_doubt") == 0
    assert [url.rpartition("/")[2] for url in urls_of_cluster()] == ["metrics"]  # the one node's agent
