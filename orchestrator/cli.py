"""The command line: what it does is done elsewhere, here it is asked for and shown. See `orchestrator.terminal`."""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator import rendering
from orchestrator.config import LogLevel, Settings, make_settings
from orchestrator.console.command import console
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError, RaytxError
from orchestrator.logs import redact, redact_user_lines
from orchestrator.terminal.acting import acts, cancel, resolve, retry
from orchestrator.terminal.answer import EXIT_BAD, EXIT_UNREACHABLE, EXIT_WRONG_USE, answer, report_errors
from orchestrator.terminal.doctor import doctor
from orchestrator.terminal.down import down
from orchestrator.terminal.listing import list_transactions
from orchestrator.terminal.metrics import metrics
from orchestrator.terminal.options import (
    DATA_DEFAULT,
    SECONDS_MAX,
    AppPath,
    Data,
    Json,
    app_of,
    app_path,
    existing,
)
from orchestrator.terminal.pausing import pause, resume
from orchestrator.terminal.showing import show
from orchestrator.terminal.status import status
from orchestrator.terminal.top import top
from orchestrator.terminal.watch import watch
from orchestrator.testing.command import prove


def build_cli(default_app: str) -> typer.Typer:
    """The commands that every deployment has.

    Args:
        default_app: import path of the app where neither `--app` nor an earlier run of the data directory names one.
    """
    cli = typer.Typer(
        name="raytx", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        help="Transactions across services on Ray: all of an order happens, or none of it.")

    @cli.callback()
    def start(
        context: typer.Context,
        *,
        _version: Annotated[
            bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and end.")] = False,
    ) -> None:
        context.obj = default_app
        redact_user_lines()
        if str(Path.cwd()) not in sys.path:  # apps lie beside the data; a console script does not look there
            sys.path.append(str(Path.cwd()))

    for panel, commands in _PANELS.items():
        for name, command in commands.items():
            cli.command(name, rich_help_panel=panel)(command)
    return cli


def _tell_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it
    if asked:
        typer.echo(f"raytx {version('raytx')}")
        raise typer.Exit


def up(
    context: typer.Context,
    *,
    data: Data = DATA_DEFAULT,
    app: AppPath = None,
    shards: Annotated[int | None, typer.Option(min=1, max=64, help="Orchestrators.")] = None,
    address: Annotated[str | None, typer.Option(help="Join this Ray cluster (host:port) instead of an own head.")] = None,
    dashboard: Annotated[bool, typer.Option(help="Ray's dashboard on an own head.")] = True,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay attached until a signal.")] = False,
    log_level: Annotated[LogLevel | None, typer.Option(case_sensitive=False, help="Of the log files.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Deploy on a data directory and return once it serves; what was accepted there before goes on.

    Example: raytx up --data orders --app shop.orders:app --shards 2
    """
    from orchestrator.bringup import bring_up, forward_signals  # noqa: PLC0415 - only what a command needs is imported

    with report_errors(as_json=as_json):
        directory = DataDirectory(data)
        settings = parse_settings(setting or [], directory.settings(), shards=shards, log_level=log_level)
        began_s = time.monotonic()
        with rendering.told_progress() as progress:
            record, keeper = bring_up(
                directory, app_path(directory, app, str(context.obj)), settings, address=address, dashboard=dashboard,
                foreground=foreground, progress=progress)
        told = rendering.deployment_json(record, str(directory.path)) | {"seconds": round(time.monotonic() - began_s, 2)}
        answer(told, rendering.deployment_text(record, str(directory.path)), as_json=as_json)
        if foreground:
            raise typer.Exit(forward_signals(keeper))


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON: an object, a list, or one a line; - is stdin.")],
    *,
    data: Data = DATA_DEFAULT,
    saga: Annotated[str | None, typer.Option(help="Of inputs that stand alone; the app's first one.")] = None,
    timeout: Annotated[float | None, typer.Option(
        min=0.1, max=SECONDS_MAX, help="Seconds to wait for each outcome.")] = None,
    as_json: Json = False,
) -> None:
    """Place transactions and print their outcomes; exit 1 if any aborted.

    An object is {saga, input, key?, deadline_ms?} or an input alone. Nothing is placed unless all of them are valid.

    Example: raytx submit orders.json --saga place_order
    """
    with report_errors(as_json=as_json):
        text = _read(file)
        from orchestrator.client import Client  # noqa: PLC0415 - Ray takes a second to import
        from orchestrator.cluster import attach  # noqa: PLC0415
        from orchestrator.submission import read_submissions  # noqa: PLC0415

        with Client(attach(data)) as client:
            submissions = read_submissions(text, client.deployment.app, saga)
            handles = [
                client.submit(one.saga, one.input, key=one.key, deadline_ms=one.deadline_ms) for one in submissions]
            outcomes = [_outcome(handle, timeout) for handle in handles]
    counts = {name: sum(one["status"] == name.upper() for one in outcomes) for name in _EXIT_OF_STATUS}
    answer({**counts, "outcomes": outcomes}, rendering.outcomes_table(outcomes), as_json=as_json)
    raise typer.Exit(max(code for name, code in _EXIT_OF_STATUS.items() if counts[name]))


def audit(context: typer.Context, *, data: Data = DATA_DEFAULT, app: AppPath = None, as_json: Json = False) -> None:
    """Check every transaction against all stores; exit 1 if anything is wrong. Works with the deployment up or down.

    Example: raytx audit --data orders --json
    """
    with report_errors(as_json=as_json):
        from orchestrator.audit import audit as run_audit  # noqa: PLC0415 - as above

        directory = existing(data)
        with rendering.counted_progress() as progress:
            report = run_audit(directory.path, app_of(directory, app, str(context.obj)), progress)
        answer(report.to_json(), rendering.audit_text(report), as_json=as_json)
    raise typer.Exit(0 if report.ok else EXIT_BAD)


def parse_settings(assignments: list[str], last: dict[str, Any], **chosen: Any) -> Settings:
    """Settings from `name=value` texts and from options that were given, the others as they were last.

    Raises:
        DefiniteError: E_CONFIG, naming the setting.
    """
    values = last | {name: value for name, value in chosen.items() if value is not None}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise DefiniteError(ErrorCode.CONFIG, f"--set: {assignment!r} is not NAME=VALUE")
        try:
            values[name.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[name.strip()] = text
    return make_settings(**values)


_EXIT_OF_STATUS = {"committed": 0, "aborted": EXIT_BAD, "rejected": EXIT_WRONG_USE, "unknown": EXIT_UNREACHABLE}


def _outcome(handle: Any, timeout_s: float | None) -> dict[str, Any]:
    told = {"key": handle.key, "transaction": "", "results": {}, "service": "", "step": ""}
    try:
        outcome = handle.outcome(timeout_s)
    except RaytxError as error:
        status = "UNKNOWN" if isinstance(error, IndefiniteError) else "REJECTED"
        return told | {"status": status, "code": str(error.code), "message": redact(error.message)}
    return told | {
        "status": str(outcome.status), "transaction": outcome.transaction, "results": redact(outcome.results),
        "code": outcome.code, "message": redact(outcome.message), "service": outcome.service, "step": outcome.step}


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"{file} cannot be read: {error}") from None


_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Run": {"up": up, "down": down, "doctor": doctor, "submit": submit},
    "Look": {
        "status": status, "top": top, "list": list_transactions, "show": show, "watch": watch, "acts": acts, "audit": audit,
        "metrics": metrics, "console": console},
    "Act": {"retry": retry, "cancel": cancel, "resolve": resolve, "pause": pause, "resume": resume},
    "Prove": {"test": prove},
}
