"""Settings of a deployment: one immutable struct, guarded by pydantic, carried to every actor as msgpack."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol.breaker import BreakerPolicy
from orchestrator.protocol.traffic import TrafficPolicy
from orchestrator.saga import decode_plain, describe

PROTOCOL_VERSION = 1
Probability = Annotated[float, Field(ge=0, le=1)]


class LogLevel(StrEnum):
    """loguru levels."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    OFF = "OFF"  # no lines, no file


class Transport(StrEnum):
    """What calls between the processes of a deployment go over."""

    DIRECT = "direct"  # connections of their own
    RAY = "ray"  # Ray actor calls


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FaultSettings(_Strict):
    """Simulated failures of one service; everything off by default, every draw from the seed.

    Probabilities are per operation; `latency_ms` and `tail_ms` delay the asynchronous part (`tail_ms` with
    `tail_probability`); a hang never answers that attempt.
    """

    seed: int = 1
    decline: Probability = 0.0  # prepare answers no, SIMULATED_DECLINE
    transient: Probability = 0.0  # answers with a transient error, nothing done
    latency_ms: Annotated[int, Field(ge=0, le=600_000)] = 0
    tail_ms: Annotated[int, Field(ge=0, le=600_000)] = 0
    tail_probability: Probability = 0.0
    hang: Probability = 0.0
    lose_reply: Probability = 0.0  # done and durable, the reply never leaves
    crash_before: Probability = 0.0  # the process dies before the effect
    crash_after: Probability = 0.0  # the process dies after the effect is durable, before the reply


class Settings(_Strict):
    """What a deployment runs with; times in milliseconds."""

    shards: Annotated[int, Field(ge=1, le=64)] = 1
    open_transactions_max: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096  # per shard: admission limit
    in_doubt_after_ms: Annotated[int, Field(ge=100)] = 5_000
    retention_ms: Annotated[int, Field(ge=1_000)] = 7 * 24 * 3_600_000
    quarantine_after: Annotated[int, Field(ge=1)] = 5  # recoveries without a new record
    repeats_per_s: Annotated[int, Field(ge=1, le=100_000)] = 100  # per shard and service: repeats that are always allowed
    repeats_percent: Annotated[int, Field(ge=0, le=100)] = 10  # and in addition of the first attempts
    breaker_failures: Annotated[int, Field(ge=0, le=100_000)] = 10  # transactions; 0: no breaker
    breaker_silent_ms: Annotated[int, Field(ge=0, le=600_000)] = 4_000
    breaker_probe_ms: Annotated[int, Field(ge=10, le=60_000)] = 1_000
    stuck_after_ms: Annotated[int, Field(ge=1_000)] = 60_000  # one turn of work that takes longer ends its process
    transport: Transport = Transport.DIRECT
    log_level: LogLevel = LogLevel.INFO
    metrics_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 5_000  # how often figures go to Ray's metrics; 0: never
    store_resource: str | None = None  # Ray resource of the nodes that reach the data directory: log and services run there
    shard_resource: str | None = None  # Ray resource of the nodes that shards run on
    tracing: str | None = None  # module:callable that gives an actor its OpenTelemetry TracerProvider; see docs/tracing.md
    faults: dict[str, FaultSettings] = {}

    def traffic(self) -> TrafficPolicy:
        """How much may be sent to a service that is ill."""
        breaker = BreakerPolicy(self.breaker_failures, self.breaker_silent_ms, self.breaker_probe_ms)
        return TrafficPolicy(self.repeats_per_s, self.repeats_percent, breaker)

    def pack(self) -> bytes:
        """Msgpack for an actor's constructor."""
        return msgspec.msgpack.encode(self.model_dump(mode="json"))


def unpack_settings(payload: bytes) -> Settings:
    """The reverse of `Settings.pack`."""
    return Settings.model_validate(decode_plain(payload))


def make_settings(**values: Any) -> Settings:
    """Settings from keyword arguments.

    Raises:
        DefiniteError: E_CONFIG, naming the setting.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise DefiniteError(ErrorCode.CONFIG, describe(error)) from None
