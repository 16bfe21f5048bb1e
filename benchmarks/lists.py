"""How long a page of `raytx list` takes in a long log, filter by filter: `python -m benchmarks.lists`.

The first page, and one that begins in the middle of the log. Every query opens the log anew, as the command and the console
do. CPU time is told beside the wall clock's, since a machine that is shared tells little by the latter.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.mixed_log import WEEK_MS, write_mixed_log
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore
from orchestrator.protocol.identifiers import oldest_id

TIMES = 5
FILTERS: dict[str, dict[str, object]] = {
    "all": {},
    "--state open": {"state": "open"},
    "--state preparing": {"state": "preparing"},
    "--state committed": {"state": "committed"},
    "--state aborted": {"state": "aborted"},
    "--saga place_order": {"saga": "place_order"},
    "--saga return_items": {"saga": "return_items"},
    "--saga rare": {"saga": "rare"},
    "--saga nothing": {"saga": "nothing"},
    "--code OUT_OF_STOCK": {"code": "OUT_OF_STOCK"},
    "--code RARE": {"code": "RARE"},
    "--code UNDELIVERABLE": {"code": "UNDELIVERABLE"},
    "--service payment": {"service": "payment"},
    "--service notification": {"service": "notification"},
    "--parked": {"parked": True},
    "--no-parked": {"parked": False},
    "--key order-7": {"key": "order-7"},
    "--key nobody": {"key": "nobody"},
    "--saga rare --state committed": {"saga": "rare", "state": "committed"},
    "--saga return_items --service payment": {"saga": "return_items", "service": "payment"},
    "--saga return_items --code RARE": {"saga": "return_items", "code": "RARE"},
}


def main(
    transactions: Annotated[int, typer.Option(min=10_000, help="In the log.")] = 1_000_000,
    abort_percent: Annotated[int, typer.Option(min=0, max=100, help="Of them that abort.")] = 10,
    log: Annotated[Path | None, typer.Option(help="A log that an earlier run has kept there, or shall keep.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lines of a page.")] = 50,
) -> None:
    """Write a log, ask it for pages, print a table."""
    console = Console(stderr=True)
    with TemporaryDirectory(prefix="raytx-lists-") as scratch:
        path = log or Path(scratch) / "log.sqlite"
        if not path.exists():
            write_mixed_log(path, transactions, abort_percent=abort_percent, progress=console.print)
        began_s = time.monotonic()
        LogStore(path, "lists", WEEK_MS).close()
        console.print(f"opened by its writer in {time.monotonic() - began_s:.1f} s, {path.stat().st_size >> 20} MiB")
        Console().print(_table(path, limit))


def _table(path: Path, limit: int) -> Table:
    table = Table("filter", "lines", "first page ms", "CPU ms", "middle page ms", "CPU ms", box=None)
    with closing(LogReader(path)) as reader:
        (newest,), oldest = reader.find(TransactionQuery(limit=1)), next(reader.iterate())
    middle = oldest_id((oldest.began_ms + newest.began_ms) // 2)
    for told, fields in FILTERS.items():
        query = msgspec.convert({"limit": limit, **fields}, TransactionQuery)
        first, later = _measured(path, query), _measured(path, msgspec.structs.replace(query, after=middle))
        table.add_row(told, str(first[0]), *(f"{value:.1f}" for value in (*first[1:], *later[1:])))
    return table


def _measured(path: Path, query: TransactionQuery) -> tuple[int, float, float]:
    walls, cpus, lines = [], [], 0
    for _ in range(TIMES):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        with closing(LogReader(path)) as reader:
            lines = len(reader.find(query))
        walls.append(time.perf_counter() - wall_s)
        cpus.append(time.process_time() - cpu_s)
    return lines, median(walls) * 1_000, median(cpus) * 1_000


if __name__ == "__main__":
    typer.run(main)
