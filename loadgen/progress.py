"""Shows how far a run is: a bar on a terminal, a plain line every few seconds elsewhere; always on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadgen.tally import Tally
from loadgen.workload import Told

LINE_EVERY_S: Final = 5.0
CODES_SHOWN: Final = 3


class ProgressView:
    """A context manager; `show` fits the drivers' progress.

    Args:
        console: where to; one that writes to stderr.
        total: orders to place; None: as many as there is time for.
    """

    def __init__(self, console: Console, total: int | None) -> None:
        self._console, self._total = console, total
        self._lined_s = time.monotonic()
        self._bar = Progress(
            TextColumn("orders"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=console,
            disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("orders", total=total, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, tally: Tally, in_flight: int, recovered: int = 0) -> None:
        """Redraw."""
        now_s = time.monotonic()
        done, text = describe(tally, in_flight, self._total, recovered)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, note=text)
        elif now_s - self._lined_s >= LINE_EVERY_S:
            self._lined_s = now_s
            self._console.print(f"orders {text}", highlight=False, soft_wrap=True)


def describe(tally: Tally, in_flight: int, total: int | None, recovered: int) -> tuple[int, str]:
    """How many orders have come to an end, and one line that says it; rate and latency are those of the last whole second."""
    counts = tally.orders
    done = counts.told.total()
    last = max(tally.seconds, default=0)
    second = tally.seconds.get(last - 1) or tally.seconds.get(last)
    parts = [f"{done:,}" if total is None else f"{done:,} of {total:,}"]
    if second is not None:
        p50, p99 = second.percentile_ms(50), second.percentile_ms(99)
        parts[0] += f": {second.told.total():,}/s"
        parts.append(f"p50 {p50:,.1f} p99 {p99:,.1f} ms")
    codes = ", ".join(f"{code} {number:,}" for code, number in counts.aborted_by_code.most_common(CODES_SHOWN))
    parts.append(f"{counts.told[Told.COMMITTED]:,} committed")
    parts.append(f"{counts.told[Told.ABORTED]:,} aborted" + (f" ({codes})" if codes else ""))
    parts += [f"{counts.told[kind]:,} {kind.name.lower()}" for kind in (Told.REJECTED, Told.UNKNOWN) if counts.told[kind]]
    parts.append(f"{in_flight:,} in flight")
    parts += [f"{recovered:,} recovered"] if recovered else []
    return done, ", ".join(parts)
