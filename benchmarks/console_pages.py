"""How long the console's pages take over a long log, through HTTP: `python -m benchmarks.console_pages`."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, NamedTuple

import psutil
import typer
from rich.console import Console
from rich.table import Table

from actors.orders import app as shop
from benchmarks.mixed_log import write_mixed_log
from orchestrator.deployment import DataDirectory
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUND_MS = 200.0
WIDTH = 120
WARM_UPS = 1
STDERR = Console(stderr=True)


class Page(NamedTuple):
    """What one page took: each time as a browser sees it, the processor time of the console for one, and its bytes."""

    times_ms: list[float]
    cpu_ms: float
    size: int


def main(
    transactions: Annotated[int, typer.Option(min=5_000, help="In the log.")] = 1_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Of every page; the median and the slowest are told.")] = 15,
    data: Annotated[Path | None, typer.Option(help="Written where it is new, and kept; a temporary one otherwise.")] = None,
) -> None:
    """Load every page of the console over a log of so many transactions; exit 1 if a list's median is above 200 ms."""
    with tempfile.TemporaryDirectory(prefix="raytx-pages-") as temporary:
        directory = DataDirectory(data or Path(temporary) / "data")
        if not directory.log_path.exists():
            directory.prepare()
            write_mixed_log(directory.log_path, transactions, progress=STDERR.print)
        for name, service in shop.by_service.items():
            directory.service_path(name).parent.mkdir(mode=0o700, exist_ok=True)
            service.create(directory.service_path(name))
        with _console(directory) as (port, process):
            measured = {path: _measure(port, process, path, repeats) for path in _paths(directory)}
    table = Table("page", "median ms", "slowest ms", "CPU ms", "KiB", box=None)
    for path, page in measured.items():
        table.add_row(
            path, f"{median(page.times_ms):.0f}", f"{max(page.times_ms):.0f}", f"{page.cpu_ms:.0f}", f"{page.size / 1024:.0f}")
    Console(width=WIDTH).print(f"{transactions:,} transactions, {repeats} times each", table)
    raise typer.Exit(any(median(page.times_ms) > BOUND_MS for page in measured.values()))


def _paths(directory: DataDirectory) -> list[str]:
    """Pages from both ends of the log, and with every filter; the rare ones have to look the longest."""
    with closing(LogReader(directory.log_path)) as log:
        newest = log.find(TransactionQuery(limit=200))
        oldest = next(log.iterate())
        middle = log.find(TransactionQuery(until_ms=(newest[0].began_ms + oldest.began_ms) // 2, limit=1))[0]
    lists = ("", f"after={middle.transaction}", f"after={oldest.transaction}", "limit=200", "state=committed", "state=aborted",
             "state=open", "state=committing", "parked=yes", "saga=place_order", "saga=return_items", "saga=rare",
             "code=OUT_OF_STOCK", "code=RARE", "code=NONE", "service=shipping", "service=notification",
             f"key={middle.business_key}", f"key={middle.key}", "key=none", "since=15m",
             f"saga=rare&after={middle.transaction}", "saga=rare&state=committed",
             f"state=aborted&until=1d&after={middle.transaction}")
    return [*(f"/transactions{'?' if text else ''}{text}" for text in lists), "/", "/parked", "/services", "/shards", "/acts",
            f"/transactions/{middle.transaction}"]


def _measure(port: int, process: psutil.Process, path: str, repeats: int) -> Page:
    times_ms, size, busy_s = [], 0, 0.0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for number in range(-WARM_UPS, repeats):
        if number == 0:
            busy_s = _busy_s(process)
        began_s = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        size = len(answer.read())
        if answer.status != http.client.OK:
            raise RuntimeError(f"{path}: {answer.status}")
        if number >= 0:
            times_ms.append((time.perf_counter() - began_s) * 1_000)
    connection.close()
    return Page(times_ms, (_busy_s(process) - busy_s) * 1_000 / repeats, size)


def _busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _console(directory: DataDirectory) -> Iterator[tuple[int, psutil.Process]]:
    command = [sys.executable, "-m", "loadgen.cli", "console", "--port", "0", "--data", str(directory.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this very program
        assert process.stdout is not None
        try:
            told = re.search(r":(\d+)/ ", process.stdout.readline())
            if told is None:
                raise RuntimeError("the console did not start")
            yield int(told[1]), psutil.Process(process.pid)
        finally:
            process.terminate()


if __name__ == "__main__":
    typer.run(main)
