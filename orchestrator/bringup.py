"""Starting and ending a keeper from another process: what `raytx up` and `raytx down` do. Does not import Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from orchestrator.deployment import DataDirectory, DeploymentRecord, import_path
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.ownership import end_process
from orchestrator.processes import ask_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator.config import Settings

STOP_S_MAX = 30.0
KILL_S_MAX = 5.0
KEEPER_LOG_BYTES_MAX = 10 * 1024 * 1024
_TAIL_LINES = 5

Keeper = subprocess.Popen[bytes]


def bring_up(
    directory: DataDirectory,
    app_path: str,
    settings: Settings,
    *,
    address: str | None = None,
    dashboard: bool = True,
    foreground: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[DeploymentRecord, Keeper]:
    """Start a keeper and wait until its deployment serves; it outlives this process unless `foreground`.

    Args:
        directory: where it shall run.
        app_path: import path of the app.
        settings: of the deployment.
        address: of a Ray cluster to join; None = a head of its own.
        dashboard: whether an own head has Ray's dashboard.
        foreground: it shares this terminal, and its log goes to stderr instead of `DIR/logs/keeper.log`.
        progress: told what is being done.

    Raises:
        DefiniteError: E_DATA_DIR, E_DATA_DIR_IN_USE, E_CONFIG, E_STORE_REFUSED; nothing runs.
        IndefiniteError: E_UNREACHABLE: it did not come up.
    """
    directory.prepare()
    directory.lock().release()  # a directory in use is told at once, not after a start
    command = [sys.executable, "-m", "orchestrator.keeper", "--data", str(directory.path), "--app", app_path,
               "--settings", settings.model_dump_json()]
    command += ["--dashboard"] if dashboard else []
    command += ["--address", address] if address else []
    reading, writing = os.pipe()
    try:
        keeper = _spawn([*command, "--report-fd", str(writing)], directory, writing, foreground=foreground)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        _await_serving(reading, keeper, directory, progress, foreground=foreground)
    except BaseException:
        _give_up(keeper)
        raise
    record = directory.running()
    if record is None:
        raise IndefiniteError(ErrorCode.UNREACHABLE, f"the deployment on {directory.path} ended as soon as it served")
    return record, keeper


def bring_down(directory: DataDirectory, progress: Callable[[str], None] = lambda _: None) -> bool:
    """End the deployment of a data directory and what a killed one left behind.

    Args:
        directory: where it runs.
        progress: told what is being done.

    Returns:
        Whether there was anything to end.

    Raises:
        DefiniteError: E_DATA_DIR_IN_USE: a program of its own embeds it (or is just taking the directory).
        IndefiniteError: E_UNREACHABLE: the Ray cluster that a killed keeper had joined does not answer.
    """
    record = directory.running()
    if record is not None:
        _end_keeper(directory, record, progress)
    if not directory.path.is_dir():
        return False
    lock = directory.lock()
    try:
        left = directory.clean_up()
        if left is not None and not left.own_head and left.address:
            from orchestrator.cluster import remove_actors  # noqa: PLC0415 - Ray takes a second to import

            remove_actors(left)
    finally:
        lock.release()
    return record is not None or left is not None


def refuse_embedded(directory: DataDirectory, record: DeploymentRecord) -> None:
    """Refuse to stop a deployment that lives in a program of its own.

    Raises:
        DefiniteError: E_DATA_DIR_IN_USE, naming that program.
    """
    if not record.keeper:
        raise DefiniteError(
            ErrorCode.DATA_DIR_IN_USE,
            f"the deployment on {directory.path} is part of the program with pid {record.owner.pid}: end that program")


def forward_signals(keeper: Keeper) -> int:
    """Wait for a keeper in the foreground, passing SIGTERM and SIGINT on to it; returns its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _signal(keeper))
    return keeper.wait()


def _signal(keeper: Keeper) -> None:
    with suppress(ProcessLookupError):
        keeper.send_signal(signal.SIGTERM)


def _spawn(command: list[str], directory: DataDirectory, writing: int, *, foreground: bool) -> Keeper:
    entries = [*import_path(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(entry for entry in entries if entry))}
    if foreground:
        return subprocess.Popen(command, env=environment, pass_fds=(writing,), stdin=subprocess.DEVNULL)  # noqa: S603
    log = os.open(_keeper_log(directory), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - this interpreter, this package
            command, env=environment, pass_fds=(writing,), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True)
    finally:
        os.close(log)


def _keeper_log(directory: DataDirectory) -> Path:
    path = directory.path / "logs" / "keeper.log"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.is_file() and path.stat().st_size > KEEPER_LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    return path


def _await_serving(
    reading: int, keeper: Keeper, directory: DataDirectory, progress: Callable[[str], None], *, foreground: bool,
) -> None:
    for message in _messages(reading):
        if "progress" in message:
            progress(message["progress"])
        elif "error" in message:
            with suppress(subprocess.TimeoutExpired):
                keeper.wait(STOP_S_MAX)  # it is cleaning up
            kind = DefiniteError if message["definite"] else IndefiniteError
            raise kind(message["error"], message["message"])
        elif "serving" in message:
            return
    code = keeper.wait()
    why = "" if foreground else f"; the end of {_keeper_log(directory)}: {_tail(_keeper_log(directory))}"
    raise IndefiniteError(ErrorCode.UNREACHABLE, f"the keeper ended with exit code {code} before it served{why}")


def _messages(reading: int) -> Iterator[dict[str, Any]]:
    with os.fdopen(reading, encoding="utf-8") as pipe:
        for line in pipe:
            yield json.loads(line)


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join(lines[-_TAIL_LINES:])


def _give_up(keeper: Keeper) -> None:
    """End a keeper that did not come up, or whose user does not want it any more; it cleans up after itself."""
    _signal(keeper)
    try:
        keeper.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


def _end_keeper(directory: DataDirectory, record: DeploymentRecord, progress: Callable[[str], None]) -> None:
    refuse_embedded(directory, record)
    progress(f"stopping keeper {record.owner.pid}")
    if not ask_to_end(record.owner, STOP_S_MAX):
        progress(f"keeper {record.owner.pid} does not end: killing it")
        end_process(record.owner, KILL_S_MAX)
