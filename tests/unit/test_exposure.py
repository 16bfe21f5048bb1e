"""A deployment on a cluster that anybody may use is told so."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator import rendering
from orchestrator.deployment import DIRECTORY_SCHEMA, DeploymentRecord, stopped
from orchestrator.exposure import warnings_of
from orchestrator.ownership import this_process


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "127.0.1.1:6379", "localhost:6379", "[::1]:6379"])
def test_on_loopback_nobody_else_comes(address: str) -> None:
    assert warnings_of(address, with_token=False) == []


@pytest.mark.parametrize("address", ["10.0.0.7:6379", "ray.example.org:6379", "[2001:db8::1]:6379", "auto"])
def test_elsewhere_it_takes_a_token(address: str) -> None:
    assert warnings_of(address, with_token=True) == []
    (warning,) = warnings_of(address, with_token=False)
    assert address in warning
    assert "RAY_AUTH_MODE=token" in warning


def test_up_and_status_show_it() -> None:
    (warning,) = warnings_of("10.0.0.7:6379", with_token=False)
    record = DeploymentRecord(
        DIRECTORY_SCHEMA, 1, "serving", "ns", "run", "app", [], {}, this_process(), keeper=True, services=["a"], shards=1,
        address="10.0.0.7:6379", warnings=[warning])
    assert f"warning     {warning}" in rendering.deployment_text(record, "data").plain
    assert rendering.deployment_json(record, "data")["warnings"] == [warning]
    assert stopped(record).warnings == []
    older = msgspec.json.decode(msgspec.json.encode(record))
    del older["warnings"]  # as an older program wrote it
    assert msgspec.convert(older, DeploymentRecord).warnings == []
