"""Shows what is being killed while it happens: a table that stays in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from loadgen.nemesis.faults import Strike
from loadgen.nemesis.load_process import LoadProcess

SHOWN = 12


class ChaosView:
    """A context manager.

    Args:
        console: where to; one that writes to stderr.
        steps: how many there are.
        load: whose progress is shown.
    """

    def __init__(self, console: Console, steps: int, load: LoadProcess | None) -> None:
        self._console, self._steps, self._load = console, steps, load
        self._began_s = time.monotonic()
        self._recent: deque[Strike] = deque(maxlen=SHOWN)
        self._kills: Counter[str] = Counter()
        self._number, self._doing = 0, ""
        self._seen: set[int] = set()
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, number: int, doing: str) -> None:
        """A step begins."""
        self._number, self._doing = number, doing

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(f"{self._elapsed():7.1f} s  {text}", highlight=False, soft_wrap=True, markup=False)

    def tell(self, strike: Strike) -> None:
        """A strike happened (the first time it is told), or was recovered from."""
        with self._lock:
            if id(strike) not in self._seen:
                self._seen.add(id(strike))
                self._recent.append(strike)
                self._kills[strike.role] += strike.killed
                return
        if not self._console.is_terminal:
            self.say(f"{strike.step:3d} of {self._steps}  {_words(strike)}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._began_s

    def _render(self) -> RenderableType:
        with self._lock:
            recent, kills = list(self._recent), dict(self._kills)
        table = Table("step", "fault", "of", "first outcome after", expand=False)
        for strike in recent:
            took = "" if strike.took_ms is None else f"{strike.took_ms:,.0f} ms"
            table.add_row(str(strike.step), str(strike.kind), strike.actor, "missed" if strike.missed else took)
        step = f"step {self._number} of {self._steps}: {self._doing}"
        counts = ", ".join(f"{role} {number}" for role, number in sorted(kills.items()) if number)
        return Group(table, f"{self._elapsed():.0f} s  {step}", f"killed: {counts}", self._orders())

    def _orders(self) -> str:
        if self._load is None:
            return ""
        told = self._load.total()
        return (f"orders: {told['COMMITTED']:,} committed, {told['ABORTED']:,} aborted, "
                f"{self._load.progress.in_flight:,} in flight")


def _words(strike: Strike) -> str:
    if strike.missed:
        return f"{strike.kind} of {strike.actor}: missed"
    took = "no outcome followed" if strike.took_ms is None else f"first outcome after {strike.took_ms:,.0f} ms"
    return f"{strike.kind} of {strike.actor}: {took}"
