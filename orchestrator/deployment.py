"""The data directory: who may run on it, which databases it has, which deployment runs (or ran) on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from orchestrator.config import Settings
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.ownership import Holder, this_process
from orchestrator.processes import end_all, is_alive, remove_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.app import App

DIRECTORY_SCHEMA = 1
_T = TypeVar("_T")


class _Versioned(msgspec.Struct):
    schema: int


class Manifest(msgspec.Struct, frozen=True):
    """The created marker: the databases that exist, by uuid; one that is named here is never created again."""

    schema: int
    log: str
    services: dict[str, str]


class DeploymentRecord(msgspec.Struct, frozen=True):
    """The deployment that runs, or ran last; what another process needs to attach to it or to clean up after it."""

    schema: int
    protocol: int
    state: str  # starting, serving, stopped
    namespace: str
    run: str
    app: str
    app_path: list[str]  # entries of sys.path that the app is imported from
    settings: dict[str, Any]
    owner: Holder  # the process that holds the lock
    keeper: bool  # the owner is a keeper (`raytx up`), not a program that embeds the deployment
    services: list[str]
    shards: int
    address: str = ""  # of Ray's GCS
    own_head: bool = False
    token_path: str = ""  # of Ray's authentication token; "" = as the environment says
    temp_dir: str = ""  # the head's private directory
    dashboard: str = ""
    processes: list[Holder] = []  # of the own head, when it began to serve
    warnings: list[str] = []  # what its user should know


def stopped(record: DeploymentRecord) -> DeploymentRecord:
    """The record of a deployment that has ended: which app and settings ran here last."""
    return msgspec.structs.replace(
        record, state="stopped", processes=[], address="", temp_dir="", dashboard="", warnings=[])


def import_path() -> list[str]:
    """What this program imports from beside what is installed: actors import the app from there too."""
    installed = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    entries = dict.fromkeys(Path(entry or ".").resolve() for entry in sys.path)
    return [
        str(entry) for entry in entries
        if entry.is_dir() and not installed.intersection([entry, *entry.parents])
        and entry.name not in {"site-packages", "dist-packages"}]


class DataDirectory:
    """Names of everything in a data directory, and its two small files.

    Args:
        path: the directory; it need not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().absolute()
        self.log_path = self.path / "log" / "log.sqlite"
        self.token_path = self.path / "ray.token"
        self._manifest_path = self.path / "created.json"
        self._record_path = self.path / "deployment.json"

    def service_path(self, name: str) -> Path:
        """The database of one service."""
        return self.path / "services" / f"{name}.sqlite"

    def prepare(self) -> None:
        """Make the directory (0700) where it is missing, and prove that it can be written.

        Raises:
            DefiniteError: E_DATA_DIR, with the remedy.
        """
        if self.path.exists() and not self.path.is_dir():
            raise _bad_directory(self.path, "it is a file; name a directory")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):  # for root, os.access tells nothing of a read-only mount
                pass
            self.path.chmod(0o700)
        except OSError as error:
            reason = error.strerror or str(error)
            raise _bad_directory(self.path, f"it cannot be written ({reason}); name one that can") from None

    def lock(self) -> DirectoryLock:
        """Become the one deployment on this directory.

        Raises:
            DefiniteError: E_DATA_DIR_IN_USE, naming the process; E_DATA_DIR.
        """
        return DirectoryLock(self.path / "lock")

    def manifest(self) -> Manifest | None:
        """The databases that exist; None before the first creation has completed.

        Raises:
            DefiniteError: E_DATA_DIR.
        """
        return self._read(self._manifest_path, Manifest)

    def record(self) -> DeploymentRecord | None:
        """The deployment that runs or ran last.

        Raises:
            DefiniteError: E_DATA_DIR.
        """
        return self._read(self._record_path, DeploymentRecord)

    def settings(self) -> dict[str, Any]:
        """What it ran with last, as the defaults of the next start; simulated failures have to be asked for again.

        Raises:
            DefiniteError: E_DATA_DIR.
        """
        record = self.record()
        known = Settings.model_fields.keys() - {"faults"}
        return {name: value for name, value in record.settings.items() if name in known} if record else {}

    def running(self) -> DeploymentRecord | None:
        """The deployment whose owner is alive, serving or about to.

        Raises:
            DefiniteError: E_DATA_DIR.
        """
        record = self.record()
        return record if record is not None and record.state != "stopped" and is_alive(record.owner) else None

    def write_record(self, record: DeploymentRecord) -> None:
        """Replace `deployment.json` atomically and durably (0600)."""
        _write(self._record_path, record)

    def create_databases(
        self, app: App, create_log: Callable[[Path], str], progress: Callable[[str], None] = lambda _: None,
    ) -> Manifest:
        """Create what the app needs and never had; prove that everything it had is there. Call it under the lock.

        Args:
            app: its services each have a database.
            create_log: makes the log's database durably, or finds the one there is; returns its uuid.
            progress: told what is being created.

        Returns:
            The manifest, durable.

        Raises:
            DefiniteError: E_STORE_REFUSED where a database that existed is missing or is another one; E_DATA_DIR.
        """
        known = self.manifest()
        log = self._create("log", self.log_path, known.log if known else "", create_log, progress)
        services = dict(known.services) if known else {}
        for service in app.services:
            services[service.name] = self._create(
                service.name, self.service_path(service.name), services.get(service.name, ""), service.create, progress)
        manifest = Manifest(DIRECTORY_SCHEMA, log, services)
        if manifest != known:
            _write(self._manifest_path, manifest)
        return manifest

    def clean_up(self) -> DeploymentRecord | None:
        """End what a killed deployment left on this machine, for it holds the databases; call it under the lock.

        Returns:
            The record of a deployment that had not been stopped; None where there is nothing to clean.

        Raises:
            DefiniteError: E_DATA_DIR_IN_USE: a process of it cannot be ended.
        """
        record = self.record()
        if record is None or record.state == "stopped":
            return None
        left = []
        if record.owner != this_process():  # else its head may serve another deployment of this process
            left = end_all(record.processes)
            if record.temp_dir and record.own_head:
                left += remove_head(Path(record.temp_dir))
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            raise DefiniteError(
                ErrorCode.DATA_DIR_IN_USE, f"processes of an earlier run cannot be ended: {pids}; end them, then try again")
        self.write_record(stopped(record))
        return record

    def _create(
        self, name: str, path: Path, known: str, create: Callable[[Path], str], progress: Callable[[str], None],
    ) -> str:
        if known and not path.is_file():
            raise _refused(path, f"the database of {name!r} is missing")
        if not known:
            progress(f"creating the database of {name}")
        with _reported(self.path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            uuid = create(path)
        if known and uuid != known:
            raise _refused(path, f"it is another database ({uuid}) than the one created here ({known})")
        return uuid

    def _read(self, path: Path, kind: type[_T]) -> _T | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _bad_directory(self.path, f"{path.name} cannot be read ({error.strerror})") from None
        try:
            if (schema := msgspec.json.decode(data, type=_Versioned).schema) > DIRECTORY_SCHEMA:
                raise _bad_directory(self.path, f"{path.name} has schema {schema}, newer than this program; upgrade")
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _bad_directory(self.path, f"{path.name} is not one of raytx ({error})") from None


class DirectoryLock:
    """An flock for the life of the process or until `release`; the kernel frees it whatever happens.

    Args:
        path: the lock file; created (0600) where it is missing.

    Raises:
        DefiniteError: E_DATA_DIR_IN_USE, naming the process; E_DATA_DIR.
    """

    def __init__(self, path: Path) -> None:
        with _reported(path.parent):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with _reported(path.parent):
                self._acquire(path)
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, msgspec.json.encode(this_process()), 0)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Let another deployment run here."""
        os.close(self._fd)

    def _acquire(self, path: Path) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(msgspec.DecodeError):
                holder = msgspec.json.decode(os.pread(self._fd, 4096, 0), type=Holder)
                raise _in_use(path.parent, f"process {holder.pid}") from None
            raise _in_use(path.parent, "another process") from None


def _in_use(path: Path, who: str) -> DefiniteError:
    return DefiniteError(
        ErrorCode.DATA_DIR_IN_USE,
        f"a deployment runs on {path} already ({who}): use that one, stop it (`raytx down --data {path}`), or name "
        "another directory")


def _bad_directory(path: Path, reason: str) -> DefiniteError:
    return DefiniteError(ErrorCode.DATA_DIR, f"data directory {path}: {reason}")


def _refused(path: Path, reason: str) -> DefiniteError:
    return DefiniteError(
        ErrorCode.STORE_REFUSED,
        f"{path}: {reason}; restore the newest copy of the whole data directory, never a part of it")


@contextlib.contextmanager
def _reported(path: Path) -> Any:
    """Turn an operating system's refusal into one that names the directory."""
    try:
        yield
    except OSError as error:
        raise _bad_directory(path, error.strerror or str(error)) from error


def _write(path: Path, value: msgspec.Struct) -> None:
    """Atomic and durable: a reader sees the old or the new file, whenever the machine stops."""
    with _reported(path.parent):
        fd, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # 0600
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
