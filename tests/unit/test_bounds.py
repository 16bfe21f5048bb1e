"""What comes from outside is bounded in length and depth, and holds nothing that a terminal would act on."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, StrictInt

from actors.ledger import RowState
from actors.operation import NotYet, Refused
from actors.runner import BatchRunner, Work
from actors.service import Service, State
from actors.store import Retention, Store, create_store
from orchestrator.app import App
from orchestrator.errors import DefiniteError
from orchestrator.logs import REDACTED, redact
from orchestrator.protocol.admission import check_key
from orchestrator.protocol.bounds import (
    CODE_CHARS_MAX,
    MESSAGE_CHARS_MAX,
    NESTING_MAX,
    REQUEST_BYTES_MAX,
    RESULT_BYTES_MAX,
    STEPS_MAX,
    clipped,
    has_control_characters,
    is_deeper,
    is_open_ended,
    shown,
)
from orchestrator.protocol.desk import check_act
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import ClientBatch, Command, Kind, LookupRequest, Status, SubmitRequest
from orchestrator.saga import INPUT_BYTES_MAX, Saga, Step, encode_plain
from orchestrator.submission import read_submissions
from unit.core_alone import WAITER, Alone, outcomes, saga, step

ESCAPE = "\x1b[2J"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class Typed(BaseModel):
    amount: StrictInt = 1
    names: list[str] = []
    prices: dict[str, int] = {}
    inner: Inner | None = None


class Inner(BaseModel):
    pair: tuple[int, str] = (1, "")


class Loose(BaseModel):
    data: Any = None


class Tree(BaseModel):
    children: list[Tree] = []


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


class Untyped(BaseModel):
    data: dict = {}


class Called(BaseModel):
    back: Callable[[], int] | None = None  # a type that JSON has no schema for


class Anything(BaseModel):
    things: list = []


class Price(BaseModel):
    amount: Decimal = Decimal(1)


def saga_of(model: type[BaseModel], count: int = 1) -> Saga:
    steps = [
        Step(name=f"s{n}", service="till", operation="put", request=lambda _: {}, compensation="undo") for n in range(count)]
    return Saga(name="sample", input=model, steps=steps)


def refused(call: Any, *arguments: Any, **named: Any) -> tuple[str, str]:
    with pytest.raises(DefiniteError) as refusal:
        call(*arguments, **named)
    return refusal.value.code, refusal.value.message


@pytest.mark.parametrize(("key", "problem"), [
    ("", "1 to 256 bytes"), ("k" * 257, "1 to 256 bytes"), ("é" * 129, "1 to 256 bytes"), ("\ud800", "not valid UTF-8"),
    (b"k", "must be text"), (None, "must be text"), ("a\nb", "control"), (ESCAPE, "control"), ("\x00", "control"),
    ("\x9b31m", "control"), ("a\u202eb", "control"), ("a\u2028b", "control"),
])
def test_a_key_that_is_refused(key: object, problem: str) -> None:
    assert problem in str(check_key(key))


@pytest.mark.parametrize("key", ["k", "k" * 256, "é" * 128, "order 1", "\u3000 \u00a0", "👩‍👩‍👧"])
def test_a_key_that_is_fine(key: str) -> None:
    assert check_key(key) is None


@pytest.mark.parametrize(("who", "reason", "problem"), [
    ("", "why", "who"), ("a" * 10_000, "why", "who"), (ESCAPE, "why", "who"), ("ada", "x" * 100_000, "reason"),
    ("ada", ESCAPE, "reason"), ("ada", 5, "reason"), ("ad\udce9", "why", "who"), ("ada", "caf\udce9", "reason"),
])
def test_an_act_that_is_refused(who: object, reason: object, problem: str) -> None:
    assert str(check_act(who, reason)).startswith(f"{problem}: must be")
    assert check_act("ada", "because\nof that") is None


@pytest.mark.parametrize("step", ["x" * 65, "a\nb", "caf\udce9", 5])
def test_a_step_that_is_none(step: object) -> None:
    assert str(check_act("ada", "why", step)).startswith("step: must be")
    assert check_act("ada", "why", "x" * 64) is None


def test_an_unknown_saga_is_not_echoed_at_length() -> None:
    alone = Alone()
    effects = alone.core.submit([(WAITER, SubmitRequest(1, "k", "x" * 10_000, b"", 0))], alone.now_ms)
    (lookup,) = effects.lookups
    (refusal,) = outcomes(alone.core.loaded(lookup, None, alone.now_ms))
    assert refusal.code == "E_UNKNOWN_SAGA"
    assert len(refusal.message) < 200


def test_what_a_business_key_does_it_does_to_the_caller_first() -> None:
    called = []

    def business_key(data: object) -> str:
        called.append(data)
        raise ZeroDivisionError

    with pytest.raises(DefiniteError, match="its business_key function raised ZeroDivisionError"):
        saga(business_key=business_key).encode_input({})
    assert len(called) == 1


def test_a_business_key_is_cut_and_fit_to_be_shown() -> None:
    alone = Alone(saga(business_key=lambda _: f"order{ESCAPE}" + "x" * 1_000))
    (begun,) = alone.submit().records
    assert begun.business_key.startswith("order\\x1b[2Jxxx")
    assert len(begun.business_key) == 256


@pytest.mark.parametrize("model", [Loose, Tree, Extra, Untyped, Anything, Called])
def test_models_that_leave_the_depth_to_the_caller(model: type[BaseModel]) -> None:
    assert is_open_ended(model)


@pytest.mark.parametrize("model", [Typed, Inner, Price])
def test_models_that_do_not(model: type[BaseModel]) -> None:
    assert not is_open_ended(model)


def test_levels_are_counted() -> None:
    assert [is_deeper(nested(levels), 3) for levels in (0, 3, 4)] == [False, False, True]
    assert is_deeper({"a": {"b": {}}, "c": {"d": {"e": {"f": 1}}}}, 3)


@pytest.mark.parametrize("levels", [NESTING_MAX, 2_000, 100_000])
def test_a_deep_input_is_refused_by_client_and_shard(levels: int) -> None:
    code, message = refused(saga_of(Loose).encode_input, {"data": nested(levels)})
    assert (code, message) == ("E_INVALID_INPUT", f"sample: the input is nested deeper than {NESTING_MAX} levels")
    payload = b"\x81\xa4data" + b"\x91" * levels + b"\x01"  # as a client without these checks would send it
    code, message = refused(saga_of(Loose).decode_input, payload)
    assert (code, f"deeper than {NESTING_MAX}" in message) == ("E_INVALID_INPUT", True)


def test_an_input_that_is_just_deep_enough() -> None:
    payload = saga_of(Loose).encode_input({"data": nested(NESTING_MAX - 1)})
    assert saga_of(Loose).decode_input(payload) == Loose(data=nested(NESTING_MAX - 1))


def test_an_input_that_holds_itself() -> None:
    data: list[Any] = []
    data.append(data)
    assert refused(saga_of(Loose).encode_input, {"data": data})[0] == "E_INVALID_INPUT"


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", object(), {1, 2j}, Exception])
def test_an_input_that_is_no_plain_data(value: object) -> None:
    assert refused(saga_of(Loose).encode_input, {"data": value})[0] == "E_INVALID_INPUT"


def test_an_input_that_is_too_large() -> None:
    code, message = refused(saga_of(Loose).encode_input, {"data": "x" * INPUT_BYTES_MAX})
    assert code == "E_TOO_LARGE"
    assert len(message) < 200


def test_a_deep_file_of_transactions_is_refused() -> None:
    app = App([Till()], [saga_of(Loose)])
    for levels in (NESTING_MAX, 100_000):
        text = f'{{"saga": "sample", "input": {{"data": {"[" * levels}1{"]" * levels}}}}}'
        code, message = refused(read_submissions, text, app)
        assert (code, "nested" in message) == ("E_INVALID_INPUT", True)
    assert len(read_submissions(json.dumps({"saga": "sample", "input": {"data": nested(60)}}), app)) == 1


def test_a_saga_has_so_many_steps_at_most() -> None:
    assert len(saga_of(Typed, STEPS_MAX).steps) == STEPS_MAX
    code, message = refused(saga_of, Typed, STEPS_MAX + 1)
    assert (code, "129 steps, at most 128" in message) == ("E_SAGA_DEFINITION", True)


def test_a_request_that_is_too_long_is_a_builder_that_failed() -> None:
    alone = Alone(saga(step("a", request=lambda _: {"x": "x" * REQUEST_BYTES_MAX})))
    effects = alone.stored(alone.begun())
    assert [one.code for one in outcomes(effects)] == ["E_BUILDER_FAILED"]


@pytest.mark.parametrize("code", ["", "x" * (CODE_CHARS_MAX + 1), "A\nB", ESCAPE])
def test_a_refusal_needs_a_plain_code(code: str) -> None:
    with pytest.raises(ValueError, match="plain word"):
        Refused(code)


def test_what_a_service_says_is_cut_and_fit_to_be_shown() -> None:
    assert Refused("NO", f"gone{ESCAPE}").message == "gone\\x1b[2J"
    assert len(Refused("NO", "x" * 5_000).message) == MESSAGE_CHARS_MAX
    assert Refused("NO", "x" * 5_000).message.endswith("... (5000 characters)")
    assert NotYet(ESCAPE).reason == "\\x1b[2J"


def test_a_result_that_is_too_long_is_a_no_and_changes_nothing(tmp_path: Path) -> None:
    create_store(tmp_path / "till.sqlite", "till")
    store = Store(tmp_path / "till.sqlite", "till", "run")
    try:
        runner = BatchRunner("till", Till().bound, store)
        for kind, operation in ((Kind.PREPARE, "put"), (Kind.PERFORM, "tell")):
            command = Command(make_id(9, 1, 1, kind), "s", kind, 1, 1, operation, encode_plain({"size": RESULT_BYTES_MAX}))
            (outcome,) = runner.run([Work(command, "shard-0")], Retention(), 1_000)
            assert outcome.reply is not None
            assert (outcome.reply.status, outcome.reply.code) == (Status.NO, "E_TOO_LARGE")
        (row,) = store.load([(make_id(9, 1, 1, kind), "s") for kind in (Kind.PREPARE, Kind.PERFORM)]).values()
        assert row.state is RowState.REFUSED  # a perform's refusal writes none
        assert store.value("n") is None
    finally:
        store.close()


def test_what_a_service_raises_is_cut(tmp_path: Path) -> None:
    create_store(tmp_path / "till.sqlite", "till")
    store = Store(tmp_path / "till.sqlite", "till", "run")
    try:
        command = Command(make_id(9, 1, 1, 1), "s", Kind.PREPARE, 1, 1, "put", encode_plain({"size": -1}))
        (outcome,) = BatchRunner("till", Till().bound, store).run([Work(command, "shard-0")], Retention(), 1_000)
        assert outcome.reply is not None
        assert (outcome.reply.status, len(outcome.reply.message)) == (Status.ERROR, MESSAGE_CHARS_MAX)
        assert outcome.reply.message.startswith("RuntimeError: \\x1b[2Jxxx")
    finally:
        store.close()


def test_texts() -> None:
    assert [has_control_characters(text) for text in ("plain é", "a\tb", "\x7f", "\u2066")] == [False, True, True, True]
    assert shown("a\nb\tc\rd\x00\u202e") == "a\nb\tc\\rd\\x00\\u202e"
    assert clipped("short") == "short"
    assert clipped("x" * 50, 10) == "... (50 characters)"


def test_what_is_shown_is_never_deep_nor_acted_upon() -> None:
    assert redact({"a": ESCAPE, ESCAPE: 1}) == {"a": "\\x1b[2J", "\\x1b[2J": 1}
    assert REDACTED in json.dumps(redact(nested(100_000)))


class Size(BaseModel):
    size: int = 0


class Text(BaseModel):
    text: str


class Till(Service):
    """Returns what is asked for."""

    name = "till"

    def prepare_put(self, state: State, request: Size) -> Text:
        if request.size < 0:
            raise RuntimeError(ESCAPE + "x" * 5_000)
        state["n"] = state.get("n", 0) + 1
        return Text(text="x" * request.size)

    def commit_put(self, state: State, request: Size, result: Text) -> None: ...

    def rollback_put(self, state: State, request: Size, result: Text) -> None: ...

    def perform_tell(self, state: State, request: Size) -> Text:
        return self.prepare_put(state, request)


def test_a_batch_that_asks_for_nothing_is_empty() -> None:
    assert ClientBatch(1, "client", []).empty
    assert not ClientBatch(1, "client", [], lookups=[LookupRequest(1, "k", "")]).empty
