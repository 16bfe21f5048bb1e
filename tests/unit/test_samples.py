"""Sample inputs of sagas and opening books of apps: checked at first use, and those of the shipped app are good."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, StrictInt

from actors.orders import app, place_order
from orchestrator.app import App
from orchestrator.errors import DefiniteError
from orchestrator.saga import Saga, Step


class Input(BaseModel):
    amount: StrictInt


def saga(**more) -> Saga:
    steps = [Step(name="a", service="s", request=lambda ctx: {}, compensation="undo")]
    return Saga(name="sample", input=Input, steps=steps, **more)


def test_an_example_is_plain_data_or_the_model() -> None:
    assert saga(example=lambda n: {"amount": n}).sample(3) == Input(amount=3)
    assert saga(example=lambda n: Input(amount=n)).sample(3) == Input(amount=3)


@pytest.mark.parametrize(("made", "says"), [
    (saga(), "saga 'sample' has no example: give it"),
    (saga(example=lambda n: {"amount": "1"}), "its example 5 is no input of it: amount: "),
    (saga(example=lambda n: 1 // 0), "its example 5 raised ZeroDivisionError"),
])
def test_a_wrong_example_is_told_at_first_use(made: Saga, says: str) -> None:
    with pytest.raises(DefiniteError, match=says) as caught:
        made.sample(5)
    assert caught.value.code == "E_SAGA_DEFINITION"


@pytest.mark.parametrize(("opening", "says"), [
    ([("open_books", {})], "opening 0 of the app: open_books: input: .*give at least one line"),
    ([app.opening[0], ("nothing", {})], "opening 1 of the app: saga: no 'nothing' in this app"),
    ([{"stock": []}], r"opening 0 of the app: write \(saga name, input\)"),
])
def test_wrong_opening_books_are_told_at_first_use(opening, says: str) -> None:
    made = App(app.services, app.sagas, opening)
    with pytest.raises(DefiniteError, match=says) as caught:
        made.opening_inputs()
    assert caught.value.code == "E_SAGA_DEFINITION"


def test_the_shipped_examples_are_inputs_and_no_two_alike() -> None:
    assert [made.name for made, _ in app.opening_inputs()] == ["open_books", "place_order"]
    for made in app.sagas:
        encoded = [made.encode_input(made.sample(number)) for number in range(64)]
        assert len(set(encoded)) == 64
    assert len({place_order.sample(number).order_id for number in range(64)}) == 64
