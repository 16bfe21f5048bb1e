"""What is checked before anything is logged or held: key, saga, deadline, input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol import traceparent
from orchestrator.protocol.bounds import ECHO_CHARS_MAX, clipped, has_control_characters
from orchestrator.protocol.identifiers import KEY_BYTES_MAX
from orchestrator.protocol.messages import SubmitRequest
from orchestrator.saga import DEADLINE_MS_MAX, Saga


def newest(sagas: Iterable[Saga]) -> dict[str, Saga]:
    """The highest version of every saga: new transactions run that one."""
    found: dict[str, Saga] = {}
    for saga in sagas:
        if saga.name not in found or found[saga.name].version < saga.version:
            found[saga.name] = saga
    return found


def check(sagas: Mapping[str, Saga], request: SubmitRequest) -> tuple[Saga, BaseModel, str]:
    """The saga, the decoded input and the business key of a submit.

    Raises:
        DefiniteError: E_UNKNOWN_SAGA, E_INVALID_INPUT, E_TOO_LARGE.
    """
    saga = sagas.get(request.saga)
    if saga is None:
        raise DefiniteError(ErrorCode.UNKNOWN_SAGA, f"saga: no {clipped(request.saga, ECHO_CHARS_MAX)!r} in the deployed app")
    check_deadline(request.duration_ms)
    if request.traceparent and traceparent.parse(request.traceparent) is None:
        raise DefiniteError(ErrorCode.INVALID_INPUT, "traceparent: is none of W3C Trace Context")
    try:
        data = saga.decode_input(request.input)
    except DefiniteError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's validator raised something of its own
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"{saga.name}: validation raised {type(error).__name__}") from None
    return saga, data, saga.business_key_of(data)


def check_key(key: object) -> str | None:
    """What is wrong with an idempotency key, for a person; None if nothing is."""
    if not isinstance(key, str):
        return f"key: must be text, got {type(key).__name__}"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "key: is not valid UTF-8"
    if not 1 <= size <= KEY_BYTES_MAX:
        return f"key: must be 1 to {KEY_BYTES_MAX} bytes of UTF-8, got {size}"
    if has_control_characters(key):
        return "key: must be without control characters"
    return None


def check_deadline(duration_ms: object) -> None:
    """Refuse a deadline out of range; 0 stands for the saga's own.

    Raises:
        DefiniteError: E_INVALID_INPUT.
    """
    if type(duration_ms) is not int or not 0 <= duration_ms <= DEADLINE_MS_MAX:
        raise DefiniteError(
            ErrorCode.INVALID_INPUT, f"deadline_ms: must be a whole number from 1 to {DEADLINE_MS_MAX}, got {duration_ms!r}")


def retry_after_ms(open_count: int) -> int:
    """A hint for an overloaded caller: the time in which a slow shard (500 a second) ends a tenth of what is open."""
    return max(10, open_count // 5)
