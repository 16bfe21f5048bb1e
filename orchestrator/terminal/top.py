"""`raytx top`: rates, latencies and health of a deployment, live."""

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live

from orchestrator import rendering
from orchestrator.deployment import DataDirectory
from orchestrator.errors import RaytxError
from orchestrator.log.reader import LogReader
from orchestrator.logs import redact
from orchestrator.terminal.answer import report_errors
from orchestrator.terminal.frame import frame
from orchestrator.terminal.frame_view import view
from orchestrator.terminal.options import DATA_DEFAULT, SECONDS_MAX, Data, Json

if TYPE_CHECKING:
    from orchestrator.cluster import Deployment

Statuses = list[dict[str, Any]]


def top(
    *,
    data: Data = DATA_DEFAULT,
    every: Annotated[float, typer.Option(min=0.1, max=3_600, help="Seconds between two readings.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One frame, then end.")] = False,
    timeout: Annotated[float, typer.Option(
        min=0.1, max=SECONDS_MAX, help="Seconds to wait for an actor's answer.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Rates, latencies and health, live until Ctrl-C; one frame where the output is no terminal. Exit 3 where nothing runs.

    Example: raytx top --every 5
    """
    with report_errors(as_json=as_json):
        looking = Looking(data, timeout)
        try:
            console = rendering.console()
            if as_json or once or not console.is_terminal:
                found, remarks = next(looking.frames(every))
                if as_json:
                    typer.echo(json.dumps(found | {"remarks": remarks}))
                else:
                    console.print(view(found, looking.heading, remarks, console.width))
                return
            with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
                for found, remarks in looking.frames(every):
                    live.update(view(found, looking.heading, remarks, console.width), refresh=True)
        finally:
            looking.close()


class Looking:
    """Reads the statuses of a deployment again and again, also of one that was started anew meanwhile.

    Args:
        data: its data directory.
        timeout_s: how long to wait for the slowest actor.

    Raises:
        IndefiniteError: E_UNREACHABLE: nothing runs there.
    """

    def __init__(self, data: Path, timeout_s: float) -> None:
        self._directory, self._timeout_s = DataDirectory(data), timeout_s
        self._deployment = self._attach()

    @property
    def heading(self) -> str:
        """What is looked at."""
        return f"raytx top  {self._directory.path}"

    def frames(self, every_s: float) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """A frame and what else has to be seen, after every pause; endless."""
        before, _ = self._read()
        pause = threading.Event()  # never set: what is measured is the time between two readings
        while True:
            pause.wait(every_s)
            after, remarks = self._read()
            yield frame(before, after), remarks
            before = after

    def close(self) -> None:
        """Detach."""
        self._deployment.stop()

    def _attach(self) -> "Deployment":
        from orchestrator.cluster import attach  # noqa: PLC0415 - Ray takes a second to import

        return attach(self._directory.path)

    def _read(self) -> tuple[Statuses, list[str]]:
        """Every actor's status; an answer from nobody may mean that another run has taken this one's place."""
        try:
            record = self._directory.record()
            if record is not None and record.run != self._deployment.run:
                self._deployment.stop()
                self._deployment = self._attach()
            return self._deployment.statuses(self._timeout_s), self._paused()
        except RaytxError as error:
            return [], [f"{error.code}: {error.message}"]

    def _paused(self) -> list[str]:
        with closing(LogReader(self._directory.log_path)) as log:
            return [
                f"paused: {'saga ' + one.saga if one.saga else 'service ' + one.service} by {redact(one.who)}"
                f"{': ' + redact(one.reason) if one.reason else ''}" for one in log.pauses().paused]
