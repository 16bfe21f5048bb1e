"""The client for driver scripts: attach to a deployment or start one, submit transactions, wait for their outcomes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from orchestrator.cluster import Deployment, attach_or_start
from orchestrator.config import Settings
from orchestrator.conversation import Conversation
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.rest import wait_for_rest
from orchestrator.outcome import Handle
from orchestrator.protocol.admission import check_deadline, check_key
from orchestrator.protocol.desk import check_act
from orchestrator.protocol.identifiers import is_id
from orchestrator.protocol.messages import ActKind, ActRequest, CancelRequest, LookupRequest, SubmitRequest
from orchestrator.protocol.traceparent import parse, problem_of
from orchestrator.saga import Saga
from orchestrator.transport import shard_actor, way_to

REST_S_MAX = 5.0  # what is still open then goes on at the next start


class Client:
    """A connection to one deployment; thread-safe; a context manager that closes what it started and nothing else."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        settings = deployment.settings
        self._current_traceparent = _finds_current() if settings.tracing else None
        to = way_to(deployment.namespace, settings.transport)
        self._conversation = Conversation(
            settings.shards, lambda shard: to(shard_actor(shard), "exchange"),
            release=to.close,
            waiting_max=settings.shards * settings.open_transactions_max)  # more could not be admitted anyway

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(data={str(self.deployment.data_dir)!r}, waiting={self._conversation.waiting})"

    def submit(
        self, saga: str | Saga, data: BaseModel | dict[str, Any], *, key: str | None = None, deadline_ms: int | None = None,
        traceparent: str | None = None,
    ) -> Handle:
        """Start a transaction; returns at once, many submits travel together.

        Args:
            saga: its name, or the definition.
            data: the input, a model or plain data that fits it.
            key: idempotency key, 1 to 256 bytes; the same key and input is the same transaction, for the retention
                period. One is made if none is given (read it from `handle.key` to ask again).
            deadline_ms: time up to the decision, 1 ms to 24 h; the saga's own by default.
            traceparent: W3C Trace Context of the span that the transaction's hangs under; where the deployment traces,
                OpenTelemetry's current span by default.

        Returns:
            A handle: `handle.outcome()`, or `await handle`. It is done at once, with E_OVERLOADED or E_UNAVAILABLE, where
            the shard has just said that it is full or a service down, or too much of this client's waits for an answer:
            nothing was sent, which says nothing of an earlier submit of the same key (`lookup` does).

        Raises:
            DefiniteError: E_INVALID_INPUT, E_INVALID_KEY, E_UNKNOWN_SAGA, E_TOO_LARGE: nothing was sent.
            IndefiniteError: E_UNREACHABLE: the client is closed.
        """
        definition = self.deployment.app.saga(saga.name if isinstance(saga, Saga) else saga)
        key = uuid.uuid4().hex if key is None else _checked_key(key)
        if deadline_ms is not None:
            check_deadline(deadline_ms or -1)
        untraced = traceparent is None and self._current_traceparent is None
        trace = "" if untraced else self._place_in_trace(traceparent)
        refusal = self._conversation.refusal(key, definition.name)
        if refusal is not None:  # before the input is encoded: this must cost next to nothing
            handle = Handle(key, 0, self.cancel_handle)
            handle.settle(None, refusal)
            return handle
        payload = definition.encode_input(data)
        return self._conversation.request(
            key, lambda number: SubmitRequest(number, key, definition.name, payload, deadline_ms or 0, trace),
            self.cancel_handle)

    def lookup(self, *, key: str | None = None, transaction: str | None = None) -> Handle:
        """Ask for the outcome of a transaction submitted before, by key or by id.

        Raises:
            DefiniteError: E_INVALID_KEY, E_INVALID_INPUT here; E_UNKNOWN from the handle.
        """
        key, transaction = _checked_identity(key, transaction)
        return self._conversation.request(
            key, lambda number: LookupRequest(number, key, transaction), self.cancel_handle)

    def cancel(self, *, key: str | None = None, transaction: str | None = None) -> Handle:
        """Ask to abort a transaction; the first durable decision wins. An unknown key is bound to ABORTED.

        Returns:
            A handle whose outcome tells which decision it was.

        Raises:
            DefiniteError: E_INVALID_KEY, E_INVALID_INPUT here; E_UNKNOWN from the handle (by id only).
        """
        key, transaction = _checked_identity(key, transaction)
        return self._conversation.request(
            key, lambda number: CancelRequest(number, key, transaction), self.cancel_handle)

    def act(self, kind: ActKind, transaction: str, *, who: str, reason: str, step: str = "") -> Handle:
        """Act on one transaction as an operator, on the record; `orchestrator.operate.acts.Operator` is the way to do so.

        Args:
            kind: RETRY, CANCEL or RESOLVE.
            transaction: its id.
            who: acts, 1 to 256 characters.
            reason: why, at most 1,000 characters.
            step: which one is resolved.

        Returns:
            A handle: an outcome OPEN says that it is done; another one, that the transaction has ended that way.

        Raises:
            DefiniteError: E_INVALID_INPUT here; E_UNKNOWN, E_NOT_RESOLVABLE from the handle: nothing was done.
        """
        _checked_identity(None, transaction)
        if (problem := check_act(who, reason, step)) is not None:
            raise DefiniteError(ErrorCode.INVALID_INPUT, problem)
        at_ms = time.time_ns() // 1_000_000
        return self._conversation.request(
            "", lambda number: ActRequest(number, kind, transaction, who, reason, at_ms, step), self.cancel_handle)

    def abandon(self, handle: Handle) -> None:
        """Send what a handle stands for no more: it may have been done, but it is not done later. The handle never settles."""
        self._conversation.abandon(handle.number)

    def cancel_handle(self, handle: Handle) -> Handle:
        """Cancel what a handle stands for."""
        if handle.key:
            return self.cancel(key=handle.key)
        return self.cancel(transaction=handle.transaction)

    def _place_in_trace(self, traceparent: str | None) -> str:
        if traceparent is None:
            return self._current_traceparent() if self._current_traceparent is not None else ""
        problem = problem_of(traceparent)
        if problem is not None:
            raise DefiniteError(ErrorCode.INVALID_INPUT, problem)
        return str(parse(traceparent))

    def close(self) -> None:
        """Close; stops the deployment only if this client started it, and then lets what is decided reach everybody first."""
        self._conversation.close()
        if self.deployment.owned:
            wait_for_rest(DataDirectory(self.deployment.data_dir).log_path, REST_S_MAX)
            self.deployment.stop()
        else:
            self.deployment.detach()


def connect(
    data: str | Path = "raytx-data", *, app: str | None = None, settings: Settings | None = None,
    address: str | None = None,
) -> Client:
    """Attach to the deployment that runs on a data directory, or start an embedded one there.

    Args:
        data: the data directory.
        app: import path of the app (`package.module:attribute`); needed where nothing runs or ever ran there.
        settings: for a deployment that is started; unless given those of the last start there (without simulated
            failures), else the defaults.
        address: of a Ray cluster to start it on; a local one of its own by default.

    Raises:
        DefiniteError: E_DATA_DIR, E_DATA_DIR_IN_USE, E_CONFIG, E_STORE_REFUSED.
        IndefiniteError: E_UNREACHABLE.
    """
    return Client(attach_or_start(Path(data), app, settings, address=address))


def _finds_current() -> Callable[[], str]:
    from orchestrator.tracing.current import current_traceparent  # noqa: PLC0415 - nothing of it where nobody traces

    return current_traceparent


def _checked_key(key: str) -> str:
    problem = check_key(key)
    if problem is not None:
        raise DefiniteError(ErrorCode.INVALID_KEY, problem)
    return key


def _checked_identity(key: str | None, transaction: str | None) -> tuple[str, str]:
    if (key is None) == (transaction is None):
        raise DefiniteError(ErrorCode.INVALID_INPUT, "give either key or transaction")
    if transaction is None:
        assert key is not None
        return _checked_key(key), ""
    if not is_id(transaction):
        raise DefiniteError(ErrorCode.INVALID_INPUT, "transaction: an id is 32 lower-case hexadecimal digits")
    return "", transaction
