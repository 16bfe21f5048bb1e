"""What a hop costs is measured over what it says: every answer is what was sent, and no way stands in for another."""

import tempfile
from pathlib import Path

import pytest

from benchmarks.hops import measure_hops


@pytest.mark.parametrize("way", ["unix", "tcp", "grpc"])
def test_a_way_carries_what_it_is_measured_by(way: str) -> None:
    found = measure_hops(640, 1, [way])[way]
    assert 0 < found["alone_us"] < 1e6
    assert found["together_per_s"] > 0


def test_a_few_calls_are_measured_as_well() -> None:
    assert 0 < measure_hops(5, 1, ["unix"])["unix"]["alone_us"] < 1e6


def test_what_a_way_needed_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as directory:  # short: a socket's path has 107 bytes at most
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        measure_hops(5, 1, ["grpc"])
        assert list(Path(directory).iterdir()) == []
