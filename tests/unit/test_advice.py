"""What `raytx status` says is wrong and what to do: every rule is silent where all is well, and speaks where it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.advice import RESTARTS_MAX, RULES, Observed, Severity, advise, is_healthy
from orchestrator.deployment import DataDirectory, DeploymentRecord
from orchestrator.errors import ErrorCode
from orchestrator.log.backlog import Backlog
from orchestrator.observation import open_to, told_pause, without_ballast
from orchestrator.ownership import this_process
from orchestrator.protocol.records import Pause

NOW_MS = 1_000_000


def actor(name: str = "service-payment", state: str = "serving", **more: Any) -> dict[str, Any]:
    return {"name": name, "role": name, "state": state, "restarts": 0, "detail": "", **more}


def shard(**reports: str) -> dict[str, Any]:
    breakers = {service: {"state": state, "since_ms": NOW_MS - 12_000, "cause": "silent", "last_error": "no answer",
                          "retry_after_ms": 1_000} for service, state in reports.items()}
    return actor("shard-0", breakers=breakers, detail={"open": 3})


WELL = Observed(
    actors=[actor("log"), shard(payment="closed", inventory="closed"), actor()], now_ms=NOW_MS, free_bytes=100 << 30,
    backlog=Backlog(open=12))


def told(**changed: Any) -> list[tuple[Severity, str, str]]:
    values = {name: getattr(WELL, name) for name in Observed.__slots__} | changed
    return [tuple(advice) for advice in advise(Observed(**values))]


def test_nothing_is_said_where_all_is_well() -> None:
    assert advise(WELL) == []
    assert is_healthy(WELL, [])


@pytest.mark.parametrize(("changed", "severity", "what", "do"), [
    ({"actors": [actor(state="unreachable")]}, "bad", "service-payment does not answer", "logs/payment-*.jsonl"),
    ({"actors": [actor(state="refused", detail="x.sqlite: it is an older copy")]}, "bad", "older copy", "whole data directory"),
    ({"actors": [actor("log", state="recovering", detail="the database cannot be opened for now")]}, "warn",
     "log is recovering: the database", "logs/log-*.jsonl"),
    ({"actors": [actor(restarts=RESTARTS_MAX)]}, "warn", "started anew 5 times", "stuck, crashed, fatal"),
    ({"without_ballast": ["services/payment.sqlite"]}, "bad", "E_DISK_FULL", "make room"),
    ({"free_bytes": 500 << 20}, "warn", "500 MiB are left", "make room"),
    ({"actors": [shard(payment="open", inventory="closed")]}, "bad", "payment is down for 12 s (no answer)", "logs/payment-*"),
    ({"actors": [shard(payment="half_open")]}, "bad", "E_UNAVAILABLE", "closes by itself"),
    ({"backlog": Backlog(parked={("payment", "E_VIOLATION"): 2})}, "warn", "2 parked at payment: E_VIOLATION", "tampered"),
    ({"backlog": Backlog(parked={("post", "UNDELIVERABLE"): 1})}, "warn", "1 parked at post", "complains of"),
    ({"backlog": Backlog(parked={("", "E_UNKNOWN_SAGA"): 1})}, "warn", "1 parked: E_UNKNOWN_SAGA", "version of the saga"),
    ({"backlog": Backlog(overdue=7)}, "bad", "7 undecided more than 10 s after", "logs/shard-*.jsonl"),
    ({"backlog": Backlog(unfinished=4, oldest_unfinished_ms=90_000)}, "warn", "4 decided and not finished, the oldest since 90",
     "raytx show"),
    ({"actors": [actor(figures={"metrics": {"in_doubt": [{"service": "payment", "value": 3}]}})]}, "warn",
     "3 prepared at payment and not heard of", "it asks by itself"),
    ({"open_to": "192.0.2.7:6379"}, "warn", "192.0.2.7:6379", "RAY_AUTH_MODE=token"),
    ({"paused": ["service payment"]}, "warn", "paused: service payment", "raytx resume"),
])
def test_every_rule_speaks(changed: dict[str, Any], severity: str, what: str, do: str) -> None:
    ((found, said, remedy),) = told(**changed)
    assert found == severity
    assert what in said
    assert do in remedy


def test_every_rule_has_a_case_above() -> None:
    cases = next(mark for mark in test_every_rule_speaks.pytestmark if mark.name == "parametrize").args[1]
    values = {name: getattr(WELL, name) for name in Observed.__slots__}
    assert [rule.__name__ for rule in RULES if not any(list(rule(Observed(**values | case[0]))) for case in cases)] == []


def test_every_code_of_raytx_that_parks_has_a_remedy_of_its_own() -> None:
    remedies = {told(backlog=Backlog(parked={("s", code): 1}))[0][2] for code in (
        ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.SERVICE_ERROR, ErrorCode.BUILDER_FAILED, ErrorCode.UNKNOWN_SAGA,
        ErrorCode.QUARANTINED, ErrorCode.SUSPECT, ErrorCode.VIOLATION, "ITS_OWN")}
    assert len(remedies) == 8


def test_several_shards_make_one_line_of_a_service() -> None:
    assert len(told(actors=[shard(payment="open"), shard(payment="half_open"), shard(payment="closed")])) == 1


def test_the_gravest_comes_first() -> None:
    found = told(actors=[actor(restarts=9), actor("log", state="unreachable"), shard(payment="open")], free_bytes=1)
    assert [severity for severity, _, _ in found] == ["bad", "bad", "warn", "warn"]


def test_a_warning_is_healthy_and_what_is_bad_or_does_not_serve_is_not() -> None:
    warned = Observed(actors=[actor()], backlog=Backlog(parked={("payment", "E_VIOLATION"): 2}))
    assert is_healthy(warned, advise(warned))
    for unwell in (Observed(actors=[actor(state="recovering")]), Observed(actors=[shard(payment="open")])):
        assert not is_healthy(unwell, advise(unwell))


def test_a_database_without_its_ballast_is_seen(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    for path in (directory.log_path, directory.service_path("payment")):
        path.parent.mkdir()
        path.touch()
        path.with_name(f"{path.name}.ballast").touch()
    assert without_ballast(directory, ["payment", "elsewhere"]) == []
    directory.service_path("payment").with_name("payment.sqlite.ballast").unlink()
    assert without_ballast(directory, ["payment", "elsewhere"]) == ["services/payment.sqlite"]


def test_a_pause_says_who_and_why() -> None:
    assert told_pause(Pause("", "payment", "ann", "bank is down", 1)) == "service payment (by ann: bank is down)"
    assert told_pause(Pause("refund", "", "ann", "", 1)) == "saga refund (by ann)"
    assert "tok_" not in told_pause(Pause("refund", "", "tok_who", "card tok_live123 leaks", 1))


@pytest.mark.parametrize(("changed", "environment", "found"), [
    ({}, {}, "192.0.2.7:6379"),
    ({}, {"RAY_AUTH_MODE": "disabled"}, "192.0.2.7:6379"),
    ({}, {"RAY_AUTH_MODE": "token"}, ""),
    ({"own_head": True}, {}, ""),
    ({"token_path": "/srv/token"}, {}, ""),
    ({"address": "127.0.0.1:6379"}, {}, ""),
    ({"address": "localhost:6379"}, {}, ""),
    ({"address": "[::1]:6379"}, {}, ""),
    ({"address": "head.example.org:6379"}, {}, "head.example.org:6379"),
])
def test_a_cluster_that_asks_nobody_for_a_token_is_seen(
    changed: dict[str, Any], environment: dict[str, str], found: str,
) -> None:
    record = DeploymentRecord(1, 1, "serving", "n", "r", "a", [], {}, this_process(), keeper=False, services=[], shards=1,
                              **{"address": "192.0.2.7:6379"} | changed)
    assert open_to(record, environment) == found
