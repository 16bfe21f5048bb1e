"""This process's connection to Ray: a private head of its own, or a cluster that is there already.

One process has one connection; deployments and clients in it share it, and the last one that leaves closes it, but only
if raytx opened it. An own head is private: a token that only this user can read, sockets and logs in a directory of its
own, free ports, and no "current cluster" file that would capture other programs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
import warnings
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.processes import HEAD_PREFIX, processes_of_head, remove_head
from orchestrator.spare import SpareWorkers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.ownership import Holder

OBJECT_STORE_BYTES = 100 * 1024 * 1024  # every message is inlined: the store stays empty
PROBE_S_MAX = 3.0
DASHBOARD_PORT = 8265  # Ray's default; the next free one is taken

_SOCKET_PATH_MAX = 107  # unix(7)
_SESSION_SOCKET_LENGTH = 62  # /session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store
_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # Ray lowers workers' priority below the driver's: they are the service here
    "RAY_timeout_ms_task_wait_for_death_info": "50",  # callers learn of a death, and of the restart, in 0.3 s, not 2 s
    "RAY_core_worker_internal_heartbeat_ms": "50",
    "RAY_DEDUP_LOGS": "0",  # it would drop lines that differ in digits only, ids and amounts
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True, slots=True)
class Head:
    """What this process is connected to; `temp_dir` and `token_path` are None unless it is a head of raytx."""

    address: str
    own: bool  # started by this process
    temp_dir: Path | None = None
    token_path: Path | None = None
    dashboard: str = ""  # URL that was chosen for it


class _Servers(Node):  # type: ignore[misc]  # Ray is untyped
    """The servers of an own head: those that ray.init starts, without what nobody here uses.

    Autoscaler, log monitor and API server are a third of the time of a start. The API server is the dashboard: it takes
    longer than all the rest, so that it is started last, if at all.
    """

    def __init__(self, temp_dir: Path, dashboard_port: int) -> None:
        parameters = RayParams(
            num_cpus=min(max(os.cpu_count() or 1, 2), 4),  # also how many workers start at once
            object_store_memory=OBJECT_STORE_BYTES, temp_dir=str(temp_dir), dashboard_port=dashboard_port,
            dashboard_agent_listen_port=0, no_monitor=True, include_log_monitor=False)
        super().__init__(parameters, head=True, shutdown_at_exit=False, spawn_reaper=True, ray_init_cluster=True)

    def start_api_server(self, **_options: Any) -> None:
        """Not among the servers that are started with the head."""
        self._webui_url = ""

    def start_dashboard(self) -> None:
        """Start it now and wait until it listens."""
        super().start_api_server(include_dashboard=True, raise_on_failure=True)


class _Connection:
    """The process's one connection and how many use it."""

    lock = threading.RLock()
    head: Head | None = None
    servers: _Servers | None = None  # of an own head
    spares: SpareWorkers | None = None  # on an own head
    users = 0
    ours = False  # raytx called ray.init, so that raytx calls ray.shutdown
    environment: dict[str, str | None] = {}  # noqa: RUF012 - what was there before
    release = threading.Event()  # ends the thread that started the head


def open_head(token_path: Path, python_path: list[str], *, dashboard: bool, preload: Sequence[str] = ()) -> Head:
    """Share the connection that this process has, or start a private head.

    Args:
        token_path: where the head's authentication token is written (0600).
        python_path: what workers import from, before what is installed.
        dashboard: whether to choose an address for Ray's dashboard; `start_dashboard` starts it.
        preload: modules that every worker imports when it starts, before it knows what it is for.

    Raises:
        IndefiniteError: E_UNREACHABLE: Ray could not be started (in time); nothing is left behind.
    """
    with _Connection.lock:
        if not ray.is_initialized():
            _start(token_path, python_path, preload, dashboard=dashboard)
        return _share()


def keep_spare_workers() -> None:
    """From now on keep idle workers on an own head, for the actors that die next; harmless when repeated."""
    with _Connection.lock:
        if _Connection.servers is not None and _Connection.spares is None:
            _Connection.spares = SpareWorkers(server_pids()["raylet"])


def wait_for_spare_workers(timeout_s: float) -> bool:
    """Wait until the idle workers that are kept on an own head are there, if any; returns whether they are."""
    spares = _Connection.spares
    return spares is None or spares.wait(timeout_s)


def start_dashboard() -> None:
    """Start the own head's dashboard at the address chosen for it, and wait until it listens: 10 s or more.

    Raises:
        IndefiniteError: E_UNREACHABLE: it did not start; nothing else depends on it.
    """
    servers = _Connection.servers
    if servers is not None:
        try:
            servers.start_dashboard()
        except Exception as error:
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"Ray's dashboard did not start: {_first_line(error)}") from error


def join(address: str, token_path: Path | None) -> Head:
    """Connect to a cluster that runs, or share the connection if this process has one to that cluster.

    Args:
        address: host:port of its GCS, or "auto".
        token_path: its authentication token; None = as the environment says.

    Raises:
        DefiniteError: E_CONFIG: this process is connected to another cluster.
        IndefiniteError: E_UNREACHABLE.
    """
    with _Connection.lock:
        if ray.is_initialized():
            _refuse_other(address)
        else:
            _connect(address, token_path)
        return _share()


def leave() -> None:
    """Give up one use of the connection; the last one closes it (and ends an own head) if raytx opened it."""
    with _Connection.lock:
        _Connection.users -= 1
        if _Connection.users > 0:
            return
        head, _Connection.head = _Connection.head, None
        if _Connection.ours and head is not None:
            _shut_down(head)


def abandon() -> None:
    """End an own head that lost a server, without Ray's own shutdown, which waits for the dead; this process must end."""
    with _Connection.lock:
        head, _Connection.head = _Connection.head, None
        if head is not None and head.own and head.temp_dir is not None:
            _end_servers(head.temp_dir)
            _restore_environment()


def own_processes() -> list[Holder]:
    """Processes of this process's own head: its servers and all workers."""
    head = _Connection.head
    return processes_of_head(head.temp_dir) if head is not None and head.own and head.temp_dir is not None else []


def server_pids() -> dict[str, int]:
    """Pids of the own head's GCS and raylet: without them it is no cluster any more."""
    servers = _Connection.servers
    if servers is None:
        return {}
    return {name: servers.all_processes[name][0].process.pid for name in ("gcs_server", "raylet")}


def _share() -> Head:
    if _Connection.head is None:  # the user's own ray.init
        context = ray.get_runtime_context()
        _Connection.head = Head(context.gcs_address, own=False)
    _Connection.users += 1
    return _Connection.head


def _refuse_other(address: str) -> None:
    here = ray.get_runtime_context().gcs_address
    if address not in (here, "auto"):
        raise DefiniteError(
            ErrorCode.CONFIG,
            f"this process is connected to the Ray cluster {here}, the deployment runs on {address}: call ray.shutdown() "
            "first, or use a process of its own")


def _start(token_path: Path, python_path: list[str], preload: Sequence[str], *, dashboard: bool) -> None:
    temp_dir = _private_directory()
    write_private(token_path, secrets.token_hex(32))
    _set_environment(token_path, preload)
    port = _free_port(DASHBOARD_PORT) if dashboard else 0
    try:
        with _python_path(python_path):
            _Connection.servers = servers = _in_lasting_thread(lambda: _Servers(temp_dir, port))
        _init(servers.gcs_address)
    except Exception as error:
        _end_servers(temp_dir)
        _restore_environment()
        raise IndefiniteError(ErrorCode.UNREACHABLE, f"Ray did not start: {_first_line(error)}") from error
    _Connection.ours = True
    _Connection.head = Head(
        servers.gcs_address, own=True, temp_dir=temp_dir, token_path=token_path,
        dashboard=f"http://127.0.0.1:{port}" if port else "")


def _connect(address: str, token_path: Path | None) -> None:
    _probe(address)
    if token_path is not None:
        _set_environment(token_path)
    try:
        context = _init(address)
    except Exception as error:
        _restore_environment()
        raise IndefiniteError(ErrorCode.UNREACHABLE, f"Ray at {address}: {_first_line(error)}") from error
    _Connection.ours = True
    _Connection.head = Head(context.address_info["gcs_address"], own=False)


def _probe(address: str) -> None:
    """Ray tries for 20 s to reach what is not there, and prints every attempt: see first whether anybody listens."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_S_MAX).close()
    except OSError as error:
        raise IndefiniteError(ErrorCode.UNREACHABLE, f"Ray at {address} does not answer ({error})") from None


def _init(address: str) -> Any:
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own announcements are nothing a user of raytx can act on
        context = ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    if main and callable(before):
        signal.signal(signal.SIGTERM, before)  # Ray replaces it; a program keeps the handler it had set
    return context


def _in_lasting_thread(start: Callable[[], _Servers]) -> _Servers:
    """Run in a thread that lives until the head is shut down.

    The kernel kills the head when the THREAD that started it ends (PR_SET_PDEATHSIG, see prctl(2)): a client that was
    opened in a short-lived thread would take the cluster with it.
    """
    if threading.current_thread() is threading.main_thread():
        return start()
    started: Future[_Servers] = Future()
    release = _Connection.release = threading.Event()

    def run() -> None:
        try:
            started.set_result(start())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            started.set_exception(error)
        else:
            release.wait()

    threading.Thread(target=run, name="raytx-head", daemon=True).start()
    return started.result()


def _shut_down(head: Head) -> None:
    ray.shutdown()
    _Connection.ours = False
    if head.own and head.temp_dir is not None:
        _end_servers(head.temp_dir)
    if head.own and head.token_path is not None:
        head.token_path.unlink(missing_ok=True)
    _restore_environment()


def _end_servers(temp_dir: Path) -> None:
    spares, _Connection.spares = _Connection.spares, None
    if spares is not None:
        spares.close()
    servers, _Connection.servers = _Connection.servers, None
    if servers is not None:
        servers.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
    remove_head(temp_dir)
    _Connection.release.set()


def _set_environment(token_path: Path, preload: Sequence[str] = ()) -> None:
    settings: dict[str, str | None] = dict.fromkeys(_AUTH) | {
        **_ENVIRONMENT, "RAY_preload_python_modules": ",".join(preload),
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}
    _Connection.environment = {name: os.environ.get(name) for name in settings}
    _apply(settings)


def _restore_environment() -> None:
    _apply(_Connection.environment)
    _Connection.environment = {}


def _apply(settings: dict[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")  # Ray reads its environment once, when it is imported
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _python_path(entries: list[str]) -> Iterator[None]:
    """What the head and so all its workers inherit, restarted ones too; not what this program's other children get."""
    before = os.environ.get("PYTHONPATH")
    inherited = (before or "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(entry for entry in [*entries, *inherited] if entry))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _free_port(first: int) -> int:
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    return 0


def _private_directory() -> Path:
    """A new directory (0700), short enough for the sockets in it."""
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - mkdtemp makes it private
        if len(base) + 1 + len(HEAD_PREFIX) + 8 + _SESSION_SOCKET_LENGTH > _SOCKET_PATH_MAX:
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=HEAD_PREFIX, dir=base))
        except OSError:
            continue
    raise DefiniteError(
        ErrorCode.CONFIG, "no directory for Ray's sockets: set TMPDIR to one that can be written, at most 30 characters long")


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, whatever was there before."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
