"""What a handler asks of the process it runs in, and what it leaves on its service, is seen; what is harmless is not."""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import random
import secrets
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum

import pytest
from loguru import logger

from orchestrator.testing.contract.ambient import Ambient
from orchestrator.testing.contract.attributes import Attributes


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int


@pytest.mark.parametrize(("code", "says"), [
    (time.time, "the time (time) in "), (time.time_ns, "the time (time_ns)"), (time.monotonic, "the time (monotonic)"),
    (lambda: datetime.now(UTC), "the time (now) in test_surroundings.py, line "), (date.today, "the time (today)"),
    (random.random, "chance (random)"), (lambda: random.choice("ab"), "chance (getrandbits)"),
    (lambda: random.SystemRandom().random(), "chance (urandom)"), (uuid.uuid4, "chance (urandom)"),
    (secrets.token_hex, "chance (urandom)"), (lambda: hash("a"), "what differs between processes (hash)"),
    (lambda: id(Colour), "what differs between processes (id)"),
])
def test_what_a_replay_cannot_give_again_is_seen(code, says):
    ambient = Ambient()
    ambient.run(code)
    asked = ambient.take()
    assert asked[0].startswith(says)
    assert ambient.take() == []


@pytest.mark.parametrize("code", [
    lambda: random.Random("order-1").random(), lambda: datetime(2026, 1, 2, tzinfo=UTC), lambda: time.gmtime(5),
    lambda: hashlib.blake2b(b"x").hexdigest(), lambda: {Point(1): Colour.RED, Colour.RED: 1}, lambda: copy.deepcopy([{}]),
    lambda: logging.getLogger("shop").warning("a line"), lambda: logger.info("a line"), lambda: uuid.UUID(int=5)])
def test_what_is_the_same_in_every_replay_is_not(code):
    ambient = Ambient()
    ambient.run(code)
    assert ambient.take() == []


def test_a_profiler_that_was_there_stays():
    def other(*_):
        return None

    before = sys.getprofile()
    sys.setprofile(other)
    try:
        with pytest.raises(ZeroDivisionError):
            Ambient().run(lambda: 1 // 0)
        assert sys.getprofile() is other
    finally:
        sys.setprofile(before)


@dataclass
class Inner:
    names: set[str] = field(default_factory=set)


class Owner:
    shared: list[int] = []  # noqa: RUF012 - the mistake to be found
    LIMIT = 3

    def __init__(self) -> None:
        self.plain, self.cache, self.deep = 1, {}, [{"a": [Inner()]}]
        self.numbers, self.dice, self.lock = itertools.count(), random.Random(1), threading.Lock()
        self.code = [len, Owner, self.method]
        self.itself = self

    def method(self) -> None: ...


@pytest.mark.parametrize(("change", "name"), [
    (lambda o: setattr(o, "plain", True), "plain"), (lambda o: o.cache.update(a=1), "cache"),
    (lambda o: o.deep[0]["a"][0].names.add("x"), "deep"), (lambda o: next(o.numbers), "numbers"),
    (lambda o: o.dice.random(), "dice"), (lambda o: o.shared.append(1), "shared"),
    (lambda o: setattr(o, "new", None), "new"), (lambda o: delattr(o, "cache"), "cache")])
def test_a_change_of_an_attribute_is_seen(change, name):
    owner = Owner()
    seen = Attributes(owner, ignored=["itself"])
    assert seen.changed() == []
    change(owner)
    assert seen.changed() == [name]
    assert seen.changed() == []
    Owner.shared.clear()


def test_what_may_change_is_not_looked_at_and_a_circle_ends():
    owner = Owner()
    seen = Attributes(owner, ignored=["cache"])
    owner.cache["a"] = 1
    assert seen.changed() == []
    owner.plain = 2
    assert "plain" in seen.changed()
