"""A field that is typed as a secret stays one: in inputs, requests, results, state, and wherever they are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from actors.runner import BatchRunner, Work
from actors.service import Service, State
from actors.state import BatchState, OperationState
from actors.store import Retention, Store, create_store
from orchestrator.logs import REDACTED, redact
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.messages import Command, Kind, Status
from orchestrator.saga import Saga, decode_plain, encode_plain
from orchestrator.timeline import _plain
from unit.core_alone import Alone, commands, step

CANARY = "correct horse battery staple"


class Login(BaseModel):
    user: str = "ada"
    pin: SecretStr
    key: SecretBytes = SecretBytes(b"\x00\xff")


LOGIN = Login(pin=SecretStr(CANARY))


def test_a_secret_is_stored_and_comes_back_as_one() -> None:
    plain = decode_plain(encode_plain(LOGIN))
    assert (plain["pin"], plain["key"]) == (SecretStr(CANARY), SecretBytes(b"\x00\xff"))
    assert Login.model_validate(plain) == LOGIN
    assert encode_plain(Login.model_validate(plain)) == encode_plain(LOGIN)  # so that fingerprints agree


def test_nothing_that_shows_plain_data_tells_it() -> None:
    plain = decode_plain(encode_plain({"login": LOGIN, "list": [SecretStr(CANARY)]}))
    for shown in (str(plain), repr(plain), json.dumps(redact(plain)), json.dumps(redact(_plain(encode_plain(plain))))):
        assert CANARY not in shown
    assert redact(plain)["login"] == {"user": "ada", "pin": REDACTED, "key": REDACTED}


def test_a_plain_field_is_no_secret() -> None:  # so that the check above can fail
    assert CANARY in json.dumps(redact({"login": {"pin": CANARY}}))


def test_an_unknown_extension_is_refused() -> None:
    with pytest.raises(ValueError, match="extension 9 is not known"):
        decode_plain(msgspec.msgpack.encode(msgspec.msgpack.Ext(9, b"x")))


def test_state_keeps_secrets() -> None:
    state = OperationState(BatchState(lambda _: None, list))
    state["login"] = {"pin": SecretStr(CANARY)}
    assert state["login"]["pin"].get_secret_value() == CANARY
    state["model"] = LOGIN
    assert CANARY not in str(state["model"])
    with pytest.raises(TypeError, match="not plain data"):
        state["odd"] = {"x": object()}


def test_a_secret_goes_from_the_input_through_a_result_into_another_request() -> None:
    def second(context: Any) -> dict[str, Any]:
        return {"pin": context.results["a"]["pin"]}

    first_step = step("a", request=lambda context: {"pin": context.input.pin})
    alone = Alone(Saga(name="sample", input=Login, steps=(first_step, step("b", "a", request=second))))
    (first,) = commands(alone.begun(data=LOGIN))
    assert decode_plain(first.request)["pin"] == SecretStr(CANARY)
    (follows,) = commands(alone.say(first, Status.YES, result=first.request))
    assert decode_plain(follows.request)["pin"] == SecretStr(CANARY)


class Vault(Service):
    """Raises what a careless handler raises."""

    name = "vault"

    def prepare_open(self, state: State, request: Login) -> Login:
        Number.model_validate({"number": request.pin.get_secret_value()})
        return request

    def commit_open(self, state: State, request: Login, result: Login) -> None: ...

    def rollback_open(self, state: State, request: Login, result: Login) -> None: ...


class Number(BaseModel):
    number: int


def test_the_text_of_a_validation_error_does_not_tell_what_was_given(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=CANARY) as failure:  # pydantic's own text does
        Number.model_validate({"number": CANARY})
    assert CANARY not in redact(str(failure.value))
    assert f"input_value={REDACTED}, input_type=str" in redact(str(failure.value))
    create_store(tmp_path / "vault.sqlite", "vault")
    store = Store(tmp_path / "vault.sqlite", "vault", "run")
    try:
        command = Command(make_id(9, 1, 1, 1), "s", Kind.PREPARE, 1, 1, "open", encode_plain(LOGIN))
        (outcome,) = BatchRunner("vault", Vault().bound, store).run([Work(command, "shard-0")], Retention(), 1_000)
        assert outcome.reply is not None
        assert outcome.reply.code == "E_SERVICE_ERROR"
        assert CANARY not in outcome.reply.message
    finally:
        store.close()
