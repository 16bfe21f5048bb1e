"""Operations whose every handler call somebody watches: the contract check of `orchestrator.testing` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.operation import Operation
from orchestrator.local import HandlerCall
from orchestrator.protocol.messages import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from actors.operation import State
    from orchestrator.local import Watch
    from orchestrator.protocol.messages import Command


@dataclass(frozen=True, slots=True, kw_only=True)
class _WatchedOperation(Operation):
    inner: Operation
    watch: Watch

    def start(self, command: Command, state: State, request: BaseModel, answer: Any) -> Any:
        call = HandlerCall(
            "prepare" if self.prepares else "perform", self.name, command.transaction, command.step, request, None)
        return self.watch(call, lambda: self.inner.start(command, state, request, answer))

    def finish(self, command: Command, state: State, request: BaseModel, result: BaseModel) -> None:
        part = "commit" if command.kind is Kind.COMMIT else "rollback"
        call = HandlerCall(part, self.name, command.transaction, command.step, request, result)
        self.watch(call, lambda: self.inner.finish(command, state, request, result))


def watched(operations: Mapping[str, Operation], watch: Watch) -> dict[str, Operation]:
    """The operations, each call of a handler (but not of an asynchronous part) made by the watch."""
    return {
        name: _WatchedOperation(
            name=name, prepares=inner.prepares, request=inner.request, result=inner.result, run=inner.run,
            commit=inner.commit, rollback=inner.rollback, ask=inner.ask, inner=inner, watch=watch)
        for name, inner in operations.items()}
