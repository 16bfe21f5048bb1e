"""The real stores in a real process, killed and failed by the kernel; `tests/chaos/strace_points.py` does many of these."""

from __future__ import annotations

import pytest

from chaos.strace_points import Point, Sweep, missing

REASON = missing()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return Sweep(tmp_path_factory.mktemp("strace"), 1)


@pytest.mark.skipif(bool(REASON), reason=REASON)
@pytest.mark.parametrize("point", [
    Point("log", "signal=KILL", "pwrite64", 40), Point("service", "signal=KILL", "pwrite64", 25),
    Point("log", "signal=KILL", "fdatasync", 5), Point("service", "signal=KILL", "fdatasync", 6),
    Point("log", "error=EIO", "fdatasync", 4), Point("service", "error=ENOSPC", "pwrite64", 20),
], ids=lambda point: f"{point.kind} {point.harm} {point.call} {point.number}")
def test_a_real_process_loses_nothing(sweep: Sweep, point: Point) -> None:
    before = sum(sweep.struck.values())
    sweep.run(point)
    assert sum(sweep.struck.values()) == before + 1
