"""The console's tie to the deployment: an attached process that comes and goes with it, its samples, its answers."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.console.channel import Channel
from orchestrator.console.trends import Reading, Sample, Trends
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError, RaytxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.deployment import DataDirectory, DeploymentRecord

WATCH_S = 0.5  # between looks at the data directory
AGAIN_S_MAX = 15.0  # between attempts to attach
STALE_MS = 10_000  # a sample that is older tells nothing of now
ANSWER_S_MAX = 60.0
ATTACHMENT = (sys.executable, "-m", "orchestrator.console.attachment")
_END_S = 2.0


class Tie(StrEnum):
    """How the console and the deployment stand."""

    DOWN = "down"  # no deployment runs on the data directory
    STARTING = "starting"  # one is about to serve, or the console is about to reach it
    LOST = "lost"  # one runs and cannot be reached
    ATTACHED = "attached"


class Standing(NamedTuple):
    """The tie, since when (Unix ms), and why where it is not what one wants."""

    tie: Tie
    since_ms: int
    why: str


class DeploymentLink:
    """Follows whatever runs on a data directory; every method may be called by any thread and returns at once but `ask`.

    Args:
        directory: the data directory.
        attachment: the command of the attached process; gets the directory and the number of its socket.

    Attributes:
        trends: what was sampled.
    """

    def __init__(self, directory: DataDirectory, attachment: Sequence[str] = ATTACHMENT) -> None:
        self._directory, self._attachment, self.trends = directory, attachment, Trends()
        self._standing = Standing(Tie.DOWN, _now_ms(), "")
        self._waiting: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._run, self._failures, self._next_s, self._why = "", 0, 0.0, ""
        self._watcher = threading.Thread(target=self._watch, name="console-link", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._watcher.start()

    def close(self) -> None:
        """Detach and end the attached process."""
        self._ending.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self._drop()

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        return self._standing

    def latest(self) -> Sample | None:
        """The newest sample, unless it is too old to tell of now."""
        newest = self.trends.latest()
        return newest if newest is not None and _now_ms() - newest.at_ms < STALE_MS else None

    def reading(self) -> Reading | None:
        """The newest sample against one of some seconds before, likewise."""
        return self.trends.reading() if self.latest() is not None else None

    def ask(self, act: str, arguments: dict[str, Any], timeout_s: float = ANSWER_S_MAX) -> Any:
        """Have the attached process carry out an act.

        Args:
            act: its name, see `orchestrator.console.requests`.
            arguments: plain data.
            timeout_s: how long to wait.

        Raises:
            DefiniteError: refused; also E_UNREACHABLE where nothing is attached: nothing was done.
            IndefiniteError: E_UNREACHABLE, E_PENDING: it may have been done, and the list of acts tells.
        """
        future: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            channel = self._channel
            if channel is None or self._standing.tie is not Tie.ATTACHED:
                raise DefiniteError(ErrorCode.UNREACHABLE, f"nothing was done: {self._standing.why or 'not attached'}")
            self._waiting[number] = future
        try:
            channel.send({"number": number, "act": act, "arguments": arguments})
            return future.result(timeout_s)
        except (OSError, TimeoutError) as error:
            raise IndefiniteError(ErrorCode.PENDING, f"no answer ({error or 'too slow'}); it may have been done") from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    # ---- following ------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._ending.wait(WATCH_S):
            try:
                record = self._directory.running()
            except DefiniteError as error:
                self._drop()
                self._stand(Tie.LOST, error.message)
                continue
            self._follow(record)

    def _follow(self, record: DeploymentRecord | None) -> None:
        if record is None:
            self._drop()
            self._failures = 0
            self._stand(Tie.DOWN, f"no deployment runs on {self._directory.path}")
        elif record.state != "serving":
            self._drop()
            self._stand(Tie.STARTING, "the deployment is starting")
        elif self._process is None or self._run != record.run:
            self._drop()
            if time.monotonic() >= self._next_s:
                self._attach(record)
        elif self._process.poll() is not None:
            self._drop()
            self._failures += 1
            self._next_s = time.monotonic() + min(2.0 ** self._failures, AGAIN_S_MAX)
            self._stand(Tie.LOST, self._why or "the connection to the deployment was lost; it is being made again")

    def _attach(self, record: DeploymentRecord) -> None:
        if self._standing.tie is not Tie.LOST:
            self._stand(Tie.STARTING, "the console is attaching to the deployment")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                [*self._attachment, str(self._directory.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        self._run, self._why, self._channel = record.run, "", Channel(ours)
        threading.Thread(target=self._receive, args=(self._channel,), name="console-answers", daemon=True).start()

    def _drop(self) -> None:
        process, self._process = self._process, None
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()
            process.wait()

    # ---- what the attached process says ---------------------------------------------------------------------------

    def _receive(self, channel: Channel) -> None:
        for message in channel:
            if message["kind"] == "sample":
                self.trends.add(Sample(message["at_ms"], message["statuses"]))
            elif message["kind"] == "attached":
                self._failures = 0
                self._stand(Tie.ATTACHED, "")
            elif message["kind"] == "failed":
                self._why = f"{message['code']}: {message['message']}"
            else:
                self._settle(message)
        self._give_up(channel)

    def _settle(self, message: dict[str, Any]) -> None:
        with self._lock:
            future = self._waiting.pop(message["number"], None)
        if future is None:
            return
        if "error" in message:
            future.set_exception(_error(message["error"]))
        else:
            future.set_result(message["value"])

    def _give_up(self, channel: Channel) -> None:
        with self._lock:
            if self._channel not in (channel, None):
                return  # a newer one serves already
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_exception(IndefiniteError(
                ErrorCode.UNREACHABLE, "the connection was lost before the answer came; it may have been done"))

    def _stand(self, tie: Tie, why: str) -> None:
        with self._lock:
            since_ms = self._standing.since_ms if tie is self._standing.tie else _now_ms()
            self._standing = Standing(tie, since_ms, why)


def _error(told: dict[str, Any]) -> RaytxError:
    return (DefiniteError if told["definite"] else IndefiniteError)(told["code"], told["message"])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
