"""One saga in three states of a program: its first version alone, both side by side, and the second alone.

Every step waits for somebody outside: it is held open for as long as a file is missing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import BaseModel

from actors.service import Service, State
from orchestrator import App, Context, Saga, Step

POLL_S = 0.02  # a file that appears is no event


class First(BaseModel):
    gate: str


class Second(First):
    colour: str


class Request(BaseModel):
    gate: str
    what: str


class Done(BaseModel):
    what: str


class Press(Service):
    """Prints what it is told to, once the gate is open."""

    name = "press"

    async def ask_print(self, request: Request) -> str:
        while not Path(request.gate).exists():  # noqa: ASYNC240 - it is a test
            await asyncio.sleep(POLL_S)
        return "open"

    def prepare_print(self, state: State, request: Request, answer: str) -> Done:
        state[f"held/{request.what}"] = answer
        return Done(what=request.what)

    def commit_print(self, state: State, request: Request, result: Done) -> None:
        state[f"printed/{result.what}"] = 1

    def rollback_print(self, state: State, request: Request, result: Done) -> None:
        del state[f"held/{request.what}"]


def _step(name: str, what: str, *after: str) -> Step:
    def request(context: Context) -> Request:
        return Request(gate=context.input.gate, what=what.format(getattr(context.input, "colour", "")))

    return Step(name=name, service="press", operation="print", request=request, compensation="pulp", after=after)


first = Saga(name="book", version=1, input=First, deadline_ms=600_000, steps=[_step("text", "plain text")])
second = Saga(name="book", version=2, input=Second, deadline_ms=600_000, steps=[
    _step("text", "{} text"), _step("cover", "{} cover", "text")])
old = App([Press()], [first])
both = App([Press()], [second, first])
new = App([Press()], [second])
