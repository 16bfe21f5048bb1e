"""Definition errors are told at definition and name the step."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from pydantic import BaseModel, StrictInt, field_serializer

from orchestrator.errors import DefiniteError
from orchestrator.protocol.retry import RetryPolicy
from orchestrator.saga import Saga, Step, decode_plain, encode_plain


class Input(BaseModel):
    amount: StrictInt


def step(name: str, **more) -> Step:
    more.setdefault("compensation", "undo")
    return Step(name=name, service="s", request=lambda ctx: {}, **more)


def saga(*steps: Step, **more) -> Saga:
    return Saga(name="sample", input=Input, steps=list(steps), **more)


@pytest.mark.parametrize(("make", "says"), [
    (lambda: saga(step("a", after=["b"]), step("b", after=["a"])), "'a', 'b' wait for each other in a cycle"),
    (lambda: saga(step("a", after=["zz"])), "'a' comes after 'zz'"),
    (lambda: saga(step("a"), step("a")), "two steps are called 'a'"),
    (lambda: step("a", compensation=None), "'a' has neither a compensation nor after_commit"),
    (lambda: step("a", after_commit=True), "'a' is after_commit"),
    (lambda: step("A b"), "'A b'"),
    (lambda: saga(step("a", compensation=None, after_commit=True)), "no step that prepares"),
    (lambda: saga(step("t", compensation=None, after_commit=True), step("a", after=["t"])), "'a' prepares and cannot wait"),
    (lambda: saga(step("a"), version=0), "version"),
    (lambda: saga(step("a"), version=True), "version"),
    (lambda: saga(step("a"), deadline_ms=86_400_001), "deadline_ms"),
])
def test_definition_errors(make, says: str, occurred) -> None:
    with pytest.raises(DefiniteError) as caught:
        make()
    assert caught.value.code == "E_SAGA_DEFINITION"
    assert says in caught.value.message
    occurred("49")


def test_layers_and_ancestors() -> None:
    made = saga(step("c", after=["b"]), step("a"), step("b", after=["a"]))
    assert made.layers == (("a",), ("b",), ("c",))
    assert made.ancestors["c"] == {"a", "b"}


def test_input_round_trip_and_errors() -> None:
    made = saga(step("a"))
    assert decode_plain(made.encode_input({"amount": 3})) == {"amount": 3}
    for bad in ({"amount": 1.5}, {"amount": True}, {}, 7):
        with pytest.raises(DefiniteError) as caught:
            made.encode_input(bad)
        assert caught.value.code == "E_INVALID_INPUT"
    with pytest.raises(DefiniteError) as caught:
        made.decode_input(b"\xc1")
    assert caught.value.code == "E_INVALID_INPUT"


@pytest.mark.parametrize(
    "bad", [{"backoff_ms": 0}, {"attempts_max": -1}, {"attempt_timeout_ms": 1.5}, {"backoff_ms_max": True}])
def test_retry_policy_refuses(bad) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        RetryPolicy(**bad)


def test_retry_delays_are_jittered_capped_and_repeatable() -> None:
    policy = RetryPolicy(backoff_ms=10, backoff_ms_max=100)
    delays = {policy.delay_ms(attempt, salt) for attempt in range(1, 60) for salt in "abc"}
    assert max(delays) <= 100
    assert len(delays) > 20
    assert policy.delay_ms(3, "x") == policy.delay_ms(3, "x")
    assert RetryPolicy(attempts_max=3).exhausted(3)
    assert not RetryPolicy().exhausted(10_000)


def test_models_encode_as_model_dump_would() -> None:
    class Inner(BaseModel):
        when: datetime
        price: Decimal

    class Outer(BaseModel):
        items: list[Inner]
        note: str | None = None

    class Custom(BaseModel):
        secret: str

        @field_serializer("secret")
        def hide(self, _: str) -> str:
            return "***"

    outer = Outer(items=[Inner(when=datetime(2026, 1, 2, tzinfo=UTC), price=Decimal("1.50"))])
    assert encode_plain(outer) == msgspec.msgpack.encode(outer.model_dump())
    assert encode_plain({"deep": [outer]}) == msgspec.msgpack.encode({"deep": [outer.model_dump()]})
    assert decode_plain(encode_plain(Custom(secret="x"))) == {"secret": "***"}
    with pytest.raises(TypeError, match="object is not plain data"):
        encode_plain({"x": object()})
