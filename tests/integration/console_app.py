"""Letters: posted after the commit by an office that refuses them while it is closed, and those to nobody for ever."""

from __future__ import annotations

from pydantic import BaseModel

from actors.service import Refused, Service, State
from orchestrator import App, Saga, Step


class Letter(BaseModel):
    letter: str
    to: str
    card_token: str = "tok_canary"


class Opening(BaseModel):
    office: str


class Office(Service):
    """Holds what is written, and posts it."""

    name = "office"

    def prepare_write(self, state: State, request: Letter) -> Letter:
        state[f"letter/{request.letter}"] = request.to
        return request

    def commit_write(self, state: State, request: Letter, result: Letter) -> None: ...

    def rollback_write(self, state: State, request: Letter, result: Letter) -> None:
        del state[f"letter/{request.letter}"]

    def perform_post(self, state: State, request: Letter) -> Letter | Refused:
        if request.to == "nobody":
            return Refused("NO_SUCH_ADDRESSEE", f"<b>{request.to}</b> does not live here; token={request.card_token}")
        if not state.get("open"):
            return Refused("CLOSED", "the office is closed")
        return request

    def prepare_open(self, state: State, request: Opening) -> Opening:
        state["open"] = True
        return request

    def commit_open(self, state: State, request: Opening, result: Opening) -> None: ...

    def rollback_open(self, state: State, request: Opening, result: Opening) -> None:
        del state["open"]


send_letter = Saga(name="send_letter", input=Letter, business_key=lambda letter: letter.letter, steps=[
    Step(name="write", service="office", request=lambda context: context.input, compensation="tear up"),
    Step(name="post", service="office", request=lambda context: context.input, after=["write"], after_commit=True)])
open_office = Saga(name="open_office", input=Opening, steps=[
    Step(name="open", service="office", request=lambda context: context.input, compensation="close")])
app = App([Office()], [send_letter, open_office])
