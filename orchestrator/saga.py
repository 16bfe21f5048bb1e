"""A saga's definition: a DAG of steps with data flow, validated once, when it is written down."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol.bounds import BUSINESS_KEY_CHARS_MAX, NESTING_MAX, STEPS_MAX, is_deeper, is_open_ended, shown
from orchestrator.protocol.retry import FINISH_RETRY, PREPARE_RETRY, RetryPolicy
from orchestrator.protocol.secrecy import decode_secret, encode_secret

DEADLINE_MS_DEFAULT = 30_000
DEADLINE_MS_MAX = 24 * 3_600_000
INPUT_BYTES_MAX = 4 * 1024 * 1024
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class RollbackOrder(Enum):
    """How rollbacks go out; parallel is right wherever prepares are semantic locks."""

    PARALLEL = "parallel"
    REVERSED = "reversed"


@dataclass(frozen=True, slots=True)
class Context:
    """What a request builder sees: it must be a pure function of these.

    Attributes:
        transaction: the transaction id, 32 hexadecimal digits.
        input: the validated input model.
        results: results of the steps named in `after` (and of what they follow), as plain data, by step name.
    """

    transaction: str
    input: Any
    results: Mapping[str, Any]


RequestBuilder = Callable[[Context], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a saga.

    Args:
        name: unique in its saga.
        service: the participant that runs it.
        operation: the service's operation; defaults to the step's name.
        request: builds the request (plain data or a pydantic model) from a `Context`; pure.
        after: names of the steps whose results it needs or that must be prepared first.
        compensation: what people call the rollback of this step (release, refund, cancel); every step has one, unless
        after_commit: the step has no prepare and is never undone: performed once the decision is a durable COMMIT.
        prepare_retry: retries before the decision (of a perform as well where the step is `after_commit`: finish_retry).
        finish_retry: retries of commit, rollback and perform.

    Raises:
        DefiniteError: E_SAGA_DEFINITION, naming the step.
    """

    name: str
    service: str
    request: RequestBuilder
    operation: str = ""
    after: Sequence[str] = ()
    compensation: str | None = None
    after_commit: bool = False
    prepare_retry: RetryPolicy = PREPARE_RETRY
    finish_retry: RetryPolicy = FINISH_RETRY

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise _definition(f"step {self.name!r}: a name is lower-case letters, digits and _, at most 64")
        if not self.operation:
            object.__setattr__(self, "operation", self.name)
        if self.after_commit and self.compensation:
            raise _definition(f"step {self.name!r} is after_commit and so never undone: drop its compensation")
        if not self.after_commit and not self.compensation:
            raise _definition(f"step {self.name!r} has neither a compensation nor after_commit=True: name what undoes it")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saga:
    """A transaction's definition; pinned, with its version, when a transaction begins.

    Args:
        name: lower-case letters, digits and _.
        version: from 1; raise it when steps or requests change.
        input: pydantic model of the input.
        steps: in any order; `after` gives the DAG.
        deadline_ms: default time up to the decision, 1 ms to 24 h.
        business_key: picks a text from the input by which `raytx list --key` finds the transaction.
        rollback_order: parallel, or the reverse of the DAG.
        example: makes the n-th sample input, from 0, as plain data or the model; no two alike, and what they name stands
            in the books that `App.opening` opens. `orchestrator.testing` and `raytx load` place them; they also show
            what an input is.

    Raises:
        DefiniteError: E_SAGA_DEFINITION, naming the saga and the step.
    """

    name: str
    input: type[BaseModel]
    steps: Sequence[Step]
    version: int = 1
    deadline_ms: int = DEADLINE_MS_DEFAULT
    business_key: Callable[[Any], str] | None = None
    rollback_order: RollbackOrder = RollbackOrder.PARALLEL
    example: Callable[[int], Any] | None = None
    open_ended: bool = field(init=False)  # whether the model leaves it to the caller how deep an input is nested
    by_name: Mapping[str, Step] = field(init=False)
    layers: tuple[tuple[str, ...], ...] = field(init=False)  # topological: a step's `after` lie in earlier layers
    ancestors: Mapping[str, frozenset[str]] = field(init=False)
    prepares: tuple[Step, ...] = field(init=False)  # the steps that vote
    performs: tuple[Step, ...] = field(init=False)  # those performed after the commit
    dependents: Mapping[str, tuple[Step, ...]] = field(init=False)  # of a step: the preparing ones that name it in `after`

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise _definition(f"saga {self.name!r}: a name is lower-case letters, digits and _, at most 64")
        _check_numbers(self)
        object.__setattr__(self, "open_ended", is_open_ended(self.input))
        object.__setattr__(self, "by_name", _index(self.name, self.steps))
        object.__setattr__(self, "layers", _layers(self.name, self.by_name))
        object.__setattr__(self, "ancestors", _ancestors(self.by_name, self.layers))
        object.__setattr__(self, "prepares", tuple(step for step in self.steps if not step.after_commit))
        object.__setattr__(self, "performs", tuple(step for step in self.steps if step.after_commit))
        object.__setattr__(self, "dependents", {
            name: tuple(step for step in self.prepares if name in step.after) for name in self.by_name})

    def validate_input(self, data: Any) -> BaseModel:
        """The input as its model.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field.
        """
        try:
            return self.input.model_validate(data)
        except ValidationError as error:
            raise DefiniteError(ErrorCode.INVALID_INPUT, f"{self.name}: {describe(error)}") from None

    def sample(self, number: int) -> BaseModel:
        """The sample input of that number, from 0.

        Raises:
            DefiniteError: E_SAGA_DEFINITION where the saga has no `example`, or one that does not fit its input.
        """
        if self.example is None:
            raise _definition(f"saga {self.name!r} has no example: give it example=..., a function of n that makes inputs")
        try:
            return self.input.model_validate(self.example(number))
        except ValidationError as error:
            raise _definition(f"saga {self.name!r}: its example {number} is no input of it: {describe(error)}") from None
        except Exception as error:
            raise _definition(f"saga {self.name!r}: its example {number} raised {type(error).__name__}: {error}") from error

    def encode_input(self, data: Any) -> bytes:
        """Validate and encode the input as msgpack.

        The function of the business key is called as well, as it will be by a shard: if it never returns, or ends its
        process, then that of its caller.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field; E_TOO_LARGE.
        """
        try:
            model = self.validate_input(data)
            payload = encode_plain(model)
        except RecursionError:
            raise self._too_deep() from None
        except (TypeError, ValueError, OverflowError) as error:  # also UnicodeEncodeError: half of a surrogate pair
            raise DefiniteError(ErrorCode.INVALID_INPUT, f"{self.name}: {type(error).__name__}: {error}") from None
        if len(payload) > INPUT_BYTES_MAX:
            raise DefiniteError(ErrorCode.TOO_LARGE, f"{self.name}: input of {len(payload)} bytes, at most {INPUT_BYTES_MAX}")
        if self.open_ended:
            self._check_depth(payload)
        self.business_key_of(model)
        return payload

    def business_key_of(self, model: BaseModel) -> str:
        """The text by which people find the transaction, cut and fit to be shown; empty where the saga names none.

        Raises:
            DefiniteError: E_INVALID_INPUT.
        """
        if self.business_key is None:
            return ""
        try:
            return shown(str(self.business_key(model)))[:BUSINESS_KEY_CHARS_MAX]
        except Exception as error:  # noqa: BLE001 - user code
            raise DefiniteError(
                ErrorCode.INVALID_INPUT, f"{self.name}: its business_key function raised {type(error).__name__}") from None

    def decode_input(self, payload: bytes) -> BaseModel:
        """The model of an encoded input.

        Raises:
            DefiniteError: E_INVALID_INPUT, also where the bytes are not msgpack; E_TOO_LARGE.
        """
        if len(payload) > INPUT_BYTES_MAX:
            raise DefiniteError(ErrorCode.TOO_LARGE, f"{self.name}: input of {len(payload)} bytes, at most {INPUT_BYTES_MAX}")
        try:
            data = decode_plain(payload)
        except RecursionError:
            raise self._too_deep() from None
        except (msgspec.DecodeError, ValueError) as error:
            raise DefiniteError(ErrorCode.INVALID_INPUT, f"{self.name}: the input is not msgpack: {error}") from None
        if self.open_ended and is_deeper(data):
            raise self._too_deep()
        return self.validate_input(data)

    def _check_depth(self, payload: bytes) -> None:
        try:
            deep = is_deeper(decode_plain(payload))
        except RecursionError:
            deep = True
        if deep:
            raise self._too_deep()

    def _too_deep(self) -> DefiniteError:
        return DefiniteError(ErrorCode.INVALID_INPUT, f"{self.name}: the input is nested deeper than {NESTING_MAX} levels")


def encode_plain(value: Any) -> bytes:
    """Msgpack of plain data and of pydantic models and secrets in it; equal values give equal bytes."""
    return _ENCODER.encode(value)


def decode_plain(payload: bytes) -> Any:
    """Plain data from msgpack, secrets as `SecretStr` or `SecretBytes`; nothing (None) from no bytes."""
    return _DECODER.decode(payload) if payload else None


def _fields(value: Any) -> Any:
    """A model's fields as a map. Reading them directly is what `model_dump` does where nobody customised it, 3 times faster."""
    if not isinstance(value, BaseModel):
        return encode_secret(value)
    kind = type(value)
    plain = _PLAIN_MODELS.get(kind)
    if plain is None:
        plain = _PLAIN_MODELS[kind] = not (
            kind.__pydantic_decorators__.field_serializers or kind.__pydantic_decorators__.model_serializers
            or kind.__pydantic_decorators__.computed_fields or kind.model_config.get("extra") == "allow"
            or any(f.exclude for f in kind.model_fields.values()))
    return value.__dict__ if plain else value.model_dump(mode="python")


_PLAIN_MODELS: dict[type[BaseModel], bool] = {}
_ENCODER = msgspec.msgpack.Encoder(enc_hook=_fields)
_DECODER = msgspec.msgpack.Decoder(ext_hook=decode_secret)


def describe(error: ValidationError) -> str:
    """A validation error for a person: every field, what was wrong, without echoing the values."""
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"]) or "input"
        parts.append(f"{where}: {item['msg']}")
    return "; ".join(parts[:5]) + (f"; and {len(parts) - 5} more" if len(parts) > 5 else "")  # noqa: PLR2004


def _definition(message: str) -> DefiniteError:
    return DefiniteError(ErrorCode.SAGA_DEFINITION, message)


def _check_numbers(saga: Saga) -> None:
    if type(saga.version) is not int or saga.version < 1:
        raise _definition(f"saga {saga.name!r}: version must be a whole number from 1; got {saga.version!r}")
    if type(saga.deadline_ms) is not int or not 1 <= saga.deadline_ms <= DEADLINE_MS_MAX:
        raise _definition(f"saga {saga.name!r}: deadline_ms must be 1 to {DEADLINE_MS_MAX}; got {saga.deadline_ms!r}")


def _index(saga: str, steps: Sequence[Step]) -> dict[str, Step]:
    by_name: dict[str, Step] = {}
    if len(steps) > STEPS_MAX:
        raise _definition(f"saga {saga!r} has {len(steps)} steps, at most {STEPS_MAX}: make several sagas of it")
    for step in steps:
        if step.name in by_name:
            raise _definition(f"saga {saga!r}: two steps are called {step.name!r}: rename one")
        by_name[step.name] = step
    for step in steps:
        _check_after(saga, step, by_name)
    if not any(not step.after_commit for step in steps):
        raise _definition(f"saga {saga!r} has no step that prepares: give it at least one with a compensation")
    return by_name


def _check_after(saga: str, step: Step, by_name: Mapping[str, Step]) -> None:
    for name in step.after:
        if name not in by_name:
            raise _definition(f"saga {saga!r}: step {step.name!r} comes after {name!r}, which is no step of it")
        if by_name[name].after_commit and not step.after_commit:
            raise _definition(f"saga {saga!r}: step {step.name!r} prepares and cannot wait for {name!r}, which is after_commit")


def _layers(saga: str, by_name: Mapping[str, Step]) -> tuple[tuple[str, ...], ...]:
    placed: set[str] = set()
    layers: list[tuple[str, ...]] = []
    while len(placed) < len(by_name):
        layer = tuple(n for n, s in by_name.items() if n not in placed and all(a in placed for a in s.after))
        if not layer:
            stuck = ", ".join(repr(name) for name in by_name if name not in placed)
            raise _definition(f"saga {saga!r}: steps {stuck} wait for each other in a cycle")
        placed.update(layer)
        layers.append(layer)
    return tuple(layers)


def _ancestors(by_name: Mapping[str, Step], layers: tuple[tuple[str, ...], ...]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for layer in layers:
        for name in layer:
            direct = by_name[name].after
            found[name] = frozenset(direct).union(*(found[other] for other in direct))
    return found
