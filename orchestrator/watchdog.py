"""Ends a process that is alive and stuck, so that Ray starts another one: it is judged by the progress of its work.

Nothing outside sees that a thread is in an endless handler, or an event loop in an endless request builder: the process is
there, and its connections are. So a thread of its own looks now and then whether what is under way is still the same. It
counts looks, not time: one that comes late shows that the process was stopped, or the machine suspended, and does not count.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from orchestrator.logs import log_event

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKS = 30  # in the time after which something counts as stuck
LATE_FACTOR = 2  # a look that took so many times its pause came late
TELL_S_MAX = 5.0  # a stuck process may be stuck where it writes its log lines
_STDERR = 2


class Turns:
    """Counts turns of work that is done one at a time: `with turns: ...`; written by whichever thread does it.

    Attributes:
        count: odd while a turn is under way.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count += 1

    def step(self) -> None:
        """The turn under way gets on."""
        self.count += 2

    def progress(self) -> int | None:
        """The turn under way, and where in it; None if there is none."""
        return self.count if self.count % 2 else None


class _Pulse:
    """Asks an event loop, from another thread, whether it still turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked = self._answered = 0

    def progress(self) -> int | None:
        """The question that the loop has not answered since it was last asked; None if there is none."""
        if self._answered == self._asked:
            self._asked += 1
            try:
                self._loop.call_soon_threadsafe(self._answer, self._asked)
            except RuntimeError:  # it was closed: the process is about to end
                self._answered = self._asked
            return None
        return self._asked

    def _answer(self, asked: int) -> None:
        self._answered = asked


class _Watched:
    """One thing that is watched, and for how many looks it has been seen not to get on."""

    __slots__ = ("looks", "progress", "seen", "thread", "what")

    def __init__(self, what: str, progress: Callable[[], object], thread: Callable[[], int]) -> None:
        self.what, self.progress, self.thread = what, progress, thread
        self.seen: object = None
        self.looks = 0

    def look(self, *, counts: bool) -> int:
        """Look once more; returns how many looks in a row, of those that count, have found the same under way."""
        found = self.progress()
        if found is None or found != self.seen:
            self.seen, self.looks = found, 0
        elif counts:
            self.looks += 1
        return self.looks


class Watchdog:
    """Watches the event loop that makes it, and whatever else it is told of.

    Args:
        stuck_after_ms: one turn that takes longer ends the process; far above the slowest commit of a disk.
        clock: seconds that never run backwards.
        end: told what is stuck, for how many ms, and where its thread is; must end the process.
    """

    def __init__(
        self, stuck_after_ms: int, *, clock: Callable[[], float] = time.monotonic,
        end: Callable[[str, int, str], None] | None = None,
    ) -> None:
        self._stuck_after_ms = stuck_after_ms
        self._pause_s = stuck_after_ms / 1_000 / LOOKS
        self._clock, self._end = clock, end or _end
        self._loop = asyncio.get_running_loop()
        self._looked_s = clock()
        self._works: list[_Watched] = []
        self._closed = threading.Event()
        looping, self._pulse = threading.get_ident(), _Pulse(self._loop)
        self._turning = _Watched("event loop", self._loop_progress, lambda: looping)

    def watch(self, what: str, progress: Callable[[], object], thread: Callable[[], int]) -> None:
        """Watch one more thing.

        Args:
            what: its name, for a person.
            progress: None while nothing is under way; else a value that differs from the one before if it got on.
            thread: tells the ident of the thread that does it now.
        """
        self._works.append(_Watched(what, progress, thread))

    def start(self) -> None:
        """Look from now on, in a thread, until it is closed or the loop is."""
        guard = _Guard(self._stuck_after_ms / 1_000)
        guard.arm()
        self._looked_s = self._clock()
        threading.Thread(target=self._run, args=(guard,), name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def look(self) -> None:
        """Look at everything once, and end the process if something is stuck."""
        now_s = self._clock()
        counts = now_s - self._looked_s < self._pause_s * LATE_FACTOR
        self._looked_s = now_s
        for watched in (*self._works, self._turning):
            if watched.look(counts=counts) >= LOOKS:
                self._end(watched.what, self._stuck_after_ms, _stack(watched.thread()))

    def _loop_progress(self) -> object:
        """None while the loop turns; else the question it owes an answer to, and how far work is that may run on it."""
        asked = self._pulse.progress()
        return None if asked is None else (asked, *(work.progress() for work in self._works))

    def _run(self, guard: _Guard) -> None:
        try:
            while not self._closed.wait(self._pause_s) and not self._loop.is_closed():
                guard.arm()
                self.look()
        finally:
            guard.disarm()


class _Guard:
    """Ends the process where not even the watchdog runs, because C code keeps the interpreter's lock.

    A regular expression that backtracks for ever is such a case. The kernel counts the processor time of the whole process,
    which does not pass while it is stopped; SIGPROF ends it after the threads' stacks were written to stderr.
    """

    def __init__(self, cpu_s: float) -> None:
        self._cpu_s = cpu_s
        faulthandler.register(signal.SIGPROF, file=_STDERR, all_threads=True, chain=True)

    def arm(self) -> None:
        """The watchdog runs: begin anew."""
        signal.setitimer(signal.ITIMER_PROF, self._cpu_s)

    def disarm(self) -> None:
        """Nobody watches any more."""
        signal.setitimer(signal.ITIMER_PROF, 0)


def _stack(thread: int) -> str:
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented; there is no other way to another thread's stack
    return "" if frame is None else "".join(traceback.format_stack(frame))


def _end(what: str, stuck_ms: int, stack: str) -> None:
    teller = threading.Thread(target=_tell, args=(what, stuck_ms, stack), daemon=True)
    teller.start()
    teller.join(TELL_S_MAX)
    os._exit(1)


def _tell(what: str, stuck_ms: int, stack: str) -> None:
    log_event("stuck", level="CRITICAL", status=what, traceback=stack,
              message=f"the {what} has not got on for {stuck_ms} ms: the process ends, to be started again")
