"""The command `raytx console`: the web page of one data directory."""

from __future__ import annotations

import importlib.util
import ipaddress
import signal
import socket
import ssl
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.terminal.answer import report_errors
from orchestrator.terminal.options import DATA_DEFAULT, AppPath, Data, app_path, existing

if TYPE_CHECKING:
    from orchestrator.console.guard import Access
    from orchestrator.deployment import DataDirectory

PORT_DEFAULT = 8300
CONNECTIONS_MAX = 100
SHUTDOWN_S_MAX = 3
TOKEN_FILE = "console.token"  # noqa: S105 - a name


def console(
    context: typer.Context,
    *,
    data: Data = DATA_DEFAULT,
    host: Annotated[str, typer.Option(help="Address to listen on; by default only this machine reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 = any that is free.")] = PORT_DEFAULT,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    login: Annotated[bool, typer.Option("--login", help="Ask for the token on loopback, too.")] = False,
    new_token: Annotated[bool, typer.Option("--new-token", help="Make a new token; the old one ends.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another name it is asked for by; repeatable.")] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="PEM", help="Speak TLS with this certificate chain.")] = None,
    private_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Of the certificate.")] = None,
    app: AppPath = None,
) -> None:
    """See every transaction on a web page, and act; works with the deployment down (read-only) and attaches when it is up.

    Example: raytx console --data orders --open
    """
    with report_errors(as_json=False):
        _check_extra()
        directory = existing(data)
        _check_tls(certificate, private_key)
        listener = _listen(host, port)
        at = listener.getsockname()
        try:
            access = _access(
                directory, host, at[1], login=login, new_token=new_token, names=allow_host or [],
                over_tls=certificate is not None)
            url = f"{'https' if certificate else 'http'}://{_shown(host)}:{at[1]}/"
            typer.echo(f"console of {directory.path}: {url}  (Ctrl-C ends it)")
            _tell_token(access, directory, over_tls=certificate is not None, host=host)
            if open_browser:
                webbrowser.open(url)
            _serve(directory, app_path(directory, app, str(context.obj)), access, listener, certificate, private_key)
        finally:
            listener.close()


def _check_extra() -> None:
    missing = [name for name in ("jinja2", "starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise DefiniteError(ErrorCode.CONFIG, f"the console needs {', '.join(missing)}: pip install 'raytx[console]'")


def _check_tls(certificate: Path | None, private_key: Path | None) -> None:
    if certificate is None:
        if private_key is not None:
            raise DefiniteError(ErrorCode.CONFIG, "--private-key: give its --certificate too")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as error:
        raise DefiniteError(ErrorCode.CONFIG, f"--certificate, --private-key: they cannot be used: {error}") from None


def _serve(  # noqa: PLR0917 - what the command was told
    directory: DataDirectory, app: str, access: Access, listener: socket.socket, certificate: Path | None,
    private_key: Path | None,
) -> None:
    import uvicorn  # noqa: PLC0415 - only this command needs it

    from orchestrator.console.link import DeploymentLink  # noqa: PLC0415 - as above
    from orchestrator.console.records import Records  # noqa: PLC0415 - as above
    from orchestrator.console.site import build_site  # noqa: PLC0415 - as above

    link = DeploymentLink(directory)
    config = uvicorn.Config(
        build_site(Records(directory, app), link, access), log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, lifespan="off", limit_concurrency=CONNECTIONS_MAX, timeout_graceful_shutdown=SHUTDOWN_S_MAX,
        ssl_certfile=certificate, ssl_keyfile=private_key)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises it again once it has ended in an orderly way
        signal.signal(number, lambda *_: sys.exit(0))
    link.start()
    try:
        uvicorn.Server(config).run([listener])
    finally:
        link.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise DefiniteError(
            ErrorCode.CONFIG, f"--host {host} --port {port}: {error.strerror or error}; choose another port") from None


def _access(
    directory: DataDirectory, host: str, port: int, *, login: bool, new_token: bool, names: list[str], over_tls: bool,
) -> Access:
    from orchestrator.console.guard import Access as Known  # noqa: PLC0415 - its library is an extra's
    from orchestrator.console.sessions import AccessToken  # noqa: PLC0415 - as above

    on_loopback = is_loopback(host)
    known = {"localhost", *names} if on_loopback else {"localhost", socket.gethostname(), socket.getfqdn(), host, *names}
    token = AccessToken(directory.path / TOKEN_FILE, renew=new_token) if login or new_token or not on_loopback else None
    return Known(
        token=token, names=frozenset(name.lower() for name in known), any_address=not on_loopback, over_tls=over_tls,
        cookie=f"raytx_console_{port}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address; a name counts as the addresses it stands for."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host or "0.0.0.0", None)}  # noqa: S104 - what no host means
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def _tell_token(access: Access, directory: DataDirectory, *, over_tls: bool, host: str) -> None:
    if access.token is None:
        return
    path = directory.path / TOKEN_FILE
    typer.echo(f"token: {access.token.text}  (shown once; it is in {path})" if access.token.made else f"token: see {path}")
    if not over_tls and not is_loopback(host):
        typer.echo(
            "warning: token and pages travel unencrypted: use --certificate and --private-key, or an SSH tunnel to loopback",
            err=True)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
