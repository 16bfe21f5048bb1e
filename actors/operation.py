"""One operation of a service: its handlers with their models, found by the methods' names and checked once."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Union

from pydantic import BaseModel

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol.bounds import CODE_CHARS_MAX, clipped, has_control_characters, shown
from orchestrator.protocol.messages import Command, Kind

State = MutableMapping[str, Any]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_HANDLER = re.compile(r"(prepare|commit|rollback|perform|ask)_([a-z][a-z0-9_]{0,63})")


@dataclass(frozen=True, slots=True)
class Refused:
    """A prepare's no, or a perform's permanent refusal: a business answer, returned and not raised.

    Args:
        code: a stable plain word such as OUT_OF_STOCK, at most 64 characters; the outcome carries it.
        message: for a person; it is stored and shown, so it holds no secrets. What is over 1,000 characters is cut off.

    Raises:
        ValueError: the code is none.
    """

    code: str
    message: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.code) <= CODE_CHARS_MAX or has_control_characters(self.code):
            raise ValueError(f"a refusal's code is a plain word of 1 to {CODE_CHARS_MAX} characters")
        object.__setattr__(self, "message", clipped(shown(self.message)))


@dataclass(frozen=True, slots=True)
class NotYet:
    """Neither yes nor no so far: nothing is written and the operation is asked again until the deadline."""

    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", clipped(shown(self.reason)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The handlers of one operation, bound to their service.

    Attributes:
        name: without the prefix.
        prepares: whether it votes (prepare, commit, rollback); otherwise it performs.
        request: model of the request.
        result: model of what prepare or perform returns.
        run: prepare or perform; takes (state, request), and the answer where there is an `ask`.
        commit: takes (state, request, result).
        rollback: takes (state, request, result).
        ask: the asynchronous part that runs before `run` and touches no state.
    """

    name: str
    prepares: bool
    request: type[BaseModel]
    result: type[BaseModel]
    run: Callable[..., Any]
    commit: Callable[..., None] | None = None
    rollback: Callable[..., None] | None = None
    ask: Callable[[Any], Awaitable[Any]] | None = None

    @property
    def request_keeps(self) -> bool:
        """Whether a request that was read stays as it is, so that commit and rollback may get the one of the prepare."""
        return bool(self.request.model_config.get("frozen"))

    @property
    def asks(self) -> bool:
        """Whether something must be waited for before `start`."""
        return self.ask is not None

    async def inquire(self, command: Command, request: BaseModel) -> Any:  # noqa: ARG002 - a wrapper needs the command
        """The asynchronous part's answer."""
        assert self.ask is not None
        return await self.ask(request)

    def start(self, command: Command, state: State, request: BaseModel, answer: Any) -> Any:  # noqa: ARG002 - as above
        """Prepare or perform: the result, `Refused` or `NotYet`."""
        return self.run(state, request) if self.ask is None else self.run(state, request, answer)

    def finish(self, command: Command, state: State, request: BaseModel, result: BaseModel) -> None:
        """Commit or roll back what was prepared."""
        handler = self.commit if command.kind is Kind.COMMIT else self.rollback
        assert handler is not None
        handler(state, request, result)


def operation_names(cls: type) -> dict[str, bool]:
    """Operations of a service class by name, True where it prepares; complete sets of methods or an error.

    Raises:
        DefiniteError: E_SERVICE_DEFINITION, naming class and method.
    """
    parts: dict[str, set[str]] = {}
    for attribute in dir(cls):
        match = _HANDLER.fullmatch(attribute)
        if match is not None and callable(getattr(cls, attribute)):
            parts.setdefault(match[2], set()).add(match[1])
    for name, have in parts.items():
        _check_complete(cls, name, have)
    return {name: "prepare" in have for name, have in sorted(parts.items())}


def bind_operations(service: object) -> dict[str, Operation]:
    """The operations of a service instance with their models.

    Raises:
        DefiniteError: E_SERVICE_DEFINITION, naming class and method.
    """
    return {name: _bind(service, name, prepares) for name, prepares in operation_names(type(service)).items()}


def check_service_name(cls: type, name: object) -> None:
    """Refuse a service without a usable name.

    Raises:
        DefiniteError: E_SERVICE_DEFINITION.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(cls, "name", f"must be lower-case letters, digits and _, at most 64; got {name!r}")


def _check_complete(cls: type, name: str, have: set[str]) -> None:
    if "prepare" in have and "perform" in have:
        raise _wrong(cls, f"perform_{name}", f"stands beside prepare_{name}: an operation either votes or performs")
    if "prepare" not in have and "perform" not in have:
        lone = f"{min(have)}_{name}"
        raise _wrong(cls, lone, f"has neither prepare_{name} nor perform_{name}: rename it if it is no handler")
    wanted = {"prepare", "commit", "rollback"} if "prepare" in have else {"perform"}
    for part in sorted(wanted - have):
        raise _wrong(cls, f"{part}_{name}", f"is missing: prepare_{name} needs commit_{name} and rollback_{name}")
    for part in sorted(have - wanted - {"ask"}):
        raise _wrong(cls, f"{part}_{name}", f"stands beside perform_{name}, which is never undone")


def _bind(service: object, name: str, prepares: bool) -> Operation:  # noqa: FBT001 - a pair from operation_names
    cls = type(service)
    run_name = f"{'prepare' if prepares else 'perform'}_{name}"
    ask = getattr(service, f"ask_{name}", None)
    hints = _hints(cls, run_name, 3 if ask else 2)
    request = _model(cls, run_name, "its request", hints["arguments"][1])
    result = _result_model(cls, run_name, hints["return"])
    if ask is not None:
        _check_ask(cls, f"ask_{name}", request)
    finishers = [f"commit_{name}", f"rollback_{name}"] if prepares else []
    for finisher in finishers:
        _check_finisher(cls, finisher, request, result)
    return Operation(
        name=name, prepares=prepares, request=request, result=result, run=getattr(service, run_name), ask=ask,
        commit=getattr(service, f"commit_{name}", None), rollback=getattr(service, f"rollback_{name}", None))


def _hints(cls: type, method: str, arguments: int) -> Mapping[str, Any]:
    function = inspect.getattr_static(cls, method)
    if not inspect.isfunction(function):
        raise _wrong(cls, method, "must be a plain method")
    names = [p.name for p in inspect.signature(function).parameters.values()][1:]
    if len(names) != arguments:
        raise _wrong(cls, method, f"takes {len(names)} arguments after self, must take {arguments}")
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError) as error:
        raise _wrong(cls, method, f"has an annotation that cannot be resolved ({error})") from None
    return {"arguments": [hints.get(name) for name in names], "return": hints.get("return"), "function": function}


def _check_ask(cls: type, method: str, request: type[BaseModel]) -> None:
    hints = _hints(cls, method, 1)
    if not inspect.iscoroutinefunction(hints["function"]):
        raise _wrong(cls, method, "must be `async def`")
    if hints["arguments"][0] is not request:
        raise _wrong(cls, method, f"must take the request {request.__name__}")


def _check_finisher(cls: type, method: str, request: type[BaseModel], result: type[BaseModel]) -> None:
    arguments = _hints(cls, method, 3)["arguments"]
    if arguments[1] is not request or arguments[2] is not result:
        raise _wrong(cls, method, f"must take (state, request: {request.__name__}, result: {result.__name__})")


def _result_model(cls: type, method: str, annotation: Any) -> type[BaseModel]:
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    models = [member for member in members if member not in (Refused, NotYet)]
    return _model(cls, method, "one result besides Refused and NotYet", models[0] if len(models) == 1 else None)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def _model(cls: type, method: str, what: str, annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    raise _wrong(cls, method, f"must annotate {what} with a pydantic model; got {annotation!r}")


def _wrong(cls: type, member: str, problem: str) -> DefiniteError:
    return DefiniteError(ErrorCode.SERVICE_DEFINITION, f"service {cls.__qualname__}: {member} {problem}")
