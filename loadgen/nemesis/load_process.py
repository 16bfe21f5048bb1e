"""The load driver as seen by the nemesis: a child process that is killed and started again."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.ownership import Holder
from orchestrator.processes import identify

REPEATED = 512  # orders before the last known one that the next life places again
START_S_MAX = 120.0
RAY_KILL_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What is placed.

    Attributes:
        data: data directory of the deployment.
        histories: directory where every life writes a history of its own.
        run: token in ids and keys.
        seed: of the orders.
        orders: at most so many.
        lines: of an order, `MIN-MAX`; None: as measured in a real shop.
        concurrency: orders in flight.
        errors: file that takes the driver's stderr.
        environment: of the driver's process, until `LoadProcess.environment` is set.
        command: what comes before the driver's own command, such as `ip netns exec NAME`.
    """

    data: Path
    histories: Path
    run: str
    seed: int
    orders: int
    lines: str | None
    concurrency: int
    errors: Path
    environment: Mapping[str, str]
    command: tuple[str, ...] = ()


@dataclass(slots=True)
class Progress:
    """What the present life of the driver has told of itself; counts are of this life."""

    next: int = 0
    probe: int = 0
    told: dict[str, int] = field(default_factory=dict)
    aborted_by_code: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    repeated: int = 0
    cancelled: int = 0


class LoadProcess:
    """Starts the driver, kills it, starts it again; `total` adds up its lives.

    Args:
        options: what is placed.
    """

    def __init__(self, options: LoadOptions) -> None:
        self._options = options
        self.environment: Mapping[str, str] = options.environment  # of the next life
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._took_ms: dict[int, float] = {}
        self._ray_killed: dict[str, Any] | None = None
        self._placing = self._ended = self.drained = False
        self._placed = False  # some life has
        self.lives = 0
        self.progress = Progress()
        self._past: Counter[str] = Counter()
        self._past_codes: Counter[str] = Counter()

    def start(self) -> None:
        """Start it, or start it again where it left off, and wait until it places orders.

        Raises:
            IndefiniteError: E_UNREACHABLE: it does not.
        """
        self._close()
        last, self.progress = self.progress, Progress()
        self._past.update(last.told)
        self._past_codes.update(last.aborted_by_code)
        self._past["repeated"] += last.repeated
        self._past["cancelled"] += last.cancelled
        self.progress.next, self.progress.probe = max(0, last.next - REPEATED), last.probe + 1
        self.lives += 1
        self._placing = self._ended = self.drained = False
        with self._options.errors.open("ab") as errors:
            self._process = process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=dict(self.environment))
        threading.Thread(target=self._listen, args=(process,), name="load-messages", daemon=True).start()
        self._wait(lambda: self._placing or self._ended, START_S_MAX)
        if not self._placing:
            code = process.poll()
            self.kill()
            raise IndefiniteError(
                ErrorCode.UNREACHABLE, f"the load driver did not start (exit code {code}): see {self._options.errors}")
        self._placed = True

    def kill(self) -> Holder | None:
        """SIGKILL; returns which process it was."""
        if self._process is None:
            return None
        found = identify(self._process.pid)
        self._process.kill()
        self._process.wait()
        return found

    def drain(self) -> None:
        """Have it place nothing more and end once everything is told."""
        self._send(drain=True)

    def wait_drained(self, limit_s: float) -> bool:
        """Wait until it has been told everything; returns whether it was."""
        return self._wait(lambda: self.drained or self._ended, limit_s) and self.drained

    @property
    def ended(self) -> bool:
        """Whether its process is gone, or was never there."""
        return self._ended or self._process is None or self._process.poll() is not None

    def mark(self, actor: str, at_ns: int) -> int:
        """Have it watch for the first outcome that needs the successor of who was killed; returns a number to wait for."""
        number = next(self._numbers)
        self._send(mark=[number, actor, at_ns])
        return number

    def took_ms(self, mark: int, limit_s: float) -> float | None:
        """How long after the kill that outcome came; None where it did not in `limit_s`, or the driver ended."""
        self._wait(lambda: mark in self._took_ms or self._ended, limit_s)
        return self._took_ms.get(mark)

    def ray_kill(self, actor: str) -> int:
        """Have it call ray.kill(no_restart=False); returns when it did, ns of the monotonic clock, 0 where it could not."""
        self._ray_killed = None
        self._send(ray_kill=actor)
        self._wait(lambda: self._ray_killed is not None or self._ended, RAY_KILL_S_MAX)
        return int(self._ray_killed["at_ns"]) if self._ray_killed else 0

    def total(self) -> Counter[str]:
        """What was told in all lives, and how many orders were repeated or cancelled on purpose."""
        return self._past + Counter(self.progress.told) + Counter(
            repeated=self.progress.repeated, cancelled=self.progress.cancelled)

    def aborted_by_code(self) -> Counter[str]:
        """Why, over all lives."""
        return self._past_codes + Counter(self.progress.aborted_by_code)

    def close(self) -> None:
        """End it."""
        self.kill()
        self._close()

    def _command(self) -> list[str]:
        options = self._options
        command = [
            *options.command, sys.executable, "-m", "loadgen.nemesis.placer", "--data", str(options.data),
            "--history", str(options.histories / f"driver-{self.lives}.jsonl"), "--run", options.run,
            "--seed", str(options.seed), "--orders", str(options.orders), "--concurrency", str(options.concurrency),
            "--life", str(self.lives), "--first", str(self.progress.next), "--probe", str(self.progress.probe)]
        command += [] if options.lines is None else ["--lines", options.lines]
        return command if self._placed else [*command, "--books"]

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            with self._changed:
                if process is self._process:
                    self._take(message)
                self._changed.notify_all()
        process.wait()
        with self._changed:
            if process is self._process:
                self._ended = True
            self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if "resolved" in message:
            self._took_ms[message["resolved"]] = message["took_ms"]
        elif "ray_killed" in message:
            self._ray_killed = message
        elif "next" in message:
            known = Progress.__dataclass_fields__
            self.progress = Progress(**{name: value for name, value in message.items() if name in known})
        self._placing = self._placing or "placing" in message
        self.drained = self.drained or "drained" in message

    def _send(self, **command: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return  # it has ended: whoever waits for an answer sees that

    def _wait(self, condition: Any, limit_s: float) -> bool:
        end_s = time.monotonic() + limit_s
        with self._changed:
            return bool(self._changed.wait_for(condition, end_s - time.monotonic()))

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        continue  # what was still to be sent has nobody to go to
