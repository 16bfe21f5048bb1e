"""An app whose compensations fail until they are mended: what is parked stays so until somebody looks."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from actors.service import Refused, Service, State
from orchestrator import App, RetryPolicy, Saga, Step


class Input(BaseModel):
    mended: str  # a file: once it is there, compensations succeed
    refuse: bool = True


IMPATIENT = RetryPolicy(attempt_timeout_ms=500, backoff_ms=20, backoff_ms_max=200, attempts_max=2)


class Vault(Service):
    """Holds what it cannot give back."""

    name = "vault"

    def prepare_keep(self, state: State, request: Input) -> Input:
        state["held"] = state.get("held", 0) + 1
        return request

    def commit_keep(self, state: State, request: Input, result: Input) -> None:
        state["held"] -= 1

    def rollback_keep(self, state: State, request: Input, result: Input) -> None:
        if not Path(request.mended).exists():
            raise RuntimeError("the door is stuck")
        state["held"] -= 1


class Gate(Service):
    """Refuses whom it is told to."""

    name = "gate"

    def prepare_enter(self, state: State, request: Input) -> Input | Refused:
        return Refused("CLOSED", "nobody enters") if request.refuse else request

    def commit_enter(self, state: State, request: Input, result: Input) -> None: ...

    def rollback_enter(self, state: State, request: Input, result: Input) -> None: ...


def _kept(name: str) -> Step:
    return Step(name=name, service="vault", operation="keep", request=lambda context: context.input, compensation="give back",
                finish_retry=IMPATIENT)


visit = Saga(name="visit", input=Input, steps=[
    _kept("coat"), _kept("bag"),
    Step(name="enter", service="gate", request=lambda context: context.input, after=("coat", "bag"), compensation="leave")])
app = App([Vault(), Gate()], [visit])
