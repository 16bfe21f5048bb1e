"""An app that is stuck once where it is told to: in a service's handler, or in a shard's request builder."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel

from actors.service import Service, State
from orchestrator import App, Saga, Step
from orchestrator.saga import Context


class Input(BaseModel):
    where: str
    once: str  # a file that is not there yet


class Request(BaseModel):
    once: str


def stick(once: str) -> None:
    """For ever, the first time."""
    if once and not Path(once).exists():
        Path(once).touch()
        time.sleep(3_600)


class Drawer(Service):
    """Holds nothing."""

    name = "drawer"

    def prepare_put(self, state: State, request: Request) -> Request:
        stick(request.once)
        state["puts"] = state.get("puts", 0) + 1
        return request

    def commit_put(self, state: State, request: Request, result: Request) -> None: ...

    def rollback_put(self, state: State, request: Request, result: Request) -> None: ...


def build(context: Context) -> Request:
    if context.input.where == "builder":
        stick(context.input.once)
        return Request(once="")
    return Request(once=context.input.once)


put = Saga(name="put", input=Input, steps=[
    Step(name="put", service="drawer", request=build, compensation="take out")])
app = App([Drawer()], [put])
