"""What travels between client, shard, transaction log and services: schema-versioned msgpack arrays, never pickle.

New fields go to the end with a default, so that an older reader skips them and a newer one fills them in.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

SCHEMA_VERSION = 1


class Wire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all frozen wire structs."""


class Kind(IntEnum):
    """The four messages a shard sends to a participant."""

    PREPARE = 0
    COMMIT = 1
    ROLLBACK = 2
    PERFORM = 3


class Status(IntEnum):
    """How a participant answers."""

    YES = 0  # prepare: held, durable
    NO = 1  # prepare or perform: refused for business reasons, durable for a prepare
    NOT_YET = 2  # no row written, ask again
    ERROR = 3  # transient, no row written, ask again
    ACK = 4  # commit, rollback, perform: done, durable
    VIOLATION = 5  # forbidden in this ledger state, nothing changed
    FENCED = 6  # the sender's epoch is stale


class Command(Wire, frozen=True):
    """One operation for one participant; unique per (transaction, step), whatever its attempt."""

    transaction: str
    step: str
    kind: Kind
    attempt: int
    epoch: int  # the sender's epoch of the transaction's partition
    operation: str
    request: bytes = b""  # msgpack; empty for commit and rollback: (transaction, step) suffices
    traceparent: str = ""  # the step's place in a trace; empty where nothing is traced


class Reply(Wire, frozen=True):
    """A participant's answer to one command; `result` is the stored vote's msgpack (also on the ack of a commit)."""

    transaction: str
    step: str
    kind: Kind
    attempt: int
    status: Status
    code: str = ""
    message: str = ""
    result: bytes = b""


class CommandBatch(Wire, frozen=True):
    """One exchange from a shard to a participant; `watermark_ms` is the log's retention watermark, Unix ms."""

    schema: int
    sender: str  # the shard's name
    incarnation: str
    commands: list[Command]
    watermark_ms: int = 0
    exempt: list[str] = []


class ReplyBatch(Wire, frozen=True):
    """What was ready when the exchange was answered."""

    schema: int
    replies: list[Reply]
    conversation: str = ""  # see `orchestrator.exchange.Responder`


class Inquiry(Wire, frozen=True):
    """A participant in doubt asks about prepared rows; `epoch` is the highest it has seen for the partition."""

    transaction: str
    step: str
    epoch: int


class SubmitRequest(Wire, frozen=True):
    """One transaction as a client asks for it."""

    number: int  # the client's own, to match the answer
    key: str
    saga: str
    input: bytes
    duration_ms: int
    traceparent: str = ""  # the caller's place in a trace; no part of the fingerprint


class CancelRequest(Wire, frozen=True):
    """Cancel by id, or by key where `transaction` is empty."""

    number: int
    key: str
    transaction: str = ""


class LookupRequest(Wire, frozen=True):
    """Ask for the outcome of a transaction that was submitted before, by id, or by key where `transaction` is empty."""

    number: int
    key: str
    transaction: str = ""


class ActKind(IntEnum):
    """What an operator asks for."""

    RETRY = 0
    CANCEL = 1
    RESOLVE = 2
    PAUSE = 3
    RESUME = 4


class ActRequest(Wire, frozen=True):
    """An operator acts on one transaction (retry, cancel, resolve); the same act sent again is the same act."""

    number: int
    kind: ActKind
    transaction: str
    who: str
    reason: str
    at_ms: int  # on the operator's clock, Unix ms
    step: str = ""  # to be resolved


class ClientBatch(Wire, frozen=True):
    """One exchange from a client to a shard."""

    schema: int
    client: str
    submits: list[SubmitRequest]
    cancels: list[CancelRequest] = []
    lookups: list[LookupRequest] = []
    acts: list[ActRequest] = []

    @property
    def empty(self) -> bool:
        """Whether it asks for nothing, but for what is ready."""
        return not (self.submits or self.cancels or self.lookups or self.acts)


class OutcomeStatus(IntEnum):
    """What became of a request of a client."""

    COMMITTED = 0
    ABORTED = 1
    REJECTED = 2  # definite: nothing was begun under this request
    RETRY = 3  # not answered here and now (E_NOT_READY): ask again
    ACTED = 4  # an operator's act is done, `attempts` messages left at once; the transaction goes on


class StepResult(Wire, frozen=True):
    """The stored vote of one step, msgpack."""

    step: str
    result: bytes


class OutcomeMessage(Wire, frozen=True):
    """The answer to one numbered request of a client."""

    number: int
    transaction: str
    status: OutcomeStatus
    results: list[StepResult] = []
    code: str = ""
    message: str = ""
    service: str = ""
    step: str = ""
    attempts: int = 0
    retry_after_ms: int = 0


class OutcomeBatch(Wire, frozen=True):
    """What was ready when the client's exchange was answered, and for how long (ms) not to send which sagas."""

    schema: int
    outcomes: list[OutcomeMessage]
    full_ms: dict[str, int] = {}
    conversation: str = ""  # see `orchestrator.exchange.Responder`
