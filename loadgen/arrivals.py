"""When transactions of an open loop arrive: at random at a mean rate, or as a file recorded them."""

from __future__ import annotations

import csv
import gzip
import random
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, Self

from orchestrator.errors import DefiniteError, ErrorCode

NS: Final = 1_000_000_000
RATE_MAX: Final = 1_000_000
SECONDS_MAX: Final = 86_400  # of whatever lasts
ARRIVALS_MAX: Final = 50_000_000
COUNTS: Final = frozenset({"count", "requests", "arrivals"})  # names of a second column that holds a number of arrivals
_SEED_STEP: Final = 1_000_003


class Schedule(Protocol):
    """When transactions arrive."""

    @property
    def rate_per_s(self) -> float:
        """Mean number in a second."""

    @property
    def duration_s(self) -> float:
        """For how long; what is under way then is waited for."""

    @property
    def expected(self) -> int:
        """Transactions to have ready: more do not arrive."""

    def offsets(self) -> Iterator[int]:
        """The arrivals in ns from the begin, rising; the same at every call."""

    def share(self, index: int, of: int) -> Self:
        """The part of one of several processes, counted from 0; together they are the whole."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Poisson arrivals.

    Attributes:
        rate_per_s: mean number in a second.
        duration_s: for how long; what is under way then is waited for.
        seed: of the gaps between them.
    """

    rate_per_s: float
    duration_s: float
    seed: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.rate_per_s <= RATE_MAX and 0 < self.duration_s <= SECONDS_MAX):
            raise DefiniteError(
                ErrorCode.INVALID_INPUT, f"--rate must be above 0, at most {RATE_MAX:,} a second, and --duration with "
                f"--warm-up above 0, at most {SECONDS_MAX:,} s; got {self.rate_per_s} and {self.duration_s}")

    @property
    def expected(self) -> int:
        """The mean and six standard deviations more."""
        mean = self.rate_per_s * self.duration_s
        return int(mean + 6 * mean ** 0.5) + 1

    def offsets(self) -> Iterator[int]:
        """See `Schedule.offsets`."""
        draw, rate_per_s, end_ns = random.Random(self.seed), self.rate_per_s, int(self.duration_s * NS)
        at_ns = int(draw.expovariate(rate_per_s) * NS)
        while at_ns <= end_ns:
            yield at_ns
            at_ns += int(draw.expovariate(rate_per_s) * NS)

    def share(self, index: int, of: int) -> Arrivals:
        """See `Schedule.share`; Poisson processes of a part of the rate add up to one of the whole."""
        return self if of == 1 else Arrivals(self.rate_per_s / of, self.duration_s, self.seed + _SEED_STEP * (index + 1))


@dataclass(frozen=True, slots=True)
class ArrivalTrace:
    """Recorded arrivals, perhaps in another time and at another mean rate than they had.

    Attributes:
        starts_ns, counts: arrivals from each start to the next one.
        single: whether each row is one arrival at its very time; else they are drawn uniformly from its interval.
        span_ns: of the record.
        duration_s: it is played in so many seconds.
        times: each arrival comes so often; a part of one by chance.
        seed: of what is drawn.
        index, of: this process has every `of`-th arrival.
    """

    starts_ns: array[int]
    counts: array[int]
    single: bool
    span_ns: int
    duration_s: float
    times: float = 1.0
    seed: int = 1
    index: int = 0
    of: int = 1

    @property
    def rate_per_s(self) -> float:
        """Mean number in a second."""
        return sum(self.counts) * self.times / self.of / self.duration_s

    @property
    def expected(self) -> int:
        """All of them; where they are drawn, six standard deviations more."""
        return int(sum(self.counts) * self.times / self.of + 3 * len(self.counts) ** 0.5) + 1

    def offsets(self) -> Iterator[int]:
        """See `Schedule.offsets`."""
        mine = enumerate(self._all())
        return (at_ns for number, at_ns in mine if number % self.of == self.index) if self.of > 1 else self._all()

    def share(self, index: int, of: int) -> ArrivalTrace:
        """See `Schedule.share`."""
        return replace(self, index=index, of=of)

    def _all(self) -> Iterator[int]:
        draw = random.Random(self.seed)
        scale = self.duration_s * NS / self.span_ns
        ends_ns = [*self.starts_ns[1:], self.span_ns]
        for start_ns, end_ns, count in zip(self.starts_ns, ends_ns, self.counts, strict=True):
            whole, part = divmod(count * self.times, 1)
            number = int(whole) + (draw.random() < part)
            exact = [start_ns] if self.single and number else []
            drawn = [start_ns + draw.random() * (end_ns - start_ns) for _ in range(number - len(exact))]
            for at_ns in sorted(exact + drawn):
                yield int(at_ns * scale)


def read_arrivals(
    path: Path, *, rate_per_s: float | None = None, duration_s: float | None = None, seed: int = 1,
) -> ArrivalTrace:
    """Arrivals from a CSV file with a header, which may be compressed by gzip (`.gz`); docs/load.md has the format.

    Args:
        path: its first column is the time, in seconds or as ISO 8601; a second one that is called count, requests or
            arrivals is the number of arrivals until the next row; without one every row is one arrival.
        rate_per_s: mean rate; None: as recorded, for the time it is played in.
        duration_s: the time it is played in; None: as recorded.
        seed: of what is drawn.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming file and row.
    """
    starts_ns, counts, single = _rows(path)
    if len(starts_ns) < 2:  # noqa: PLR2004 - a span needs two
        raise _wrong(path, "it needs two rows or more")
    span_ns = starts_ns[-1] + (0 if single else starts_ns[-1] - starts_ns[-2])
    if span_ns <= 0:
        raise _wrong(path, "all its arrivals are at one time")
    played_s = span_ns / NS if duration_s is None else duration_s
    if not any(counts):
        raise _wrong(path, "it has no arrivals")
    times = 1.0 if rate_per_s is None else rate_per_s * played_s / sum(counts)
    trace = ArrivalTrace(starts_ns, counts, single, span_ns, played_s, times, seed)
    Arrivals(trace.rate_per_s, played_s)  # the same limits
    if trace.expected > ARRIVALS_MAX:
        raise _wrong(path, f"{trace.expected:,} arrivals are more than {ARRIVALS_MAX:,}: name a lower --rate")
    return trace


def _rows(path: Path) -> tuple[array[int], array[int], bool]:
    starts_ns, counts = array("q"), array("q")
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            rows = csv.reader(file)
            header = next(rows, [])
            counted = len(header) > 1 and header[1].strip().lower() in COUNTS
            for fields in filter(None, rows):
                starts_ns.append(_time_ns(fields[0]))
                counts.append(int(fields[1]) if counted else 1)
                if counts[-1] < 0:
                    raise ValueError(f"{counts[-1]} arrivals")  # noqa: TRY301 - told below, with the row
                if starts_ns[-1] < starts_ns[-2:][0]:
                    raise ValueError("it is earlier than the one before")  # noqa: TRY301 - likewise
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _wrong(path, str(error)) from None
    except (ValueError, IndexError, OverflowError, csv.Error) as error:
        raise _wrong(path, f"row {rows.line_num}: {error}") from None
    first_ns = starts_ns[0] if starts_ns else 0
    return array("q", [start - first_ns for start in starts_ns]), counts, not counted


def _time_ns(text: str) -> int:
    """Seconds, or an ISO 8601 time; without an offset it is taken as UTC."""
    try:
        return int(float(text) * NS)
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
        whole = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(whole.timestamp()) * NS + whole.microsecond * 1_000


def _wrong(path: Path, why: str) -> DefiniteError:
    return DefiniteError(ErrorCode.INVALID_INPUT, f"--arrivals: {path}: {why}")
