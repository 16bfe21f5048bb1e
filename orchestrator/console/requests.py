"""The acts that the attached process carries out for the console, from plain data to plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.operate.acts import Operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.client import Client


def carry_out(client: Client, act: str, arguments: dict[str, Any]) -> Any:
    """Carry out one act.

    Args:
        client: attached.
        act: retry, cancel, resolve, pause, resume or acts.
        arguments: of the operator's method of that name.

    Returns:
        Plain data.

    Raises:
        DefiniteError: E_INVALID_INPUT, or what the act says.
        IndefiniteError: what the act says.
    """
    method = _METHODS.get(act)
    if method is None:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"act: there is no {act!r}; choose among {', '.join(_METHODS)}")
    return msgspec.to_builtins(method(Operator(client), arguments), enc_hook=str)


def _retry(operator: Operator, arguments: dict[str, Any]) -> Any:
    return operator.retry(arguments.pop("transactions"), **arguments)


def _cancel(operator: Operator, arguments: dict[str, Any]) -> Any:
    return operator.cancel(arguments.pop("transactions"), **arguments)


_METHODS: dict[str, Callable[[Operator, dict[str, Any]], Any]] = {
    "retry": _retry,
    "cancel": _cancel,
    "resolve": lambda operator, arguments: operator.resolve(**arguments),
    "pause": lambda operator, arguments: operator.pause(**arguments),
    "resume": lambda operator, arguments: operator.resume(**arguments),
    "acts": lambda operator, arguments: operator.acts(**arguments),
}
