"""What a run of the load generator is asked to do, and what does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from loadgen.arrivals import SECONDS_MAX, Schedule
from loadgen.driver import Times
from loadgen.nemesis.beside import PlanText
from loadgen.shapes import LineRange, Shape
from orchestrator.config import Settings, Transport, make_settings
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode

ORDERS_DEFAULT: Final = 10_000
ORDERS_PER_S_MAX: Final = 60_000  # more than any deployment does: books for a closed loop whose end is a time
BANK: Final = "bank"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What a run is asked to do.

    Attributes:
        data: data directory; its running deployment is used, else one is embedded for the duration.
        app: import path of the app.
        workload: retail, uniform, hot, bank, or MODULE:SAGA.
        orders: how many; None: the whole trace, or `ORDERS_DEFAULT`.
        concurrency: transactions in flight of a closed loop.
        arrivals: an open loop instead: they arrive when they arrive, and what is refused stays refused.
        warm_up_s: what begins in the first seconds is not measured.
        duration_s: of a closed loop: nothing is placed after so long, the warm-up not counted.
        processes: that place orders.
        capacity_p99_ms: find the highest rate at which p99 stays within so many milliseconds; None: do not.
        shards: of an embedded deployment; None: its default.
        transport: what its processes call each other over; None: its default.
        seed: of made orders and of simulated failures.
        trace: Online Retail CSV to replay; None: orders are made.
        lines: lines of made orders; None: as measured.
        stock_share: opening stock (of a bank: money) as a share of what is ordered; None: enough.
        returns: whether the trace's credit notes are replayed.
        skip_bad: count rows that cannot be parsed instead of refusing the trace.
        faults: simulated failures by service, of an embedded deployment.
        patience_s: after so long without an outcome a transaction counts as unknown.
        history: file that keeps what was asked and told; None: a temporary one.
        chaos: plan of what is done to the deployment's actors meanwhile; None: nothing.
        watch: whether a reader looks at the services' databases meanwhile.
        first_sample: of a user's own saga, by number; the same for all processes.
        index, of: which part of the whole is this process's.
    """

    data: Path
    app: str
    workload: str = Shape.RETAIL
    orders: int | None = None
    concurrency: int = 256
    arrivals: Schedule | None = None
    warm_up_s: float = 0.0
    duration_s: float | None = None
    processes: int = 1
    capacity_p99_ms: float | None = None
    shards: int | None = None
    transport: Transport | None = None
    seed: int = 1
    trace: Path | None = None
    lines: LineRange | None = None
    stock_share: Decimal | None = None
    returns: bool = False
    skip_bad: bool = False
    faults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    patience_s: float = 120.0
    history: Path | None = None
    chaos: str | None = None
    watch: bool = False
    first_sample: int = 0
    index: int = 0
    of: int = 1

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the option.
        """
        if self.chaos is not None:
            PlanText.parse(self.chaos).plan(["log", "shard-0"])  # does anything fit? whom it strikes is seen later
        for wrong, told in (*self._wrong_of_workload(), *self._wrong_of_loop()):
            if wrong:
                raise DefiniteError(ErrorCode.INVALID_INPUT, told)

    def _wrong_of_workload(self) -> list[tuple[bool, str]]:
        made = self.workload in list(Shape)
        share = self.stock_share
        return [
            (not made and self.workload != BANK and ":" not in self.workload,
             f"--workload: there is no {self.workload!r}: name {', '.join(Shape)}, {BANK}, or your own as MODULE:SAGA"),
            (self.returns and self.trace is None, "--returns needs --trace: made orders have no credit notes"),
            (self.skip_bad and self.trace is None, "--skip-bad needs --trace: made orders have no rows"),
            (self.trace is not None and self.workload != Shape.RETAIL, "--trace is for the workload retail: drop one of them"),
            (self.lines is not None and self.trace is not None, "--lines is for made orders: drop it, or drop --trace"),
            (self.lines is not None and not made, f"--lines is for made orders: {self.workload} has no lines"),
            (share is not None and not (share.is_finite() and share > 0), f"--stock-share must be above 0, got {share}"),
            (share is not None and not made and self.workload != BANK,
             "--stock-share: what your own saga needs is for its app's opening to say"),
            (self.watch and not made, "--watch looks at the shop's services: not with this workload"),
        ]

    def _wrong_of_loop(self) -> list[tuple[bool, str]]:
        timed = self.duration_s is not None
        alone = self.processes == 1
        return [
            (self.capacity_p99_ms is not None and self.stock_share is not None,
             "--find-capacity wants a rate at which nothing is refused: drop --stock-share"),
            (self.arrivals is not None and self.orders is not None,
             "--orders is for a closed loop: with --rate, say --duration"),
            (self.stock_share is not None and timed and self.orders is None,
             "--stock-share needs to know how much is ordered: give --orders too, or --rate"),
            (not 0 <= self.warm_up_s <= SECONDS_MAX,
             f"--warm-up must be from 0 to {SECONDS_MAX:,} s; got {self.warm_up_s}"),
            (not 0 < self.patience_s <= SECONDS_MAX,
             f"--patience must be above 0, at most {SECONDS_MAX:,} s; got {self.patience_s}"),
            (self.arrivals is not None and self.arrivals.duration_s <= self.warm_up_s, self._nothing_measured()),
            (self.duration_s is not None and not 0 < self.duration_s <= SECONDS_MAX,
             f"--duration must be above 0, at most {SECONDS_MAX:,} s; got {self.duration_s}"),
            (self.orders is not None and self.orders < self.processes,
             f"--orders: {self.orders} cannot be shared by --processes {self.processes}: raise it or lower that"),
            (self.arrivals is None and self.concurrency < self.processes,
             f"--concurrency: {self.concurrency} cannot be shared by --processes {self.processes}: raise it or lower that"),
            (not alone and self.returns, "--returns follow their orders: not with --processes"),
            (not alone and self.chaos is not None, "--chaos watches this process's own orders: not with --processes"),
            (self.capacity_p99_ms is not None and (self.arrivals is not None or self.orders is not None),
             "--find-capacity chooses rates itself: drop --orders, --rate and --arrivals"),
            (self.capacity_p99_ms is not None and (self.chaos is not None or self.trace is not None),
             "--find-capacity needs a run that is like itself throughout: drop --chaos and --trace"),
        ]

    def _nothing_measured(self) -> str:
        lasts_s = 0.0 if self.arrivals is None else self.arrivals.duration_s
        return (f"--warm-up: all arrivals come within {lasts_s:g} s, so that nothing is left to measure after "
                f"{self.warm_up_s:g} s: lower it, or give --duration, which comes after it")

    @property
    def times(self) -> Times:
        """When it is measured."""
        return Times(self.warm_up_s, None if self.duration_s is None else self.warm_up_s + self.duration_s)

    @property
    def orders_made(self) -> int:
        """How many orders have to be ready where no trace says; just those that arrive where a share of them is brought in."""
        if self.arrivals is not None:
            counted = self.stock_share is not None
            return max(1, sum(1 for _ in self.arrivals.offsets())) if counted else self.arrivals.expected
        if self.orders is None and self.duration_s is not None:
            return int(ORDERS_PER_S_MAX / self.of * (self.warm_up_s + self.duration_s)) + self.concurrency
        return ORDERS_DEFAULT if self.orders is None else self.orders

    @property
    def samples_max(self) -> int:
        """How many samples of a user's own saga its processes may place, each every so many-th."""
        return self.processes * self.share(0).orders_made

    def share(self, index: int) -> LoadPlan:
        """The part of one of its processes, counted from 0."""
        of, orders = self.processes, self._orders_asked
        return replace(
            self, index=index, of=of, processes=1, concurrency=max(1, _part(self.concurrency, index, of)),
            orders=None if orders is None else _part(orders, index, of),
            arrivals=None if self.arrivals is None else self.arrivals.share(index, of))

    @property
    def _orders_asked(self) -> int | None:
        """None where a time or the trace says."""
        open_end = self.arrivals is not None or self.duration_s is not None or self.trace is not None
        return ORDERS_DEFAULT if self.orders is None and not open_end else self.orders

    def settings(self) -> Settings:
        """Of an embedded deployment.

        Raises:
            DefiniteError: E_CONFIG, naming the setting.
        """
        faults = {service: {"seed": self.seed, **values} for service, values in self.faults.items()}
        wanted = {"shards": self.shards, "transport": self.transport}
        chosen = {name: value for name, value in wanted.items() if value is not None}
        return make_settings(**DataDirectory(self.data).settings() | chosen, faults=faults)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the summary."""
        arrivals = self.arrivals
        duration_s = self.duration_s if arrivals is None else arrivals.duration_s - self.warm_up_s
        return {
            "data": str(self.data), "app": self.app, "workload": str(self.workload), "orders": self._orders_asked,
            "concurrency": self.concurrency if arrivals is None else None,
            "rate_per_s": None if arrivals is None else arrivals.rate_per_s, "duration_s": duration_s,
            "warm_up_s": self.warm_up_s, "processes": self.processes, "capacity_p99_ms": self.capacity_p99_ms,
            "trace": None if self.trace is None else str(self.trace),
            "lines": None if self.lines is None else [self.lines.least, self.lines.most],
            "stock_share": None if self.stock_share is None else float(self.stock_share), "returns": self.returns,
            "skip_bad": self.skip_bad, "patience_s": self.patience_s, "watch": self.watch,
            "history": None if self.history is None else str(self.history), "chaos": self.chaos,
        }


def _part(whole: int, index: int, of: int) -> int:
    return whole // of + (index < whole % of)
