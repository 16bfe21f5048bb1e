"""`raytx demo`: real-shaped orders on an embedded deployment, one orchestrator killed in the middle of them, the audit."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from loadgen.driver import Milestone
from loadgen.history import HistoryWriter, read_history
from loadgen.load import STATUS_TIMEOUT_S, LoadPlan, Prepared, conclude, deployed, drive, open_books, prepare
from loadgen.recording import RecordedClient, history_file
from loadgen.summary import Summary
from orchestrator.client import Client
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.protocol.identifiers import partition_of_key

ORDERS = 2_000
CONCURRENCY = 64
SHARDS = 2
VICTIM = 0  # index of the orchestrator that is killed
KILL_AT_PERCENT = 40
DECLINED = 0.03
STOCK_SHARE = Decimal("0.98")


class Recovery:
    """Kills one orchestrator and times how long its callers had to wait.

    The time runs from the kill to the first outcome of an order that was placed, after the kill, with the orchestrator
    that was killed.

    Args:
        client: of the deployment.
        console: told of the kill.
    """

    def __init__(self, client: Client, console: Console) -> None:
        self._client, self._console = client, console
        self._shards = client.deployment.settings.shards
        self._killed_ns = 0
        self.took_ms: float | None = None

    def kill(self) -> None:
        """End the victim's process by SIGKILL: none of its code runs any more."""
        name = f"shard-{VICTIM}"
        for status in self._client.deployment.statuses(STATUS_TIMEOUT_S):
            if status["name"] == name and status["pid"] is not None:
                self._killed_ns = time.perf_counter_ns()
                os.kill(status["pid"], signal.SIGKILL)
                self._console.print(f"[bold red]kill -9[/bold red] {name} (pid {status['pid']}), orders in flight")
                return
        raise IndefiniteError(ErrorCode.UNREACHABLE, f"{name} tells no pid, so it cannot be killed")

    def watch(self, key: str, began_ns: int, ended_ns: int) -> None:
        """See every outcome; fits `Driver`'s watch."""
        if self.took_ms is None and 0 < self._killed_ns < began_ns and partition_of_key(key) % self._shards == VICTIM:
            self.took_ms = (ended_ns - self._killed_ns) / 1e6


def run_demo(app: str, console: Console, *, data: Path | None = None, seed: int = 1) -> Summary:
    """The whole demonstration.

    Args:
        app: import path of the app.
        console: where it is shown.
        data: data directory; None: a temporary one, removed at the end.
        seed: of orders and declines.

    Raises:
        DefiniteError: E_DATA_DIR_IN_USE where a deployment already runs on `data`.
    """
    with _directory(data) as where:
        if DataDirectory(where).running() is not None:
            raise DefiniteError(
                ErrorCode.DATA_DIR_IN_USE, f"a deployment runs on {where}, and the demo kills a part of its own: name another")
        plan = LoadPlan(
            data=where, app=app, orders=ORDERS, concurrency=CONCURRENCY, shards=SHARDS, seed=seed, stock_share=STOCK_SHARE,
            faults={"payment": {"decline": DECLINED}})
        prepared = prepare(plan)
        console.print(_panel_of_plan(prepared))
        began_s = time.monotonic()
        with history_file(None) as path:
            with deployed(plan) as client, HistoryWriter(path, "demo") as history:
                console.print(_panel_of_actors(client, time.monotonic() - began_s))
                recorded = RecordedClient(client, history)
                open_books(recorded, prepared)
                recovery = Recovery(client, console)
                kill = Milestone(ORDERS * KILL_AT_PERCENT // 100, recovery.kill)
                driven = drive(recorded, prepared, console, milestones=[kill], watch=recovery.watch)
                deployed_app = client.deployment.app
            summary = conclude(prepared, driven, deployed_app, read_history([path]))
        console.print(Panel(_recovered(recovery), title="recovery", title_align="left"))
        console.print(Panel(summary.render(), title="summary", title_align="left"))
        return summary


@contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    if data is not None:
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="raytx-demo-") as made:
        yield Path(made)


def _panel_of_plan(prepared: Prepared) -> Panel:
    placed = prepared.workload.contents(ORDERS)
    text = (
        f"{ORDERS:,} orders shaped like a real shop's: {placed['lines']:,} lines, {placed['units']:,} units, "
        f"£{placed['amount_minor'] / 100:,.2f}\n"
        f"{SHARDS} orchestrators, {CONCURRENCY} orders in flight; {DECLINED:.0%} of the payment steps are declined and stock "
        f"covers {STOCK_SHARE:.0%} of what is ordered\n"
        f"after {KILL_AT_PERCENT} % of the orders, one orchestrator is killed")
    return Panel(text, title="demo", title_align="left")


def _panel_of_actors(client: Client, took_s: float) -> Panel:
    table = Table("actor", "role", "pid", "state", box=None)
    for status in client.deployment.statuses(STATUS_TIMEOUT_S):
        table.add_row(status["name"], status["role"], str(status["pid"]), status["state"])
    return Panel(table, title=f"deployed in {took_s:.1f} s", title_align="left")


def _recovered(recovery: Recovery) -> str:
    if recovery.took_ms is None:
        return "[yellow]no order was placed with the orchestrator after it was killed[/yellow]"
    return (
        f"the next order placed with the killed orchestrator had its outcome [bold]{recovery.took_ms:,.0f} ms[/bold] "
        "after the kill; orders in flight went on from the log and the ledgers")
