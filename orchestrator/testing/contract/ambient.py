"""Notices code that asks for what a replay cannot give again: the time, chance, an address in memory."""

from __future__ import annotations

import datetime as dt
import gc
import random
import sys
import sysconfig
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType
from typing import Any

_CLOCKS = frozenset({
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "clock_gettime"})
_DATES = frozenset({"now", "utcnow", "today"})
_CHANCE = frozenset({"random", "getrandbits"})
_OF_A_PROCESS = frozenset({"id", "hash"})
_LOGGING = frozenset({"logging", "loguru"})  # a line's time stamp is nobody's result
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
_SHARED_RANDOM = random.random.__self__  # type: ignore[attr-defined]  # the instance behind the module's functions


class Ambient:
    """Runs code and notes what it asked its surroundings for, each as "what, in which file and line"."""

    def __init__(self) -> None:
        self._asked: list[str] = []

    def run(self, code: Callable[[], Any]) -> Any:
        """What the code returns; raises what it raises."""
        before, collecting = sys.getprofile(), gc.isenabled()
        gc.disable()  # whoever listens to the collector may look at the clock, and it is not the handler who asked
        sys.setprofile(self._note)
        try:
            return code()
        finally:
            sys.setprofile(before)
            if collecting:
                gc.enable()

    def take(self) -> list[str]:
        """What was noted since the last call."""
        asked, self._asked = self._asked, []
        return asked

    def _note(self, frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call":
            return
        what = _source(called, frame)
        if what and not _logs(frame):
            self._asked.append(f"{what} in {PurePath(frame.f_code.co_filename).name}, line {frame.f_lineno}")


def _source(called: Any, frame: FrameType) -> str:
    name, module, owner = called.__name__, getattr(called, "__module__", None), getattr(called, "__self__", None)
    if (module == "time" and name in _CLOCKS) or (
            name in _DATES and isinstance(owner, type) and issubclass(owner, dt.date)):
        return f"the time ({name})"
    if (module == "posix" and name in ("urandom", "getrandom")) or (owner is _SHARED_RANDOM and name in _CHANCE):
        return f"chance ({name})"
    if module == "builtins" and name in _OF_A_PROCESS and _own(frame):
        return f"what differs between processes ({name})"
    return ""


def _own(frame: FrameType) -> bool:
    """Whether the code asks on its own behalf: copying, printing and hashing of objects do so too."""
    code = frame.f_code
    return code.co_name != "__hash__" and not code.co_filename.startswith(_LIBRARIES)


def _logs(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _LOGGING:
            return True
        frame = frame.f_back
    return False
