"""For tests of services, your own too: drive one service in memory, without Ray, database or orchestrator."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError

from actors.service import NotYet, Operation, Refused, Service
from orchestrator.app import LedgerRow, ServiceAudit
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.saga import decode_plain, describe, encode_plain


class PlainState(MutableMapping[str, Any]):
    """A state as handlers see it: what is read is a fresh copy, so that mutation without assignment changes nothing."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def __getitem__(self, key: str) -> Any:
        return msgspec.msgpack.decode(self._values[key])

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = msgspec.msgpack.encode(value)

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def snapshot(self) -> dict[str, bytes]:
        """Every value, encoded."""
        return dict(self._values)

    def restore(self, values: dict[str, bytes]) -> None:
        """Go back to a snapshot."""
        self._values = dict(values)


class ServiceBench:
    """One service with its state and ledger in memory; requests and results travel encoded, as they do for real.

    It applies what it is told, once per (transaction, operation), and leaves the protocol's table to the ledger:
    `prepare` of a settled transaction or `commit` of an unprepared one are mistakes of the test and raise KeyError.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.state = PlainState()
        self.rows: dict[tuple[str, str], LedgerRow] = {}

    def prepare(self, transaction: str, operation: str, request: Any) -> Any:
        """Prepare; the result model, or the Refused or NotYet that the handler returned.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field.
        """
        return self._run(transaction, operation, request, "PREPARED")

    def perform(self, transaction: str, operation: str, request: Any) -> Any:
        """Perform; as `prepare`."""
        return self._run(transaction, operation, request, "DONE")

    def commit(self, transaction: str, operation: str) -> None:
        """Commit what is prepared."""
        self._finish(transaction, operation, "COMMITTED")

    def rollback(self, transaction: str, operation: str) -> None:
        """Roll back what is prepared."""
        self._finish(transaction, operation, "ROLLED_BACK")

    def done(self, transaction: str, operation: str, request: Any) -> Any:
        """Prepare and, where that is a yes, commit."""
        result = self.prepare(transaction, operation, request)
        if not isinstance(result, Refused | NotYet):
            self.commit(transaction, operation)
        return result

    def audit(self, **options: Any) -> ServiceAudit:
        """The service's own audit over state and ledger."""
        return self.service.audit(self.state, iter([self.rows[key] for key in sorted(self.rows)]), **options)

    def _run(self, transaction: str, name: str, request: Any, state: str) -> Any:
        if (transaction, name) in self.rows:
            raise KeyError(f"{name} of {transaction} has a ledger row already")
        operation = self.service.bound[name]
        payload = encode_plain(request)
        result = self._guarded(operation.run, _validated(operation.request, payload))
        if isinstance(result, NotYet):
            return result
        refused = isinstance(result, Refused)
        self.rows[transaction, name] = LedgerRow(
            transaction, name, name, "REFUSED" if refused else state, decode_plain(payload),
            None if refused else decode_plain(encode_plain(result)), result.code if refused else "",
            result.message if refused else "", 1, 1, 0)
        return result

    def _finish(self, transaction: str, name: str, state: str) -> None:
        row = self.rows[transaction, name]
        if row.state != "PREPARED":
            raise KeyError(f"{name} of {transaction} is {row.state}, not PREPARED")
        operation = self.service.bound[name]
        handler = operation.commit if state == "COMMITTED" else operation.rollback
        self._guarded(handler, *_stored(operation, row))
        self.rows[transaction, name] = msgspec.structs.replace(row, state=state, finished_ms=1)

    def _guarded(self, handler: Any, *arguments: BaseModel) -> Any:
        before = self.state.snapshot()
        try:
            return handler(self.state, *arguments)
        except Exception:
            self.state.restore(before)
            raise


def _stored(operation: Operation, row: LedgerRow) -> tuple[BaseModel, BaseModel]:
    return operation.request.model_validate(row.request), operation.result.model_validate(row.result)


def _validated(model: type[BaseModel], payload: bytes) -> BaseModel:
    try:
        return model.model_validate(decode_plain(payload))
    except ValidationError as error:
        raise DefiniteError(ErrorCode.INVALID_INPUT, describe(error)) from None
