"""An app whose data is full of secrets, and whose services are as careless with them as user code may be.

What is secret is made of the word in the environment variable RAYTX_CANARY, so that a search finds it wherever it went.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loguru import logger
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from pydantic import BaseModel, SecretStr

from actors.service import Refused, Service, State
from orchestrator import App, Context, Saga, Step

WORD = os.environ.get("RAYTX_CANARY", "unset")
LEAK = os.environ.get("RAYTX_CANARY_LEAK", "")  # a service that tells its secrets on purpose: the search must find them

TYPED = f"{WORD}typed"  # in a field of the type SecretStr
NAMED = f"{WORD}named"  # under a key that says what it is
TOKEN = f"tok_{WORD}token"  # a text that looks like what it is, wherever it stands
BEARER = f"{WORD}bearer"
ASSIGNED = f"{WORD}assigned"
CARD = "4929 7182 6350 4418"
PLAIN = f"{WORD}plain"  # no secret: what is shown must show it, or the search looks in the wrong places
SECRETS: Mapping[str, str] = {
    "SecretStr": TYPED, "secret key": NAMED, "token": TOKEN, "bearer": BEARER, "assigned": ASSIGNED, "card": CARD,
    "card without spaces": CARD.replace(" ", "")}


class Payment(BaseModel):
    """What a careful caller marks, and what a careless one writes into free text."""

    number: int
    memo: str = PLAIN
    pin: SecretStr = SecretStr(TYPED)
    password: str = NAMED
    card_token: str = TOKEN
    note: str = f"Authorization: Bearer {BEARER} password={ASSIGNED} card {CARD} or {TOKEN}"
    nested: dict[str, list[dict[str, str]]] = {"a": [{"api_key": NAMED, "b": TOKEN}]}


class Shown(BaseModel):
    """A result with secrets in it."""

    memo: str
    pin: SecretStr
    number: int = 0
    client_secret: str = NAMED
    reference: str = f"charged to {TOKEN}"


class Amount(BaseModel):
    """Parsed from what is none, for the sake of pydantic's own text of the error."""

    amount: int


class Vault(Service):
    """Takes most payments; some it refuses, at some it fails the first time."""

    name = "vault"
    failed: set[int] = set()  # noqa: RUF012 - of this process

    def prepare_charge(self, state: State, request: Payment) -> Shown | Refused:
        """Charge, and be careless about it."""
        logger.warning(f"charging {request!r} with {request.card_token}, password={request.password}")
        if LEAK:
            sys.stderr.write(f"{request.pin.get_secret_value()}\n")
        if request.number % 5 == 1:
            return Refused("DECLINED", f"the card {CARD} of {request.card_token} was declined")
        if request.number % 5 == 2 and request.number not in self.failed:
            self.failed.add(request.number)
            raise RuntimeError(f"no answer for {request.card_token}, Authorization: Bearer {BEARER}")
        if request.number % 5 == 3 and request.number not in self.failed:
            self.failed.add(request.number)
            Amount.model_validate({"amount": request.pin.get_secret_value()})
        state[f"charge/{request.number}"] = {"pin": request.pin, "card_token": request.card_token}
        return Shown(memo=request.memo, pin=request.pin)

    def commit_charge(self, state: State, request: Payment, result: Shown) -> None:
        """Keep it."""

    def rollback_charge(self, state: State, request: Payment, result: Shown) -> None:
        """Give it back."""
        del state[f"charge/{request.number}"]


class Post(Service):
    """Tells the customer; some it cannot tell, so that the transaction is parked."""

    name = "post"

    def prepare_pack(self, state: State, request: Payment) -> Shown | Refused:
        """Refuse some, so that what was charged is given back."""
        if request.number % 7 == 4:
            return Refused("NO_BOX", f"no box for {request.card_token}")
        return Shown(memo=request.memo, pin=request.pin)

    def commit_pack(self, state: State, request: Payment, result: Shown) -> None:
        """Send it."""

    def rollback_pack(self, state: State, request: Payment, result: Shown) -> None:
        """Unpack it."""

    def perform_tell(self, state: State, request: Shown) -> Shown | Refused:
        """Tell the customer, or not."""
        if request.number % 11 == 0:
            return Refused("UNDELIVERABLE", f"nobody at {TOKEN}")
        return request


class ToFile(SpanExporter):
    """Writes every span as it is, one line each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append them."""
        with self._path.open("a") as file:
            file.writelines(json.dumps(json.loads(span.to_json())) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


def tracing(role: str, data_dir: Path) -> TracerProvider:
    """A provider for one actor; see the setting `tracing`."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ToFile(data_dir / f"spans-{role}-{os.getpid()}.jsonl")))
    return provider


def _told(context: Context) -> dict[str, Any]:
    charged = context.results["charge"]
    return {"memo": charged["memo"], "pin": charged["pin"], "number": context.input.number}


pay = Saga(
    name="pay", input=Payment, deadline_ms=60_000, example=lambda number: {"number": number},
    business_key=lambda data: f"{data.card_token} {data.number}", steps=[
        Step(name="charge", service="vault", request=lambda context: context.input, compensation="refund"),
        Step(name="pack", service="post", request=lambda context: context.input, compensation="unpack", after=("charge",)),
        Step(name="tell", service="post", request=_told, after_commit=True, after=("charge",))])
app = App([Vault(), Post()], [pay])
