"""The result of a load as JSON: what `raytx load --json` prints; its fields are documented in docs/load.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.saga import describe

RESULT_SCHEMA: Final = 2


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class _Version(BaseModel):
    """Of any schema; what else there is follows from it."""

    schema_version: int


class SecondResult(_Part):
    """One second of the run, by when outcomes were told.

    `offered` is 0 throughout a closed loop; `cpu_share` and `busy` (the share of the machine's processors) are those of the
    whole second, empty and null if unknown.
    """

    at_s: int
    offered: int
    committed: int
    aborted: int
    rejected: int
    unknown: int
    in_flight: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_share: dict[str, float]  # processors that each role used
    busy: float | None


class MarkResult(_Part):
    """Something that happened to the deployment, in seconds from the begin of the run."""

    at_s: float
    what: str


class StepResult(_Part):
    """One rate that a search for the capacity tried; 0: the closed loop that it began with."""

    rate_per_s: float
    told_per_s: float
    p99_ms: float
    refused: int
    holds: bool


class CapacityResult(_Part):
    """What a search for the capacity found."""

    p99_ms_max: float
    rate_per_s: float
    steps: list[StepResult]


class LoadResult(_Part):
    """A finished run; what a later version adds is kept, an unknown schema is refused."""

    schema_version: int
    ok: bool
    run: str
    workload: str
    orders: int
    committed: int
    aborted: int
    aborted_by_code: dict[str, int]
    rejected: int
    rejected_by_code: dict[str, int]
    unknown: int
    unknown_later: dict[str, int]
    wall_s: float
    window_s: float
    orders_per_s: float
    latency_ms: dict[str, float]
    latency_histogram: str
    cpu_us_per_order: dict[str, float]
    processors: int
    restarts: int
    repeats: int
    wrong_outcomes: list[str]
    wrong_outcomes_count: int
    audit: dict[str, Any]
    history: dict[str, Any]
    seed: int
    settings: dict[str, Any]
    notes: list[str]
    chaos: dict[str, Any] | None
    capacity: CapacityResult | None
    seconds: list[SecondResult]
    marks: list[MarkResult]
    lateness_ms: dict[str, float] | None = None  # p99 and max of the generator's own; None: a closed loop, or not told
    latency_censored: int = 0  # of the orders in the histogram, those whose latency is a lower bound
    lines: int | None = None
    units: int | None = None
    amount_minor: int | None = None
    rows: dict[str, Any] | None = None
    returns: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """A result from a file that `--json` or `--save` wrote.

        Raises:
            DefiniteError: E_INVALID_INPUT where it is none, or of a schema that this version does not know.
        """
        try:
            text = path.read_bytes()
            version = _Version.model_validate_json(text).schema_version
            found = cls.model_validate_json(text) if version == RESULT_SCHEMA else None
        except OSError as error:
            raise DefiniteError(ErrorCode.INVALID_INPUT, f"{path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise DefiniteError(ErrorCode.INVALID_INPUT, f"{path} is no result of raytx load: {describe(error)}") from None
        if found is None:
            told = f"{path} has schema {version}, this version knows {RESULT_SCHEMA}"
            raise DefiniteError(ErrorCode.INVALID_INPUT, told)
        return found
