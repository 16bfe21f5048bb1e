"""One Ray head for the whole test session; every test has a deployment, a namespace and a data directory of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.shop import Shop, open_shop
from orchestrator.config import Settings
from orchestrator.head import leave, open_head


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    tests = str(Path(__file__).parent.parent)
    open_head(tmp_path_factory.mktemp("head") / "token", [tests], dashboard=False)
    yield
    leave()


@pytest.fixture
def shop_of(head: None, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    """Opens a shop (the four services, stocked) with given settings; closed and audited after the test."""
    opened: list[Shop] = []

    def make(settings: Settings | None = None, **more) -> Shop:
        opened.append(open_shop(tmp_path / "data", settings or Settings(), **more))
        return opened[-1]

    yield make
    for shop in opened:
        shop.close()


@pytest.fixture
def shop(shop_of: Callable[..., Shop]) -> Shop:
    return shop_of()
