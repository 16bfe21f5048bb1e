"""Placing from several processes at once: each has a part of the plan, its own client and its own history file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final

from loadgen.history import HistoryWriter
from loadgen.place import Placed, Progress, open_books, place
from loadgen.plan import LoadPlan
from loadgen.prepare import prepare
from loadgen.recording import RecordedClient
from loadgen.tally import Tally, added_up
from orchestrator.client import Client
from orchestrator.cluster import attach
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError, RaytxError

READY_S_MAX: Final = 300.0
END_S_MAX: Final = 3.0
HEAD_START_NS: Final = 100_000_000  # for all of them to hear when it begins
NAMES: Final = "abcdefghijklmnopqrstuvwxyz"
PROCESSES_MAX: Final = len(NAMES)


@dataclass(slots=True)
class _Child:
    """One driver process."""

    name: str
    process: SpawnProcess
    pipe: Connection


class Apart:
    """Driver processes whose books are open.

    Args:
        children: they.
    """

    def __init__(self, children: Sequence[_Child]) -> None:
        self._children = children

    def statuses(self) -> list[dict[str, Any]]:
        """As the actors of a deployment tell theirs, for the meter."""
        return [{"role": "client", "name": child.name, "pid": child.process.pid, "restarts": 0} for child in self._children]

    def place(self, progress: Progress) -> Placed:
        """Have all of them place their part, beginning together.

        Raises:
            DefiniteError, IndefiniteError: what one of them raised, or that it died.
        """
        begin_ns = time.perf_counter_ns() + HEAD_START_NS
        for child in self._children:
            child.pipe.send(begin_ns)
        shown: dict[str, tuple[Tally, int]] = {}
        placed: dict[str, Placed] = {}
        while len(placed) < len(self._children):
            for child in self._waiting(placed):
                kind, told = _receive(child)
                if kind == "progress":
                    shown[child.name] = Tally.from_plain(told[0]), told[1]
                else:
                    placed[child.name] = Placed(Tally.from_plain(told[0]), *told[1:])
            progress(added_up(tally for tally, _ in shown.values()), sum(in_flight for _, in_flight in shown.values()))
        return _together(list(placed.values()), begin_ns)

    def _waiting(self, placed: dict[str, Placed]) -> list[_Child]:
        left = [child for child in self._children if child.name not in placed]
        ready = wait([child.pipe for child in left], timeout=1.0)
        return [child for child in left if child.pipe in ready]


@contextmanager
def apart(plan: LoadPlan, run: str, histories: Sequence[Path]) -> Iterator[Apart]:
    """Start as many driver processes as the plan says and wait until they are ready; they end with the context.

    Args:
        plan: of the whole.
        run: token of the whole; theirs are longer by a letter.
        histories: a file for each of them.

    Raises:
        DefiniteError: E_INVALID_INPUT, or what one of them raised: no order was placed.
        IndefiniteError: E_UNREACHABLE.
    """
    context = get_context("spawn")
    children = []
    try:
        for index, history in enumerate(histories):
            here, there = context.Pipe()
            name = f"driver-{index}"
            process = context.Process(
                target=_work, args=(plan.share(index), run + NAMES[index], history, there), name=name, daemon=True)
            process.start()
            there.close()
            children.append(_Child(name, process, here))
        for child in children:
            if not child.pipe.poll(READY_S_MAX):
                raise IndefiniteError(ErrorCode.UNREACHABLE, f"{child.name} was not ready within {READY_S_MAX:.0f} s")
            _receive(child)
        yield Apart(children)
        for child in children:
            child.pipe.send(None)
        for child in children:
            child.process.join()
    finally:
        for child in children:
            child.pipe.close()  # where the run was ended they hear of it thus, and note what they were told
        end_s = time.monotonic() + END_S_MAX
        for child in children:
            child.process.join(max(0.0, end_s - time.monotonic()))
            child.process.kill()
            child.process.join()


def _receive(child: _Child) -> tuple[str, Any]:
    try:
        kind, told = child.pipe.recv()
    except EOFError:
        raise IndefiniteError(ErrorCode.UNREACHABLE, f"{child.name} has died; its orders may have been placed") from None
    if kind == "failed":
        raise (DefiniteError if told[0] else IndefiniteError)(told[1], f"{child.name}: {told[2]}")
    return kind, told


def _together(parts: Sequence[Placed], begin_ns: int) -> Placed:
    contents: dict[str, int] = {}
    for part in parts:
        for name, number in part.contents.items():
            contents[name] = contents.get(name, 0) + number
    return Placed(
        added_up(part.tally for part in parts), sum(part.skipped for part in parts), contents,
        sum(part.orders for part in parts), begin_ns)


def _work(plan: LoadPlan, run: str, history: Path, pipe: Connection) -> None:
    """The whole life of a driver process."""
    os.dup2(2, 1)  # what Ray prints is no result
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt reaches its parent as well, who ends it
    try:
        with Client(attach(plan.data)) as client, HistoryWriter(history, f"load-{plan.index}") as writer:
            recorded = RecordedClient(client, writer)
            prepared = prepare(plan, run)
            open_books(recorded, prepared)
            pipe.send(("ready", None))
            placed = place(recorded, prepared, begin_ns=pipe.recv(), progress=partial(_tell, pipe))
            writer.flush()
            pipe.send(("placed", (placed.tally.to_plain(), placed.skipped, placed.contents, placed.orders)))
            pipe.recv()  # its CPU has been read
    except EOFError:
        return  # its parent has given up
    except RaytxError as error:
        pipe.send(("failed", (isinstance(error, DefiniteError), str(error.code), error.message)))


def _tell(pipe: Connection, tally: Tally, in_flight: int) -> None:
    try:
        pipe.send(("progress", (tally.glance().to_plain(), in_flight)))
    except ConnectionError:
        raise EOFError from None  # as if it had been read
