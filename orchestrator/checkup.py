"""What a deployment needs of its machine: one function a check, each of what `orchestrator.machine` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from orchestrator.errors import RaytxError

if TYPE_CHECKING:
    from pathlib import Path

PYTHON_MIN = (3, 11)
RAY = "2.60."
SQLITE_MIN = (3, 38, 0)  # json_each without a special build, partial indexes, tables without rowid
FREE_BYTES_BAD = 256 << 20  # ballasts of 24 MiB each, write-ahead logs, logs
FREE_BYTES_WARN = 2 << 30
FSYNC_MS_WARN = 20.0
FSYNC_MS_BAD = 1_000.0
FSYNC_MS_UNREAL = 0.01  # no disk confirms anything in 10 µs: somebody answers before it is there
OPEN_FILES_BAD = 256
OPEN_FILES_WARN = 1_024
MEMORY_BYTES_BAD = 512 << 20
MEMORY_BYTES_WARN = 2 << 30
CLOCK_STEP_MS = 50.0
FUTURE_MS = 60_000
SOCKET_DIRECTORY_MAX = 107 - 62 - len("/raytx-12345678")  # unix(7), and what Ray adds
DASHBOARD_PORT = 8265
REMOTE = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.s3fs", "lustre"})
VOLATILE = frozenset({"tmpfs", "ramfs", "devtmpfs"})


class Health(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


class Finding(NamedTuple):
    """What one check found; `do` is empty where all is well."""

    check: str
    health: Health
    found: str
    do: str = ""


class Readings(Protocol):
    """What the checks ask of a machine; see `orchestrator.machine.Machine`."""

    data: Path

    def python(self) -> tuple[int, int, int]: ...  # noqa: D102 - see there, as all that follow
    def package(self, name: str) -> str: ...  # noqa: D102
    def imports(self, module: str) -> str: ...  # noqa: D102
    def sqlite(self) -> tuple[int, ...]: ...  # noqa: D102
    def file_system(self) -> str: ...  # noqa: D102
    def free_bytes(self) -> int: ...  # noqa: D102
    def fsync_ms(self) -> list[float]: ...  # noqa: D102
    def locks(self) -> bool: ...  # noqa: D102
    def mode(self) -> int | None: ...  # noqa: D102
    def is_directory(self) -> bool: ...  # noqa: D102
    def readable_by_others(self) -> list[str]: ...  # noqa: D102
    def not_mine(self) -> list[str]: ...  # noqa: D102
    def clock(self) -> tuple[float, float]: ...  # noqa: D102
    def now_ms(self) -> int: ...  # noqa: D102
    def newest_ms(self) -> int | None: ...  # noqa: D102
    def open_files(self) -> int: ...  # noqa: D102
    def memory_bytes(self) -> int: ...  # noqa: D102
    def processors(self) -> int: ...  # noqa: D102
    def listens(self, port: int) -> str: ...  # noqa: D102
    def resolves(self) -> str: ...  # noqa: D102
    def socket_directory(self) -> str: ...  # noqa: D102
    def variable(self, name: str) -> str: ...  # noqa: D102
    def starts_ray(self) -> float: ...  # noqa: D102


def python(machine: Readings) -> Finding:
    """The interpreter."""
    found = ".".join(map(str, machine.python()))
    if machine.python() >= PYTHON_MIN:
        return Finding("python", Health.OK, found)
    return Finding("python", Health.BAD, found, f"use Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer")


def ray(machine: Readings) -> Finding:
    """The version of Ray, which raytx is pinned to."""
    found = machine.package("ray")
    if found.startswith(RAY):
        return Finding("ray", Health.OK, found)
    return Finding("ray", Health.BAD, found or "not installed", f"pip install 'ray[default]=={RAY}*', no other minor version")


def sqlite(machine: Readings) -> Finding:
    """The library that Python was built with, or found."""
    found = ".".join(map(str, machine.sqlite()))
    if machine.sqlite() >= SQLITE_MIN:
        return Finding("sqlite", Health.OK, found)
    needed = ".".join(map(str, SQLITE_MIN))
    return Finding("sqlite", Health.BAD, found, f"use a Python whose SQLite is {needed} or newer")


def msgspec(machine: Readings) -> Finding:
    """The codec is compiled code: a wheel of another platform has none."""
    return _imported(machine, "msgspec", "msgspec._core", Health.BAD)


def uvloop(machine: Readings) -> Finding:
    """The client's event loop."""
    return _imported(machine, "uvloop", "uvloop.loop", Health.BAD)


def file_system(machine: Readings) -> Finding:
    """Locks and write-ahead logs need a local disk."""
    found = machine.file_system()
    if found in REMOTE:
        return Finding("file system", Health.BAD, found,
                       "put the data directory on a local disk: neither flock nor SQLite's shared memory can be trusted here")
    if found in VOLATILE:
        return Finding("file system", Health.WARN, f"{found}, in memory",
                       "good for a trial; what is acknowledged here does not survive a power cut")
    if found.startswith("overlay"):
        return Finding("file system", Health.WARN, found, "mount a volume for the data directory: it goes with the container")
    return Finding("file system", Health.OK, found or "unknown")


def room(machine: Readings) -> Finding:
    """Free space."""
    free = machine.free_bytes()
    health = Health.BAD if free < FREE_BYTES_BAD else Health.WARN if free < FREE_BYTES_WARN else Health.OK
    do = "" if health is Health.OK else "make room: each database sets 24 MiB aside, history grows for the retention period"
    return Finding("free space", health, f"{free / 2**30:.1f} GiB", do)


def fsync(machine: Readings) -> Finding:
    """Whether the disk confirms a write, and how long that takes: every transaction waits for it."""
    try:
        taken = machine.fsync_ms()
    except OSError as error:
        return Finding("fsync", Health.BAD, f"refused: {error}", "use another disk: nothing can be made durable on this one")
    median, most = taken[len(taken) // 2], taken[-1]
    found = f"median {median:.2f} ms, longest {most:.1f} ms"
    if median > FSYNC_MS_BAD:
        return Finding("fsync", Health.BAD, found, "use a faster disk: processes would be taken for stuck")
    if median > FSYNC_MS_WARN:
        return Finding("fsync", Health.WARN, found, "every transaction waits for some of these: use a faster disk")
    if median < FSYNC_MS_UNREAL:
        return Finding("fsync", Health.WARN, found, "no disk is that fast: it confirms what it has not written")
    return Finding("fsync", Health.OK, found)


def locks(machine: Readings) -> Finding:
    """One owner of a database at a time rests on flock."""
    try:
        if machine.locks():
            return Finding("locks", Health.OK, "flock excludes a second owner")
        found = "two processes can hold one flock"
    except OSError as error:
        found = f"no flock: {error}"
    return Finding("locks", Health.BAD, found, "put the data directory on a local disk")


def permissions(machine: Readings) -> Finding:
    """The data directory holds inputs as they were given, and the token."""
    mode = machine.mode()
    if not machine.is_directory():
        return Finding("data directory", Health.BAD, f"{machine.data} is a file", "name a directory")
    strangers = machine.not_mine()
    if strangers:
        return Finding("data directory", Health.BAD, f"{strangers[0]} is another user's", "run as that user, or chown it all")
    readable = machine.readable_by_others()
    if mode is not None and mode & 0o077 and readable:
        return Finding("data directory", Health.BAD, f"mode {mode:04o}, and others may read {readable[0]}",
                       f"chmod -R go= {machine.data}")
    if mode is not None and mode & 0o077:
        return Finding("data directory", Health.WARN, f"mode {mode:04o}", f"chmod 700 {machine.data}")
    return Finding("data directory", Health.OK, f"{machine.data}" if mode is not None else f"{machine.data}, not made yet")


def clock(machine: Readings) -> Finding:
    """Deadlines and retention are times."""
    stepped_ms, passed_ms = machine.clock()
    newest_ms = machine.newest_ms()
    if passed_ms <= 0:
        return Finding("clock", Health.BAD, "the monotonic clock stands still", "mend the machine's clock source")
    if newest_ms is not None and newest_ms > machine.now_ms() + FUTURE_MS:
        ahead_s = (newest_ms - machine.now_ms()) // 1_000
        return Finding("clock", Health.WARN, f"files of the data directory are {ahead_s} s in the future: it was set back",
                       "set it right, and let it be kept (chrony, systemd-timesyncd)")
    if abs(stepped_ms) > CLOCK_STEP_MS:
        return Finding("clock", Health.WARN, f"it was stepped by {stepped_ms:.0f} ms while it was watched",
                       "have it slewed, not stepped (chrony, systemd-timesyncd)")
    return Finding("clock", Health.OK, "it runs evenly")


def open_files(machine: Readings) -> Finding:
    """Ray and every connection need descriptors."""
    found = machine.open_files()
    if found >= OPEN_FILES_WARN:
        return Finding("open files", Health.OK, str(found))
    return Finding("open files", Health.BAD if found < OPEN_FILES_BAD else Health.WARN, str(found), "ulimit -n 65536")


def memory(machine: Readings) -> Finding:
    """Ray's head, the log, a shard and each service take 60 to 130 MB each."""
    found = machine.memory_bytes()
    health = Health.BAD if found < MEMORY_BYTES_BAD else Health.WARN if found < MEMORY_BYTES_WARN else Health.OK
    do = "" if health is Health.OK else "free some: a deployment of four services takes about 1.5 GB"
    return Finding("memory", health, f"{found / 2**30:.1f} GiB available", do)


def processors(machine: Readings) -> Finding:
    """A deployment is several processes."""
    found = machine.processors()
    if found > 1:
        return Finding("processors", Health.OK, str(found))
    return Finding("processors", Health.WARN, str(found), "it works, slowly: log, shard and services take turns")


def ports(machine: Readings) -> Finding:
    """Somebody must be able to listen on the loopback interface, and the host to find itself."""
    refused = machine.listens(0)
    if refused:
        return Finding("ports", Health.BAD, f"nobody can listen on 127.0.0.1: {refused}", "allow it (sandbox, firewall)")
    nameless = machine.resolves()
    if nameless:
        return Finding("ports", Health.WARN, f"the host's name has no address: {nameless}", "add it to /etc/hosts")
    return Finding("ports", Health.OK, "127.0.0.1 listens, the host's name has an address")


def dashboard(machine: Readings) -> Finding:
    """The usual port of Ray's dashboard."""
    refused = machine.listens(DASHBOARD_PORT)
    if not refused:
        return Finding("dashboard", Health.OK, f"port {DASHBOARD_PORT} is free")
    return Finding("dashboard", Health.WARN, f"port {DASHBOARD_PORT}: {refused}", "nothing: the next free one is taken")


def sockets(machine: Readings) -> Finding:
    """Ray's sockets lie in a private directory, whose path must be short."""
    place = machine.socket_directory()
    if len(place) <= SOCKET_DIRECTORY_MAX:
        return Finding("sockets", Health.OK, place)
    found = f"{place} has {len(place)} characters, {SOCKET_DIRECTORY_MAX} fit"
    return Finding("sockets", Health.BAD, found, "export TMPDIR=/tmp")


def authentication(machine: Readings) -> Finding:
    """A cluster that `--address` may join: whoever reaches one that asks for no token can run any code on it."""
    address, mode = machine.variable("RAY_ADDRESS"), machine.variable("RAY_AUTH_MODE")
    if mode == "token" or not address:
        return Finding("authentication", Health.OK, "by token" if mode else "a head of one's own always asks for a token")
    return Finding("authentication", Health.WARN, f"RAY_ADDRESS is {address}, and RAY_AUTH_MODE is {mode or 'not set'}",
                   "start that cluster with RAY_AUTH_MODE=token, or keep others from its ports")


def starts_ray(machine: Readings) -> Finding:
    """A head of one's own starts and ends."""
    try:
        took_s = machine.starts_ray()
    except RaytxError as error:
        return Finding("Ray starts", Health.BAD, error.message, "read what Ray's own logs say, and `ray start --head` by hand")
    return Finding("Ray starts", Health.OK, f"{took_s:.1f} s, with a token of its own")


CHECKS: tuple[Callable[[Readings], Finding], ...] = (
    python, ray, sqlite, msgspec, uvloop, permissions, file_system, room, fsync, locks, clock, open_files, memory, processors,
    ports, dashboard, sockets, authentication)
SLOW: tuple[Callable[[Readings], Finding], ...] = (starts_ray,)


def examine(machine: Readings, *, with_ray: bool) -> Iterator[Finding]:
    """Every check in turn; one that cannot be made is bad.

    Args:
        machine: what is read.
        with_ray: whether a Ray head is started, which takes some seconds.
    """
    for check in (*CHECKS, *(SLOW if with_ray else ())):
        try:
            yield check(machine)
        except OSError as error:
            yield Finding(check.__name__.replace("_", " "), Health.BAD, str(error), "see whether this user may read it")


def _imported(machine: Readings, package: str, module: str, health: Health) -> Finding:
    problem = machine.imports(module)
    if not problem:
        return Finding(package, Health.OK, f"{machine.package(package)}, compiled")
    return Finding(package, health, problem, f"pip install --force-reinstall {package}: a wheel of this platform")
