"""What the transaction log stores, and what it answers to an append."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from orchestrator.protocol.messages import ActKind, Wire

RECORD_SCHEMA = 1


class Decision(IntEnum):
    """The one decision of a transaction."""

    COMMIT = 0
    ABORT = 1


class State(IntEnum):
    """Where a transaction stands; retry counts, reasons and 'parked' are fields, not states."""

    PREPARING = 0
    COMMITTING = 1
    COMMITTED = 2
    ABORTING = 3
    ABORTED = 4


class Begun(Wire, frozen=True, tag="begun"):
    """Binds key to id; durable before the first prepare leaves."""

    transaction: str
    key: str
    fingerprint: bytes  # of input and saga name, 16 bytes; b"" fits any (a cancel that overtook its submit)
    saga: str
    version: int
    input: bytes
    began_ms: int  # wall clock, Unix ms
    deadline_ms: int  # absolute wall clock, Unix ms
    duration_ms: int
    business_key: str = ""
    traceparent: str = ""  # the submitter's place in a trace: what a recovery goes on with


class Decided(Wire, frozen=True, tag="decided"):
    """The commit point; durable before anyone hears of it."""

    transaction: str
    decision: Decision
    at_ms: int
    code: str = ""
    message: str = ""
    service: str = ""
    step: str = ""
    attempts: int = 0


class Ended(Wire, frozen=True, tag="ended"):
    """Every participant has acknowledged; lazy."""

    transaction: str
    at_ms: int


class Parked(Wire, frozen=True, tag="parked"):
    """A step needs an operator; the transaction stays open and is retried slowly. An empty code means unparked."""

    transaction: str
    step: str
    code: str
    message: str
    at_ms: int
    service: str = ""


class CancelledKey(Wire, frozen=True, tag="cancelled_key"):
    """Cancel by key: where the key is unbound, bind it to an aborted, ended transaction in one group."""

    transaction: str
    key: str
    at_ms: int


class Resolved(Wire, frozen=True, tag="resolved"):
    """An operator asserts that a parked step has come to what the decision requires; it counts as acknowledged."""

    transaction: str
    step: str
    decision: Decision  # what it has come to: the log stores only what its own decision requires
    who: str
    reason: str
    at_ms: int
    awaited: bool = True  # its ledger is still to agree (commit, rollback); a perform holds nothing


class Act(Wire, frozen=True, tag="act"):
    """What an operator did, when and why; durable before it is done."""

    transaction: str  # empty where a saga or a service was paused or resumed
    kind: ActKind
    who: str
    reason: str
    at_ms: int
    step: str = ""
    saga: str = ""
    service: str = ""


Record = Begun | Decided | Ended | Parked | CancelledKey | Resolved | Act


class StoredTransaction(Wire, frozen=True):
    """A transaction as the log knows it."""

    begun: Begun
    state: State
    decided: Decided | None = None
    ended_ms: int = 0
    parked: list[Parked] = []  # noqa: RUF012
    recoveries: int = 0  # recoveries in a row without a new record, this one included
    resolved: list[Resolved] = []  # noqa: RUF012 - those with which no ledger agrees yet


class AppendStatus(IntEnum):
    """What became of one record."""

    STORED = 0  # it is durable, or was already: `decided` carries the STORED decision of a Decided
    BOUND = 1  # the key is bound to another transaction with a fitting fingerprint: see `stored`
    CONFLICT = 2  # the key is bound to another transaction with another fingerprint
    FENCED = 3  # the epoch is stale; nothing was stored
    UNKNOWN = 4  # a record of a transaction that was never begun; nothing was stored
    FULL = 5  # the disk is full and this would begin something new; nothing was stored
    REFUSED = 6  # an operator's act that the log's own state does not allow; nothing was stored


class AppendResult(Wire, frozen=True):
    """The log's answer to one record."""

    status: AppendStatus
    decided: Decided | None = None
    stored: StoredTransaction | None = None


class EpochRecord(Wire, frozen=True):
    """A record with the sender's epoch of its partition."""

    epoch: int
    record: Record


class AppendRequest(Wire, frozen=True):
    """A batch of records; a sequence not above the highest processed from that incarnation is dropped whole."""

    schema: int
    shard: int
    incarnation: str
    sequence: int
    records: list[EpochRecord]


class Pause(Wire, frozen=True):
    """A saga or a service that an operator has paused."""

    saga: str  # empty where a service is
    service: str
    who: str
    reason: str
    at_ms: int


class Pauses(Wire, frozen=True):
    """All that is paused; the version rises with every change."""

    version: int = 0
    paused: list[Pause] = []  # noqa: RUF012


NOTHING_PAUSED = Pauses()


class AppendReply(Wire, frozen=True):
    """Results in the order of the records; `dropped` says that the sequence was stale and nothing was looked at."""

    schema: int
    results: list[AppendResult]
    watermark_ms: int = 0
    exempt: list[str] = []  # noqa: RUF012
    dropped: bool = False
    pauses: int = 0  # version of what is paused


class LoadRequest(Wire, frozen=True):
    """Which transactions a shard wants to see, by key or by id; answered with those that the log knows."""

    keys: list[str]
    transactions: list[str]


class TakeRequest(Wire, frozen=True):
    """A shard's incarnation takes its partitions: raises their epochs, gets their open transactions."""

    schema: int
    shard: int
    incarnation: str
    partitions: list[int]
    pid: int
    deployment_run: str  # changes at every `up`; restarts are counted within one run


class TakeReply(Wire, frozen=True):
    """Epochs by partition (same order as asked), open transactions, the watermark and how often this shard restarted.

    No epochs: nothing was taken, the shard is of another run than the log.
    """

    schema: int
    epochs: list[int]
    open: list[StoredTransaction]
    watermark_ms: int
    restarts: int
    exempt: list[str] = []  # noqa: RUF012
    pauses: Pauses = NOTHING_PAUSED


def encode(value: Wire) -> bytes:
    """Msgpack of any wire struct."""
    return _ENCODER.encode(value)


_ENCODER = msgspec.msgpack.Encoder()
