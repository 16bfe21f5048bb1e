"""The process behind `raytx up`: it owns the head, holds the lock, and ends both when it is asked to.

Run as `python -m orchestrator.keeper`. If the head loses its GCS or raylet, everything is ended and the keeper executes
itself anew: same pid, fresh process, same data. A cluster that is somebody else's is joined and left, never mended.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrator.cluster import Deployment, start_deployment
from orchestrator.config import Settings
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, RaytxError
from orchestrator.logs import configure_logging, log_event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

EXIT_REFUSED, EXIT_FAILED = 2, 3
BACKOFF_S_MAX = 30.0
STEADY_S = 60.0  # a head that lasted so long was no failed start


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived."""


class _Reporter:
    """Tells whoever started the keeper how far it is: JSON lines on a pipe that is closed once it serves."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def tell(self, **message: Any) -> None:
        if self._fd is not None:
            with suppress(OSError):  # it does not listen any more
                os.write(self._fd, json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep a deployment until SIGTERM or SIGINT; returns the exit code."""
    options = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    reporter = _Reporter(options.report_fd)
    try:
        _pause(min(2.0 ** options.failures, BACKOFF_S_MAX) if options.failures else 0.0)
        _keep(options, reporter)
    except Stopped:
        return 0
    except RaytxError as error:
        _ignore_signals()
        log_event("start_failed", level="ERROR", code=error.code, message=error.message)
        reporter.tell(error=error.code, message=error.message, definite=isinstance(error, DefiniteError))
        return EXIT_REFUSED if isinstance(error, DefiniteError) else EXIT_FAILED
    return 0


def _keep(options: argparse.Namespace, reporter: _Reporter) -> None:
    settings = Settings.model_validate_json(options.settings)
    DataDirectory(options.data).prepare()
    configure_logging("keeper", options.data, settings.log_level)
    with ExitStack() as stack:
        deployment = start_deployment(
            options.data, options.app, settings, address=options.address, dashboard=options.dashboard, keeper=True,
            progress=lambda text: reporter.tell(progress=text))
        stack.callback(_end, deployment)
        log_event("serving", status="serving", address=deployment.address, run=deployment.run)
        for text in deployment.warnings:
            log_event("exposed", level="WARNING", message=text)
        reporter.tell(serving=deployment.namespace)
        reporter.close()
        _start_dashboard(deployment)
        began_s = time.monotonic()
        lost = _wait_for_loss(deployment.server_pids())
        stack.pop_all()
        log_event("head_lost", level="ERROR", message=f"{lost} ended; everything is started anew")
        failures = 1 if time.monotonic() - began_s > STEADY_S else options.failures + 1
        deployment.abandon()
    _start_anew(options, failures)


def _start_dashboard(deployment: Deployment) -> None:
    try:
        deployment.start_dashboard()
    except RaytxError as error:
        log_event("dashboard_failed", level="WARNING", code=error.code, message=error.message)


def _wait_for_loss(servers: dict[str, int]) -> str:
    """Wait until a server of the head ends (or for a signal); returns its name."""
    with ExitStack() as stack:
        names = {}
        for name, pid in servers.items():
            fd = os.pidfd_open(pid)
            stack.callback(os.close, fd)
            names[fd] = name
        ended, _, _ = select.select(list(names), [], [])
        return names[ended[0]]


def _end(deployment: Deployment) -> None:
    deployment.stop()
    log_event("stopped", status="stopped")


def _start_anew(options: argparse.Namespace, failures: int) -> NoReturn:
    command = [sys.executable, "-m", "orchestrator.keeper", "--data", str(options.data), "--app", options.app,
               "--settings", options.settings, "--failures", str(failures)]
    if options.dashboard:
        command.append("--dashboard")
    os.execv(sys.executable, command)  # noqa: S606 - itself


def _pause(seconds: float) -> None:
    if seconds:
        select.select([], [], [], seconds)  # a signal ends it


def _stop(_number: int, _frame: FrameType | None) -> None:
    _ignore_signals()
    raise Stopped


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # it is ending: asking again changes nothing
        signal.signal(number, signal.SIG_IGN)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.keeper", description="Keeps a deployment; see `raytx up`.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--app", required=True)
    parser.add_argument("--settings", default="{}", help="JSON")
    parser.add_argument("--address", help="of a Ray cluster to join")
    parser.add_argument("--dashboard", action="store_true")
    parser.add_argument("--report-fd", type=int)
    parser.add_argument("--failures", type=int, default=0, help="starts that failed in a row")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
