"""What `raytx submit` reads: transactions as JSON, checked whole before any of them is placed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.saga import describe

if TYPE_CHECKING:
    from orchestrator.app import App


class Submission(BaseModel):
    """One transaction to place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    saga: str
    input: dict[str, Any]
    key: str | None = None
    deadline_ms: int | None = None


def read_submissions(text: str, app: App, saga: str | None = None) -> list[Submission]:
    """The transactions in a text: one JSON object, a list of them, or one a line.

    An object is either `{saga, input, key?, deadline_ms?}` or an input alone.

    Args:
        text: the file's content.
        app: its sagas check the inputs.
        saga: of inputs that stand alone; None = the app's first one.

    Raises:
        DefiniteError: E_INVALID_INPUT, E_UNKNOWN_SAGA, saying which object; nothing was placed.
    """
    found = []
    for number, item in enumerate(_objects(text), start=1):
        if not isinstance(item, dict):
            raise _wrong(number, f"an object was expected, not {type(item).__name__}")
        found.append(_submission(number, item, app, saga))
    if not found:
        raise DefiniteError(ErrorCode.INVALID_INPUT, "there is no transaction in the input")
    return found


def _submission(number: int, item: dict[str, Any], app: App, saga: str | None) -> Submission:
    if "input" not in item or not item.keys() <= Submission.model_fields.keys():
        item = {"saga": saga or app.sagas[0].name, "input": item}
    elif "saga" not in item:
        item = {"saga": saga or app.sagas[0].name, **item}
    try:
        submission = Submission.model_validate(item)
    except ValidationError as error:
        raise _wrong(number, describe(error)) from None
    try:
        app.saga(submission.saga).encode_input(submission.input)
    except DefiniteError as error:
        raise DefiniteError(error.code, f"transaction {number}: {error.message}") from None
    return submission


def _objects(text: str) -> list[Any]:
    try:
        whole = _parse(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2 or not _is_json(lines[0]):  # noqa: PLR2004 - one line is no list of lines
            raise DefiniteError(ErrorCode.INVALID_INPUT, f"not JSON: {error}") from None
        return [_line(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    return whole if isinstance(whole, list) else [whole]


def _line(number: int, line: str) -> Any:
    try:
        return _parse(line)
    except json.JSONDecodeError as error:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"line {number} is not JSON: {error}") from None


def _is_json(line: str) -> bool:
    try:
        _parse(line)
    except json.JSONDecodeError:
        return False
    return True


def _parse(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise DefiniteError(ErrorCode.INVALID_INPUT, "the JSON is nested too deeply") from None


def _no_number(name: str) -> NoReturn:
    raise DefiniteError(ErrorCode.INVALID_INPUT, f"{name} is no number in JSON")


def _wrong(number: int, what: str) -> DefiniteError:
    return DefiniteError(ErrorCode.INVALID_INPUT, f"transaction {number}: {what}")
