"""What the commands' options have in common: their types, and what a time or an age looks like."""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.app import App, load_app
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.protocol.identifiers import is_id

DATA_DEFAULT = Path("raytx-data")
SECONDS_MAX = 86_400.0
_AGE = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Data directory.")]
AppPath = Annotated[
    str | None, typer.Option("--app", metavar="MODULE:ATTRIBUTE", help="Services and sagas; the last one used here.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else there.")]
TransactionId = Annotated[str, typer.Argument(metavar="ID", help="Transaction id, 32 hexadecimal digits.")]


def parse_time(option: str, text: str | None) -> int | None:
    """A time in Unix ms, from ISO 8601 (UTC unless it says otherwise) or from how long ago it was.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming the option.
    """
    if text is None:
        return None
    if _AGE.fullmatch(text):
        return max(time.time_ns() // 1_000_000 - parse_age(option, text), 0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DefiniteError(
            ErrorCode.INVALID_INPUT, f"{option}: {text!r} is neither a time (2025-11-22T20:00) nor an age (15m, 2h)") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def parse_age(option: str, text: str) -> int:
    """A duration in ms from a number and its unit: 500ms, 90s, 15m, 2h, 1d.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming the option.
    """
    found = _AGE.fullmatch(text)
    if found is None:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"{option}: {text!r} is no age: write 90s, 15m, 2h or 1d")
    return int(found[1]) * _UNIT_MS[found[2]]


def checked_id(option: str, transaction: str) -> str:
    """A transaction's id.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming the option.
    """
    if not is_id(transaction):
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"{option}: {transaction!r} is no id; one has 32 hexadecimal digits")
    return transaction


def existing(data: Path) -> DataDirectory:
    """The data directory of a deployment that runs or ran.

    Raises:
        DefiniteError: E_DATA_DIR: none ever ran there.
    """
    directory = DataDirectory(data)
    if not directory.log_path.parent.is_dir():
        raise DefiniteError(ErrorCode.DATA_DIR, f"{directory.path}: no deployment ever ran there; name its --data directory")
    return directory


def app_path(directory: DataDirectory, chosen: str | None, default: str) -> str:
    """The app that was asked for, else the one that runs or ran on the data directory, else the default."""
    record = None if chosen or not directory.path.is_dir() else directory.record()
    return chosen or (record.app if record else default)


def app_of(directory: DataDirectory, chosen: str | None, default: str) -> App:
    """That app, imported from where the deployment's program found it.

    Raises:
        DefiniteError: E_CONFIG, saying what could not be found.
    """
    record = directory.record()
    if record is not None:
        sys.path.extend(entry for entry in record.app_path if entry not in sys.path)
    return load_app(app_path(directory, chosen, default))
