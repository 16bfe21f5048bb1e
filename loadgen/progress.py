"""Shows how far a run is: a bar on a terminal, a plain line every few seconds elsewhere; always on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadgen.driver import Tally
from loadgen.workload import Told

LINE_EVERY_S = 5.0


class ProgressView:
    """A context manager; `show` fits `Driver`'s progress.

    Args:
        console: where to; one that writes to stderr.
        total: orders to place.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total
        self._began_s = self._lined_s = time.monotonic()
        self._bar = Progress(
            TextColumn("orders"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("orders", total=total, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, tally: Tally, in_flight: int) -> None:
        """Redraw."""
        now_s = time.monotonic()
        told = tally.orders.told
        done = sum(told.values())
        note = (f"{done / max(now_s - self._began_s, 1e-9):,.0f}/s, {told[Told.COMMITTED]:,} committed, "
                f"{told[Told.ABORTED]:,} aborted, {in_flight:,} in flight")
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, note=note)
        elif now_s - self._lined_s >= LINE_EVERY_S:
            self._lined_s = now_s
            self._console.print(f"orders {done:,} of {self._total:,}: {note}", highlight=False, soft_wrap=True)
