"""Every error raytx raises, with its stable code; `docs/errors.md` is generated from the catalogue below."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ErrorCode(StrEnum):
    """Stable codes; services add their own refusal codes, which are plain words such as OUT_OF_STOCK."""

    INVALID_INPUT = "E_INVALID_INPUT"
    INVALID_KEY = "E_INVALID_KEY"
    TOO_LARGE = "E_TOO_LARGE"
    UNKNOWN_SAGA = "E_UNKNOWN_SAGA"
    KEY_CONFLICT = "E_KEY_CONFLICT"
    OVERLOADED = "E_OVERLOADED"
    DRAINING = "E_DRAINING"
    UNAVAILABLE = "E_UNAVAILABLE"
    TIMEOUT = "E_TIMEOUT"
    CANCELLED = "E_CANCELLED"
    SERVICE_UNAVAILABLE = "E_SERVICE_UNAVAILABLE"
    SERVICE_ERROR = "E_SERVICE_ERROR"
    QUARANTINED = "E_QUARANTINED"
    SUSPECT = "E_SUSPECT"
    UNKNOWN = "E_UNKNOWN"
    NOT_READY = "E_NOT_READY"
    FENCED = "E_FENCED"
    LATE_PREPARE = "E_LATE_PREPARE"
    EXPIRED = "E_EXPIRED"
    FINGERPRINT = "E_FINGERPRINT"
    VIOLATION = "E_VIOLATION"
    UNREACHABLE = "E_UNREACHABLE"
    PENDING = "E_PENDING"
    BUILDER_FAILED = "E_BUILDER_FAILED"
    SAGA_DEFINITION = "E_SAGA_DEFINITION"
    SERVICE_DEFINITION = "E_SERVICE_DEFINITION"
    CONFIG = "E_CONFIG"
    DATA_DIR = "E_DATA_DIR"
    DATA_DIR_IN_USE = "E_DATA_DIR_IN_USE"
    STORE_REFUSED = "E_STORE_REFUSED"
    DISK_FULL = "E_DISK_FULL"
    TRACE_ROW = "E_TRACE_ROW"
    PAUSED = "E_PAUSED"
    NOT_RESOLVABLE = "E_NOT_RESOLVABLE"
    TOO_LATE = "E_TOO_LATE"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What `docs/errors.md` says of one code."""

    meaning: str
    definite: bool
    raised_by: str
    remedy: str


class RaytxError(Exception):
    """Base of what a caller can meet; `code` is stable, the message is for a person and names the field and the remedy."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:  # an exception's own would call the class with its text alone
        return type(self), (self.code, self.message), self.__dict__


class DefiniteError(RaytxError):
    """It did not happen: nothing was logged and nothing is held."""


class IndefiniteError(RaytxError):
    """It may have happened: ask again by the same key or id."""


class RefusedForNowError(DefiniteError):
    """Nothing was begun, and it may be admitted later: try again with the same key after `retry_after_ms`."""

    def __init__(self, code: str, message: str, retry_after_ms: int) -> None:
        super().__init__(code, message)
        self.retry_after_ms = retry_after_ms

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, self.retry_after_ms), self.__dict__


class OverloadedError(RefusedForNowError):
    """Admission refused the transaction; try again with the same key after `retry_after_ms`."""

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(ErrorCode.OVERLOADED, message, retry_after_ms)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.retry_after_ms), self.__dict__


class InvariantViolation(BaseException):
    """A state that the protocol forbids; the process must not go on as if nothing had happened."""


CATALOGUE: dict[ErrorCode, CatalogueEntry] = {
    ErrorCode.INVALID_INPUT: CatalogueEntry(
        "the input or a request does not fit its model; the message names the field", True, "client, shard, service",
        "correct the field named and submit again"),
    ErrorCode.INVALID_KEY: CatalogueEntry(
        "the idempotency key is empty, longer than 256 bytes, not valid UTF-8 or has control characters", True,
        "client, shard", "use 1 to 256 bytes of UTF-8 text without control characters"),
    ErrorCode.TOO_LARGE: CatalogueEntry(
        "the encoded input, or the encoded result of a step, is larger than 4 MiB", True, "client, shard, service",
        "split the order or shorten its texts; return less from the step"),
    ErrorCode.UNKNOWN_SAGA: CatalogueEntry(
        "no saga of that name (or version) is part of the deployed app", True, "client, shard",
        "check the name, or deploy the app that defines it"),
    ErrorCode.KEY_CONFLICT: CatalogueEntry(
        "the key is bound to a transaction with another input", True, "transaction log, shard",
        "use a new key for a new intent; repeat a key only with the same saga and input"),
    ErrorCode.OVERLOADED: CatalogueEntry(
        "the shard, or the client, has as many open transactions as it admits, or too many of them wait for one service; "
        "this submit began nothing (where the client refuses it, an earlier one of the same key may have)", True,
        "shard, client", "wait `retry_after_ms`, then submit again with the same key"),
    ErrorCode.DRAINING: CatalogueEntry(
        "the deployment is about to be stopped (`raytx down --drain`) and begins nothing new; this submit began nothing",
        True, "shard", "wait `retry_after_ms`, then submit again with the same key, perhaps to its successor"),
    ErrorCode.UNAVAILABLE: CatalogueEntry(
        "a service that the saga prepares at is known to be down (its circuit breaker is open); this submit began nothing "
        "(where the client refuses it, an earlier one of the same key may have)", True, "shard, client",
        "wait `retry_after_ms`, then submit again with the same key; `raytx status` says what is wrong"),
    ErrorCode.TIMEOUT: CatalogueEntry(
        "the deadline passed before the transaction was decided; it was aborted", True, "shard",
        "submit with a new key and perhaps a longer deadline_ms"),
    ErrorCode.CANCELLED: CatalogueEntry(
        "the transaction was cancelled before it was decided", True, "shard", "nothing; it was asked for"),
    ErrorCode.SERVICE_UNAVAILABLE: CatalogueEntry(
        "a service did not answer, or failed transiently, until the retries or the deadline ran out; aborted", True,
        "shard", "look at the service named in the outcome, then submit with a new key"),
    ErrorCode.SERVICE_ERROR: CatalogueEntry(
        "a service's code raised; its write-set was discarded and the attempt counts as transient", True, "service",
        "read the service's log for the traceback; a bug there is yours to mend"),
    ErrorCode.QUARANTINED: CatalogueEntry(
        "the transaction was open at several crashes of its shard without making progress", True, "shard",
        "look at the shard's log; an undecided one was aborted"),
    ErrorCode.SUSPECT: CatalogueEntry(
        "the transaction was open at several crashes of its shard without progress and is being tried alone", False,
        "shard", "wait: it goes on if it is innocent, and is quarantined if the shard crashes again"),
    ErrorCode.UNKNOWN: CatalogueEntry(
        "no transaction has this id (or key)", True, "shard, client", "check the id; by key, submit it"),
    ErrorCode.NOT_READY: CatalogueEntry(
        "the shard has not replayed its partitions yet, or does not own this one", False, "shard", "ask again"),
    ErrorCode.FENCED: CatalogueEntry(
        "the sender's epoch is lower than one already seen: a successor has taken over", False,
        "transaction log, service", "nothing: the successor finishes the transaction"),
    ErrorCode.LATE_PREPARE: CatalogueEntry(
        "a prepare arrived after its rollback; the tombstone refused it", True, "service", "nothing: it was aborted"),
    ErrorCode.EXPIRED: CatalogueEntry(
        "a prepare or perform is older than the retention watermark; it is never run", True, "service",
        "submit the intent anew with a new key"),
    ErrorCode.FINGERPRINT: CatalogueEntry(
        "a repeated prepare carries another request than the first one", True, "service",
        "make the step's request builder a pure function of input and results"),
    ErrorCode.VIOLATION: CatalogueEntry(
        "a message that the protocol forbids in the ledger's state; nothing was changed, the step is parked", True,
        "service", "run `raytx audit`; an operator has to look"),
    ErrorCode.UNREACHABLE: CatalogueEntry(
        "the deployment cannot be reached", False, "client, command line",
        "check `raytx status`; what was submitted may have happened: ask again by key"),
    ErrorCode.PENDING: CatalogueEntry(
        "the wait for the outcome timed out; the transaction goes on", False, "client",
        "wait again on the handle, or ask by id or key"),
    ErrorCode.BUILDER_FAILED: CatalogueEntry(
        "a step's request builder raised, or made a request of more than 16 MiB; before the decision the transaction is "
        "aborted, after it the step is parked", True, "shard",
        "mend the builder: it must be a pure function of input and results"),
    ErrorCode.SAGA_DEFINITION: CatalogueEntry(
        "a saga's definition is wrong; the message names the step", True, "Saga, Step, App", "mend the definition"),
    ErrorCode.SERVICE_DEFINITION: CatalogueEntry(
        "a service class lacks a method or a type annotation; the message names it", True, "Service, App",
        "mend the class"),
    ErrorCode.CONFIG: CatalogueEntry(
        "a setting or an option is unknown or out of range, the app cannot be imported, another app or version runs there, or "
        "what is asked for needs something that is not installed; the message says which", True,
        "command line, client, actors", "correct what the message names"),
    ErrorCode.DATA_DIR: CatalogueEntry(
        "the data directory is a file, not writable or not one of raytx", True, "command line, client",
        "name a directory that can be written"),
    ErrorCode.DATA_DIR_IN_USE: CatalogueEntry(
        "another deployment runs on this data directory", True, "command line, client",
        "use it through that deployment, or stop that one first (`raytx down`)"),
    ErrorCode.STORE_REFUSED: CatalogueEntry(
        "a database is missing, damaged, an older copy, or has a hole; the message says which and where", True,
        "transaction log, service", "restore the newest copy of the whole data directory; never start on a part of it"),
    ErrorCode.DISK_FULL: CatalogueEntry(
        "the disk of the transaction log or of a service is full: nothing new is begun, what has begun is finished", True,
        "transaction log, service", "make room, then submit again with the same key (after an abort: with a new one)"),
    ErrorCode.TRACE_ROW: CatalogueEntry(
        "a row of the trace cannot be parsed; the message names row and column", True, "load generator",
        "mend the row, or pass --skip-bad"),
    ErrorCode.PAUSED: CatalogueEntry(
        "an operator has paused the saga, or a service that it needs; nothing was begun (a repeat of an accepted submit is "
        "answered all the same)", True, "shard",
        "wait until it is resumed (`raytx status` says by whom it was paused), then submit again with the same key"),
    ErrorCode.NOT_RESOLVABLE: CatalogueEntry(
        "only a parked step of a decided transaction can be resolved; the message says what it is instead", True,
        "shard, transaction log", "undecided: `raytx cancel`; not parked: wait, or `raytx retry`"),
    ErrorCode.TOO_LATE: CatalogueEntry(
        "an operator's act came when there was nothing left to act on: the transaction is decided otherwise, or has ended",
        True, "operator's acts", "nothing; `raytx show` tells how it ended"),
}
