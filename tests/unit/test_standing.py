"""Who a shard is after it was called stale."""

from __future__ import annotations

import pytest

from orchestrator.protocol.standing import Standing, standing_of


@pytest.mark.parametrize(("owner", "expected"), [
    ((0, 4, "me"), Standing.HOLDS),
    ((1, 5, "other"), Standing.MOVED),
    ((0, 5, "successor"), Standing.SUPERSEDED),
    ((0, 3, "dead predecessor"), Standing.SUPERSEDED),
    ((0, 6, "me"), Standing.SUPERSEDED),  # a late taking of a predecessor came between two takings of this process
    ((-1, 0, ""), Standing.MOVED),
])
def test_what_the_log_says_decides(owner: tuple[int, int, str], expected: Standing) -> None:
    assert standing_of(owner, shard=0, incarnation="me", epoch=4) is expected
