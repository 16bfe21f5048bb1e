"""A deployment's life on Ray: start it, attach to it, ask how it is, stop exactly it. The only place with actor options."""

from __future__ import annotations

import atexit
import contextlib
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.app import App, ParticipantSpec, load_app
from orchestrator.config import PROTOCOL_VERSION, Settings, make_settings
from orchestrator.deployment import (
    DIRECTORY_SCHEMA,
    DataDirectory,
    DeploymentRecord,
    DirectoryLock,
    import_path,
    stopped,
)
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.exposure import exposure_warnings
from orchestrator.head import (
    Head,
    abandon,
    join,
    keep_spare_workers,
    leave,
    open_head,
    own_processes,
    server_pids,
    start_dashboard,
)
from orchestrator.log.actor import LogSpec, TransactionLog
from orchestrator.log.store import create_log
from orchestrator.ownership import this_process
from orchestrator.shard import Shard, ShardSpec
from orchestrator.tracing.chosen import check_tracing
from orchestrator.transport import LOG_ACTOR, service_actor, shard_actor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

START_S_MAX = 120.0
STATUS_S = 5.0
_POLL_S = 0.05  # between questions whether an actor serves: Ray has no event for it
_CONCURRENCY = 10_000  # open exchanges wait inside an actor
_RESOURCE_SHARE = 0.001  # of the resource that names a node: it says where, not how much


class _Launch(NamedTuple):
    """One actor to create."""

    name: str
    actor_class: type
    spec: msgspec.Struct


class Deployment:
    """A running deployment as this process sees it: the one that started it, or one that attached.

    Attributes:
        data_dir: where its data lies.
        namespace: of its actors; of this run only.
        address: of Ray's GCS.
        run: changes at every start.
        app: services and sagas.
        app_path: import path of the app.
        settings: what it runs with.
        owned: whether this process started it, so that `stop` ends it.
        dashboard: URL of Ray's dashboard, or ""; it may answer some seconds after the deployment serves.
        warnings: what its user should know.
    """

    def __init__(self, directory: DataDirectory, record: DeploymentRecord, app: App, lock: DirectoryLock | None) -> None:
        self.data_dir, self.app, self.app_path = directory.path, app, record.app
        self.namespace, self.address, self.run, self.dashboard = (
            record.namespace, record.address, record.run, record.dashboard)
        self.settings, self.warnings = Settings.model_validate(record.settings), record.warnings
        self.owned = lock is not None
        self._directory, self._record, self._lock = directory, record, lock
        self._connected = True

    def __repr__(self) -> str:
        return f"Deployment(data={str(self.data_dir)!r}, namespace={self.namespace!r}, owned={self.owned})"

    @property
    def actor_names(self) -> list[str]:
        """Names of all its actors: the log, the services, the shards."""
        return actor_names(self._record)

    def actor(self, name: str) -> Any:
        """The handle of one of its actors.

        Raises:
            IndefiniteError: E_UNREACHABLE: it is not there now.
        """
        if not ray.is_initialized():  # Ray would start a cluster of its own to look in
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"actor {name}: this process is not connected to Ray any more")
        try:
            return ray.get_actor(name, namespace=self.namespace)
        except (ValueError, RayError, ConnectionError) as error:
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"actor {name}: {_first_line(error)}") from None

    def statuses(self, timeout_s: float = STATUS_S) -> list[dict[str, Any]]:
        """What every actor says of itself, asked at once; one that does not answer is "unreachable".

        Args:
            timeout_s: how long to wait for the slowest.

        Returns:
            One `{role, name, pid, node, epoch, state, restarts, detail}` each, in the order of `actor_names`.
        """
        handles = {}
        for name in self.actor_names:
            with contextlib.suppress(IndefiniteError):
                handles[name] = self.actor(name)
        found = dict(_ask(handles, timeout_s))
        return [found.get(name) or _unreachable(name, "") for name in self.actor_names]

    def stop(self) -> None:
        """End the deployment if this process started it, else only detach; harmless when repeated.

        What was accepted is durable and goes on at the next start on the same data directory.
        """
        if self._lock is None:
            self.detach()
            return
        atexit.unregister(self.stop)
        lock, self._lock = self._lock, None
        try:
            _kill(self.namespace, self.actor_names)
            self.detach()
            self._directory.write_record(stopped(self._record))
        finally:
            lock.release()

    def start_dashboard(self) -> None:
        """Start the dashboard of an own head, if an address was chosen for it, and wait until it listens: 10 s or more.

        Raises:
            IndefiniteError: E_UNREACHABLE: it did not start; the deployment serves on without it.
        """
        if self.dashboard:
            try:
                start_dashboard()
            except IndefiniteError:
                self.dashboard = ""
                raise
            finally:
                self._record = _changed(self._record, dashboard=self.dashboard, processes=own_processes())
                self._directory.write_record(self._record)

    def abandon(self) -> None:
        """End an own head that lost a server, at once; the process must end (or start anew) after it."""
        atexit.unregister(self.stop)
        abandon()
        self._directory.write_record(stopped(self._record))
        if self._lock is not None:
            self._lock.release()

    def server_pids(self) -> dict[str, int]:
        """Pids of the own head's GCS and raylet, by name; empty on a cluster that is somebody else's."""
        return server_pids()

    def detach(self) -> None:
        """Give up this process's connection to it; the deployment goes on."""
        if self._connected:
            self._connected = False
            leave()


def start_deployment(
    data_dir: Path | str,
    app_path: str,
    settings: Settings | None = None,
    *,
    address: str | None = None,
    dashboard: bool = False,
    keeper: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Deployment:
    """Run a deployment on a data directory, whose databases are created if it is new; it lives as long as this process.

    Args:
        data_dir: nothing else may run on it.
        app_path: import path of the app, `package.module:attribute`.
        settings: where None, those of the last start there (without simulated failures), else the defaults.
        address: of a Ray cluster to run on, this machine being a node of it; None = a private head of its own.
        dashboard: whether to choose an address for Ray's dashboard on an own head; `start_dashboard` starts it.
        keeper: this process does nothing else (`raytx up`).
        progress: told what is being done.

    Raises:
        DefiniteError: E_DATA_DIR, E_DATA_DIR_IN_USE, E_CONFIG, E_STORE_REFUSED; nothing is left running.
        IndefiniteError: E_UNREACHABLE: Ray or an actor did not come up; nothing is left running.
    """
    directory = DataDirectory(data_dir)
    app = _load(app_path, import_path())
    directory.prepare()
    with contextlib.ExitStack() as undo:
        lock = directory.lock()
        undo.callback(lock.release)
        last = directory.clean_up()
        manifest = directory.create_databases(app, create_log, progress)
        settings = settings or make_settings(**directory.settings())
        check_tracing(settings.tracing)
        record = _new_record(manifest.log, app, app_path, settings, keeper=keeper)
        directory.write_record(record)
        undo.callback(directory.write_record, stopped(record))
        progress("starting Ray" if address is None else f"joining Ray at {address}")
        head = join(address, None) if address else open_head(
            directory.token_path, record.app_path, dashboard=dashboard, preload=_modules(app, app_path))
        undo.callback(leave)
        record = _on_head(record, head)
        directory.write_record(record)
        if last is not None and not last.own_head:
            _kill(last.namespace, actor_names(last))
        undo.callback(_kill, record.namespace, actor_names(record))
        _launch(Deployment(directory, record, app, lock), head, progress)
        keep_spare_workers()
        record = _changed(record, state="serving", processes=own_processes())
        directory.write_record(record)
        undo.pop_all()
    deployment = Deployment(directory, record, app, lock)
    atexit.register(deployment.stop)
    return deployment


def attach(data_dir: Path | str) -> Deployment:
    """Connect to the deployment that runs on a data directory, waiting for one that is starting.

    Raises:
        DefiniteError: E_DATA_DIR; E_CONFIG: another version runs there, or this process is on another Ray cluster.
        IndefiniteError: E_UNREACHABLE: nothing runs there, or Ray does not answer.
    """
    directory = DataDirectory(data_dir)
    record = _wait_for(directory)
    if record.protocol != PROTOCOL_VERSION:
        raise DefiniteError(
            ErrorCode.CONFIG,
            f"the deployment speaks protocol {record.protocol}, this program {PROTOCOL_VERSION}: use the same version")
    app = _load(record.app, record.app_path)
    join(record.address, Path(record.token_path) if record.token_path else None)
    return Deployment(directory, record, app, None)


def attach_or_start(
    data_dir: Path | str, app_path: str | None, settings: Settings | None = None, *, address: str | None = None,
) -> Deployment:
    """Attach to what runs on a data directory, or start an embedded deployment there.

    Args:
        data_dir: the data directory.
        app_path: import path of the app; None = the one that runs or ran there.
        settings: for a deployment that is started.
        address: of a Ray cluster to start it on; None = a private head.

    Raises:
        DefiniteError: E_DATA_DIR, E_DATA_DIR_IN_USE, E_CONFIG, E_STORE_REFUSED.
        IndefiniteError: E_UNREACHABLE.
    """
    directory = DataDirectory(data_dir)
    record = directory.running()
    if record is not None:
        if app_path not in (None, record.app):
            raise DefiniteError(ErrorCode.CONFIG, f"app: {record.app!r} runs on {directory.path}, not {app_path!r}")
        return attach(data_dir)
    last = directory.record()
    app_path = app_path or (last.app if last else None)
    if app_path is None:
        raise DefiniteError(ErrorCode.CONFIG, f"app: nothing ever ran on {directory.path}: name package.module:attribute")
    return start_deployment(data_dir, app_path, settings, address=address)


def remove_actors(record: DeploymentRecord) -> None:
    """Remove what a killed keeper left on a cluster that is not its own.

    Raises:
        IndefiniteError: E_UNREACHABLE: the cluster does not answer.
    """
    join(record.address, None)
    _kill(record.namespace, actor_names(record))
    leave()


def actor_names(record: DeploymentRecord) -> list[str]:
    """Names of all actors of a deployment: the log, the services, the shards."""
    services = [service_actor(name) for name in record.services]
    return [LOG_ACTOR, *services, *(shard_actor(index) for index in range(record.shards))]


def _load(app_path: str, entries: list[str]) -> App:
    if app_path.startswith("__main__:"):
        raise DefiniteError(
            ErrorCode.CONFIG, f"app: actors cannot import {app_path!r}: move the app to a module of its own beside the script")
    sys.path.extend(entry for entry in entries if entry not in sys.path)
    return load_app(app_path)


def _modules(app: App, app_path: str) -> list[str]:
    """What the actors are made of: whatever a worker becomes, it has it imported."""
    classes = (service.actor_class() for service in app.services)
    return list(dict.fromkeys([__name__, app_path.partition(":")[0], *(found.__module__ for found in classes)]))


def _new_record(log_uuid: str, app: App, app_path: str, settings: Settings, *, keeper: bool) -> DeploymentRecord:
    run = uuid.uuid4().hex[:12]
    return DeploymentRecord(
        schema=DIRECTORY_SCHEMA, protocol=PROTOCOL_VERSION, state="starting", namespace=f"raytx-{log_uuid[:8]}-{run}",
        run=run, app=app_path, app_path=import_path(), settings=settings.model_dump(mode="json"), owner=this_process(),
        keeper=keeper, services=[service.name for service in app.services], shards=settings.shards)


def _on_head(record: DeploymentRecord, head: Head) -> DeploymentRecord:
    return _changed(
        record, address=head.address, own_head=head.own, dashboard=head.dashboard,
        temp_dir=str(head.temp_dir or ""), token_path=str(head.token_path or ""), warnings=exposure_warnings(head.address))


def _changed(record: DeploymentRecord, **changes: Any) -> DeploymentRecord:
    return msgspec.structs.replace(record, **changes)


def _launches(deployment: Deployment) -> list[_Launch]:
    settings, data_dir = deployment.settings.pack(), str(deployment.data_dir)
    namespace, run, shards = deployment.namespace, deployment.run, deployment.settings.shards
    log = LogSpec(data_dir=data_dir, deployment=namespace, run=run, settings=settings)
    launches = [_Launch(LOG_ACTOR, TransactionLog, log)]
    for service in deployment.app.services:
        participant = ParticipantSpec(service.name, deployment.app_path, data_dir, namespace, run, settings)
        launches.append(_Launch(service_actor(service.name), service.actor_class(), participant))
    for index in range(shards):
        shard = ShardSpec(index, shards, deployment.app_path, data_dir, namespace, run, settings)
        launches.append(_Launch(shard_actor(index), Shard, shard))
    return launches


def _launch(deployment: Deployment, head: Head, progress: Callable[[str], None]) -> None:
    """Create all actors at once, then wait for all together."""
    options: dict[str, Any] = {
        "namespace": deployment.namespace, "lifetime": "detached", "max_restarts": -1, "max_task_retries": 0, "num_cpus": 0,
        "enable_task_events": False, "max_concurrency": _CONCURRENCY}
    if not head.own:
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": ":".join(import_path())}}
    handles = {
        launch.name: ray.remote(launch.actor_class).options(
            name=launch.name, **options, **_placement(launch, deployment.settings, head)).remote(launch.spec)
        for launch in _launches(deployment)}
    progress(f"starting {len(handles)} actors")
    _await_serving(handles, progress)


def _placement(launch: _Launch, settings: Settings, head: Head) -> dict[str, Any]:
    """Where an actor may run: on the nodes that have the resource named for it, else on this one, which has the databases."""
    if head.own:
        return {}
    resource = settings.shard_resource if launch.actor_class is Shard else settings.store_resource
    if resource:
        return {"resources": {resource: _RESOURCE_SHARE}}
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _await_serving(handles: dict[str, Any], progress: Callable[[str], None]) -> None:
    end_s = time.monotonic() + START_S_MAX
    waiting = dict(handles)
    while waiting:
        last: dict[str, dict[str, Any]] = {}
        for name, status in _ask(waiting, STATUS_S):
            last[name] = status
            if status["state"] == "refused":
                raise DefiniteError(ErrorCode.STORE_REFUSED, f"{name}: {_told(status)}")
            if status["state"] == "failed":
                raise IndefiniteError(ErrorCode.UNREACHABLE, f"{name} failed to start: {_told(status)}")
            if status["state"] == "serving":
                del waiting[name]
                progress(f"{name} serves ({len(handles) - len(waiting)} of {len(handles)})")
        if waiting and time.monotonic() > end_s:
            slow = ", ".join(f"{name} ({_told(last.get(name, {}))})" for name in waiting)
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"not serving after {START_S_MAX:.0f} s: {slow}")
        if waiting:
            time.sleep(_POLL_S)


def _ask(handles: Mapping[str, Any], timeout_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every actor's status as it arrives; nothing of those that are silent for `timeout_s`."""
    end_s = time.monotonic() + timeout_s
    asked = {handle.status.remote(): name for name, handle in handles.items()}
    while asked:
        ready, _ = ray.wait(list(asked), num_returns=1, timeout=max(end_s - time.monotonic(), 0))
        if not ready:
            return
        name = asked.pop(ready[0])
        try:
            yield name, msgspec.msgpack.decode(ray.get(ready[0]))
        except RayActorError as error:
            failed = error.actor_init_failed
            yield name, _unreachable(name, _last_line(error)) | ({"state": "failed"} if failed else {})
        except RayError as error:
            yield name, _unreachable(name, _first_line(error))


def _unreachable(name: str, why: str) -> dict[str, Any]:
    role = "orchestrator" if name.startswith("shard-") else name.removeprefix("service-")
    return {"role": role, "name": name, "pid": None, "node": None, "epoch": None, "state": "unreachable",
            "restarts": None, "detail": why}


def _told(status: dict[str, Any]) -> str:
    return str(status.get("detail") or status.get("state") or "no answer")


def _kill(namespace: str, names: list[str]) -> None:
    for name in names if ray.is_initialized() else []:
        with contextlib.suppress(ValueError, RayError, ConnectionError):
            ray.kill(ray.get_actor(name, namespace=namespace), no_restart=True)


def _wait_for(directory: DataDirectory) -> DeploymentRecord:
    end_s = time.monotonic() + START_S_MAX
    while True:
        record = directory.running()
        if record is None:
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"no deployment runs on {directory.path}: start one (`raytx up`)")
        if record.state == "serving":
            return record
        if time.monotonic() > end_s:
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"the deployment on {directory.path} is still starting")
        time.sleep(_POLL_S)  # another process writes the file: there is no event to wait for


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2] or type(error).__name__
