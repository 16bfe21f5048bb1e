"""The load of a chaos run as a process of its own: it may be killed, and its next life repeats its last keys.

Run as `python -m loadgen.nemesis.placer`. Commands are JSON lines on stdin, what it tells are JSON lines on stdout. It ends
with its parent, and by Ray's hand when the head is lost.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from loadgen.driver import Driver
from loadgen.history import HistoryWriter
from loadgen.nemesis.marks import Mark, Marks
from loadgen.nemesis.orders import EndlessFeed, Probes, make_workload, scarce_books
from loadgen.nemesis.witness import Witness
from loadgen.options import parse_lines
from loadgen.tally import Tally
from loadgen.workload import BooksFeed
from orchestrator.client import Client
from orchestrator.cluster import attach
from orchestrator.errors import RaytxError
from orchestrator.transport import service_actor

BOOKS_CONCURRENCY = 8
PATIENCE_S = 180.0
EXIT_FAILED = 3


class Placer:
    """Places orders until it is told to drain.

    Args:
        client: of the deployment.
        options: of the command line.
        out: file descriptor that messages go to.
    """

    def __init__(self, client: Client, options: argparse.Namespace, out: int) -> None:
        self._client, self._out = client, out
        self._telling = threading.Lock()
        shards = client.deployment.settings.shards
        self._workload = make_workload(options.run, options.seed, options.orders, parse_lines(options.lines))
        self._feed = EndlessFeed(self._workload, options.first)
        self._probes = Probes(self._workload, options.probe, shards)
        self._marks = Marks(shards, self._resolved)
        self._history = HistoryWriter(options.history, f"driver-{options.life}")
        self._witness = Witness(client, self._history, self._marks)
        self._concurrency = options.concurrency

    def run(self, *, books: bool) -> None:
        """Bring in the books if asked to, then place orders until drained."""
        if books:
            feed = BooksFeed(self._workload.run, scarce_books(self._workload))
            Driver(self._witness, feed, concurrency=BOOKS_CONCURRENCY, patience_s=PATIENCE_S).run()
        threading.Thread(target=self._listen, name="placer-commands", daemon=True).start()
        with self._history:
            self._tell(placing=True)
            Driver(self._witness, self._feed, concurrency=self._concurrency, patience_s=PATIENCE_S,
                   progress=self._progress).run()
            self._tell(drained=True)

    def _listen(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if "mark" in command:
                self._mark(Mark(*command["mark"]))
            elif "ray_kill" in command:
                self._ray_kill(command["ray_kill"])
            elif "drain" in command:
                self._feed.draining = True
        os._exit(EXIT_FAILED)  # its parent is gone

    def _mark(self, mark: Mark) -> None:
        self._marks.add(mark)
        work = self._probes.take(mark.actor)
        if work is not None:
            self._witness.submit(work.saga, work.input, key=work.key)

    def _ray_kill(self, actor: str) -> None:
        name = actor if actor == "log" or actor.startswith("shard-") else service_actor(actor)
        try:
            handle = self._client.deployment.actor(name)
            at_ns = time.monotonic_ns()
            ray.kill(handle, no_restart=False)
        except Exception as error:  # noqa: BLE001 - whatever Ray makes of it, this process goes on placing orders
            self._tell(ray_killed=actor, at_ns=0, error=str(error))
        else:
            self._tell(ray_killed=actor, at_ns=at_ns)

    def _resolved(self, mark: Mark, took_ms: float) -> None:
        self._tell(resolved=mark.number, took_ms=round(took_ms, 3))

    def _progress(self, tally: Tally, in_flight: int) -> None:
        told = {kind.name: number for kind, number in self._feed.told.items()}
        self._tell(next=self._feed.next, probe=self._probes.taken, told=told, in_flight=in_flight, repeats=tally.repeats,
                   aborted_by_code=dict(self._feed.aborted_by_code), **self._witness.counts)

    def _tell(self, **message: Any) -> None:
        with self._telling:
            os.write(self._out, json.dumps(message).encode() + b"\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Place orders; returns the exit code."""
    out = os.dup(1)
    os.dup2(2, 1)  # what Ray prints is no message
    options = _parse(arguments)
    try:
        with Client(attach(options.data)) as client:
            Placer(client, options, out).run(books=options.books)
    except RaytxError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadgen.nemesis.placer", description="The load of a chaos run.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--run", required=True, help="token in ids and keys")
    parser.add_argument("--seed", type=int, required=True, help="of the orders")
    parser.add_argument("--orders", type=int, required=True, help="at most")
    parser.add_argument("--lines", help="of an order, MIN-MAX")
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--life", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="order to begin with")
    parser.add_argument("--probe", type=int, default=0, help="probes of earlier lives")
    parser.add_argument("--books", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
