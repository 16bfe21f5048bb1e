"""Structured logs: one JSON line per event in `DIR/logs/<role>-<pid>.jsonl`, and a readable one on stderr.

For processes that raytx owns (actors, keeper, command line); configured inside the process, never at import. A disabled
level costs one comparison. Card tokens and other secrets never reach a line: every text passes through `redact`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
from loguru import logger

from orchestrator.protocol.bounds import NESTING_MAX, shown
from orchestrator.protocol.secrecy import Secret

if TYPE_CHECKING:
    from pathlib import Path

    from loguru import Record

    from orchestrator.config import LogLevel

FILE_BYTES_MAX = 50 * 1024 * 1024
FILES_KEPT = 5
REDACTED = "[redacted]"

_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_OFF = 100
_SECRET_KEYS = frozenset(
    {"authorization", "password", "passwd", "secret", "token", "api_key", "card_number", "pan", "cvv"})
_SECRET_SUFFIXES = ("_token", "_secret", "_password", "_api_key")
_CARD_DIGITS_INT_MIN = 10**13  # 14 digits: Unix milliseconds have 13
_TOKEN = re.compile(r"(?<![A-Za-z0-9])tok_[A-Za-z0-9_\-]+")
_BEARER = re.compile(r"(?i)\b(bearer|basic) +[A-Za-z0-9._~+/=\-]{4,}")
_ASSIGNED = re.compile(
    r"(?i)\b((?:\w*_)?(?:authorization|password|passwd|secret|token|api_key|card_number|cvv)[\"']?\s*[=:]\s*)"
    r"(?:\"[^\"]*\"|'[^']*'|[^\s,;}\])]+)")
_REPORTED = re.compile(r"input_value=.*?(?=, input_type=)", re.DOTALL)  # in the text of a ValidationError of pydantic
_SUSPECT = re.compile(r"(?i)tok_|\d{4}|[=:]|bearer|basic")  # what no pattern here can match without
# a transaction id is 32 lower-case hexadecimal digits: a run of digits inside one is no card number
_CARD = re.compile(r"(?<![0-9a-f])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5})(?![0-9a-f])")


class _Sinks:
    """What this process logs with; one per process, replaced by `configure_logging`."""

    threshold = _OFF  # of the level that is written; nothing is before the process has been configured
    role = ""
    handlers: tuple[int, ...] = ()


def configure_logging(role: str, data_dir: Path | None, level: LogLevel, *, stderr: bool = True) -> None:
    """Send this process's events to its file and to stderr; a second call replaces the first.

    Args:
        role: who writes: "log", "shard-0", a service's name, "keeper", "client".
        data_dir: the file is `data_dir/logs/<role>-<pid>.jsonl` (0600, 50 MB, 5 files kept); None writes no file.
        level: events below it cost nothing and are dropped; OFF writes nothing at all.
        stderr: also one readable line per event on stderr.

    Raises:
        OSError: the file cannot be made (definite).
    """
    for handler in (*_Sinks.handlers, 0):  # 0 is loguru's own stderr handler
        try:
            logger.remove(handler)
        except ValueError:
            continue
    handlers = []
    on = level.value in _LEVELS
    if on and stderr:
        handlers.append(logger.add(sys.stderr, level=level.value, format=_as_text, backtrace=False, diagnose=False))
    if on and data_dir is not None:
        handlers.append(_add_file(role, data_dir / "logs", level))
    _Sinks.role, _Sinks.handlers = role, tuple(handlers)
    _Sinks.threshold = _LEVELS[level.value] if handlers else _OFF


def redact_user_lines() -> None:
    """For the command line: what user code writes through loguru in this process is redacted on stderr; events are not written.

    A service's handlers run here too, where a load is judged or a saga is proved.
    """
    for handler in (*_Sinks.handlers, 0):
        with contextlib.suppress(ValueError):
            logger.remove(handler)
    handler = logger.add(_to_stderr, level="INFO", format=_as_text, backtrace=False, diagnose=False)
    _Sinks.role, _Sinks.handlers = "client", (handler,)


def debug_enabled() -> bool:
    """Whether DEBUG events are written: ask before gathering what one would say."""
    return _Sinks.threshold <= _LEVELS["DEBUG"]


def log_event(
    event: str,
    *,
    level: str = "INFO",
    transaction: str = "",
    service: str = "",
    step: str = "",
    status: str = "",
    attempt: int = 0,
    code: str = "",
    **fields: Any,
) -> None:
    """Write one event, for example `log_event("aborted", transaction=id, code="E_TIMEOUT", message="...")`.

    Args:
        event: what happened, snake_case.
        level: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        transaction: id, where there is one.
        service: the participant's name.
        step: the step's name.
        status: state or answer.
        attempt: from 1.
        code: an error or refusal code.
        fields: anything else that JSON can hold, times in units named by the field; `message` is for a person.
    """
    if _LEVELS[level] < _Sinks.threshold:
        return
    known = {"event": event, "transaction": transaction, "service": service, "step": step, "status": status,
             "attempt": attempt, "code": redact(code)}
    extra = {name if name not in _FIXED else f"{name}_": redact(value, name) for name, value in fields.items()}
    logger.opt(depth=1).bind(raytx={**known, **extra}).log(level, event)


def redact(value: Any, key: str = "", levels: int = NESTING_MAX) -> Any:
    """A copy of plain data without secrets, fit to be shown.

    Secret are `SecretStr` and `SecretBytes`, values of secret keys, card tokens (`tok_...`) and card numbers. Control
    characters are escaped, but for new lines and tabs.

    Args:
        value: plain data.
        key: that it stands under.
        levels: of lists and maps that are looked into; what is deeper is left out.
    """
    if isinstance(value, Secret) or (key and _is_secret(key) and value not in ("", None)):
        return REDACTED
    if isinstance(value, str):
        return _redact_text(value)
    if isinstance(value, (dict, list, tuple)):
        return _redact_items(value, levels)
    if isinstance(value, int) and _CARD_DIGITS_INT_MIN <= value < 10**19:
        return REDACTED
    return value if value is None or isinstance(value, (bool, int, float)) else _redact_text(str(value))


_FIXED = frozenset(
    {"time", "level", "role", "pid", "event", "transaction", "service", "step", "status", "attempt", "code"})


def _redact_items(value: dict[Any, Any] | list[Any] | tuple[Any, ...], levels: int) -> Any:
    if levels == 0:
        return REDACTED
    if isinstance(value, dict):
        return {redact(name) if isinstance(name, str) else name: redact(item, str(name), levels - 1)
                for name, item in value.items()}
    return [redact(item, "", levels - 1) for item in value]


def _is_secret(key: str) -> bool:
    name = key.lower()
    return name in _SECRET_KEYS or name.endswith(_SECRET_SUFFIXES)


def _redact_text(text: str) -> str:
    text = shown(text)
    if _SUSPECT.search(text) is None:
        return text
    text = _REPORTED.sub(f"input_value={REDACTED}", text)
    text = _BEARER.sub(rf"\1 {REDACTED}", _TOKEN.sub(REDACTED, text))
    return _CARD.sub(REDACTED, _ASSIGNED.sub(rf"\g<1>{REDACTED}", text))


def _fields_of(record: Record) -> dict[str, Any]:
    """An event's own fields; a line that user code wrote through loguru becomes the event "log"."""
    own = record["extra"].get("raytx")
    if isinstance(own, dict):
        return own
    fields = {"event": "log", "transaction": "", "service": "", "step": "", "status": "", "attempt": 0, "code": "",
              "message": _redact_text(record["message"])}
    failure = record["exception"]
    if failure is not None and failure.type is not None:
        fields["error"] = _redact_text(f"{failure.type.__name__}: {failure.value}")
    return fields


def _as_json(record: Record) -> str:
    head = {"time": _utc(record), "level": record["level"].name, "role": _Sinks.role, "pid": os.getpid()}
    record["extra"]["raytx_json"] = msgspec.json.encode({**head, **_fields_of(record)}).decode()
    return "{extra[raytx_json]}\n"


def _as_text(record: Record) -> str:
    fields = _fields_of(record)
    said = {name: value for name, value in fields.items() if name != "event" and value not in ("", 0, None)}
    head = f"{_utc(record)} {record['level'].name:<7} {_Sinks.role} {fields['event']}"
    record["extra"]["raytx_text"] = " ".join([head, *(f"{name}={value}" for name, value in said.items())])
    return "{extra[raytx_text]}\n"


def _to_stderr(line: str) -> None:
    sys.stderr.write(line)  # whatever it is now: a progress bar may stand in its place


def _utc(record: Record) -> str:
    stamp: datetime = record["time"]
    return stamp.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _add_file(role: str, directory: Path, level: LogLevel) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _drop_old(role, directory)
    return logger.add(
        directory / f"{role}-{os.getpid()}.jsonl", level=level.value, format=_as_json, backtrace=False,
        diagnose=False, rotation=FILE_BYTES_MAX, retention=FILES_KEPT, opener=_open_private)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _drop_old(role: str, directory: Path) -> None:
    """Every restart starts a file of its own: those of processes long gone must go, a live one's never does."""
    own = re.compile(rf"{re.escape(role)}-(\d+)(?:\..+)?\.jsonl")
    old = []
    for path in directory.iterdir():
        match = own.fullmatch(path.name)
        if match is not None and not psutil.pid_exists(int(match.group(1))):
            old.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(old, reverse=True)[FILES_KEPT - 1 :]:
        path.unlink(missing_ok=True)
