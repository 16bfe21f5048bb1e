"""A script of commits over a real store on a simulated disk, and lives that are cut short while they work through it.

A store that dies in step k must be found as it was after step k - 1 or after step k, whole, and whatever it was found as
must survive everything that comes later. What it was after each step is known from a run on a disk that never fails.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple

from actors.store import Retention
from orchestrator.errors import DefiniteError
from orchestrator.log.reader import LogReader
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import AppendRequest, Ended, EpochRecord, Parked, Record, TakeRequest
from orchestrator.testing.disk.storage import Crashed
from unit.disk_bench import BALLAST, LOG, TEMPLATE, VAULT, ended, held, open_log, open_store, put, read_store
from unit.log_bench import ABORT, COMMIT, NOW, begun, decided

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from actors.store import Store
    from orchestrator.log.store import LogStore
    from orchestrator.testing.disk.storage import SimulatedDisk

HOUR_MS = 3_600_000
LIVES_MAX = 60
FOLD_PAGES = 25
_OWN_META = ("epoch", "opens", "run", "sequence")  # of each opening, not of the script
_TABLES = "SELECT name FROM sqlite_master WHERE lower(type) = 'table' ORDER BY name"

State = dict[str, list[tuple[Any, ...]]]


class LostError(AssertionError):
    """Something acknowledged is gone, altered, or was told twice."""


class Story(NamedTuple):
    """A script over one store.

    Attributes:
        path: of the database.
        open: opens the store on a disk.
        steps: one commit each (some none).
        check: what else is wrong with the store on a disk.
    """

    path: Path
    open: Callable[[SimulatedDisk], Any]
    steps: list[Callable[[Any], object]]
    check: Callable[[SimulatedDisk], list[str]]


def log_story(seed: int, steps: int, ballast: int = BALLAST) -> Story:
    """Transactions that begin, are decided, park and end; takes, registrations, purges."""
    draw = random.Random(f"log story {seed}")
    counter, sequence = itertools.count(1), itertools.count(1)
    undecided: list[str] = []
    unended: list[str] = []
    script: list[Callable[[LogStore], object]] = [
        lambda store: store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW)]

    def batch(now_ms: int) -> list[Record]:
        records: list[Record] = []
        for _ in range(draw.randrange(1, 4)):
            txn = make_id(now_ms, 7, 1, next(counter))
            records.append(begun(txn, f"key {txn}"))
            undecided.append(txn)
        for txn in [txn for txn in undecided if draw.random() < 0.5]:
            undecided.remove(txn)
            unended.append(txn)
            records.append(decided(txn, draw.choice((COMMIT, ABORT)), "E_X"))
        for txn in [txn for txn in unended if draw.random() < 0.5]:
            unended.remove(txn)
            records.extend([Ended(txn, now_ms)] if draw.random() < 0.8 else [
                Parked(txn, "pay", "E_X", "no", now_ms), Parked(txn, "pay", "", "", now_ms), Ended(txn, now_ms)])
        return records

    for number in range(1, steps):
        now_ms = NOW + number * HOUR_MS
        if draw.random() < 0.15:
            script.append(lambda store, now_ms=now_ms: store.purge(now_ms, 5))  # type: ignore[misc]
        elif draw.random() < 0.1:
            script.append(lambda store, number=number: store.register_store("vault", "u", number))  # type: ignore[misc]
        else:
            request = AppendRequest(1, 0, "first", next(sequence), [EpochRecord(1, record) for record in batch(now_ms)])
            script.append(lambda store, request=request, now_ms=now_ms: store.append([request], now_ms))  # type: ignore[misc]
    return Story(LOG, lambda disk: often_folded(open_log(disk, 2 * HOUR_MS, ballast)), script, _verify_log)


def store_story(seed: int, steps: int, ballast: int = BALLAST) -> Story:
    """Holds that are prepared, committed and rolled back with values beside them; epochs rise, old rows are purged."""
    draw = random.Random(f"store story {seed}")
    counter = itertools.count(1)
    open_holds: list[int] = []

    def batch(number: int) -> Callable[[Store], object]:
        new = [next(counter) for _ in range(draw.randrange(1, 4))]
        finished = [held_before for held_before in open_holds if draw.random() < 0.4]
        for held_before in finished:
            open_holds.remove(held_before)
        open_holds.extend(new)
        rows = [*(held(one) for one in new), *(ended(one) for one in finished)]
        values: dict[str, bytes | None] = {
            f"stock {draw.randrange(6)}": draw.choice((None, bytes([number % 256]) * draw.randrange(1, 3_000)))}
        return lambda store: put(store, rows, values)

    script: list[Callable[[Store], object]] = []
    for number in range(steps):
        if draw.random() < 0.15:
            watermark_ms = NOW + number
            script.append(lambda store, watermark_ms=watermark_ms: _purge(store, watermark_ms))  # type: ignore[misc]
        else:
            script.append(batch(number))
    return Story(VAULT, lambda disk: often_folded(open_store(disk, ballast)), script, _verify_store)


def states_of(story: Story) -> list[State]:
    """What the store holds before the first step and after each, where nothing ever fails."""
    disk = TEMPLATE.fork("calm")
    store = story.open(disk)
    states = [state_of(store)]
    for step in story.steps:
        step(store)
        states.append(state_of(store))
    assert sum(before != after for before, after in itertools.pairwise(states)) > len(states) / 2
    return states


def often_folded(store: Any) -> Any:
    """Have the write-ahead log folded into the database every few commits, so that crashes strike there, too."""
    _database(store).connection.execute(f"PRAGMA wal_autocheckpoint = {FOLD_PAGES}")
    return store


def _database(store: Any) -> Any:
    return getattr(store, "database", None) or store._database


def state_of(store: Any) -> State:
    """All rows of all tables, by the name that SQLite knows a table by: it does not tell capitals from small letters."""
    database = _database(store)
    found: State = {}
    for (table,) in database.connection.execute(_TABLES).fetchall():
        rows = sorted(database.connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
        name = table.lower()
        found[name] = [row for row in rows if name != "meta" or row[0] not in _OWN_META]
    return found


class Lives:
    """Processes that work through a story, one after another, on a disk that may fail.

    Args:
        story: what to do.
        states: see `states_of`.
        disk: where; its faults and its `on_point` are the caller's.
    """

    def __init__(self, story: Story, states: list[State], disk: SimulatedDisk) -> None:
        self.story, self.states, self.disk = story, states, disk
        self.done = 0  # steps that are known to be durable
        self.lives = 0
        self.after_step: Callable[[], object] = lambda: None

    def run(self) -> None:
        """Work until all is done, through any number of deaths; then lose power once more, and look.

        Raises:
            LostError: something acknowledged was not found.
        """
        while self.done < len(self.story.steps):
            self._live()
        self.disk.on_point = None
        self.disk.heal()
        self.disk.power_loss()
        self._live()
        problems = self.story.check(self.disk)
        if problems:
            raise LostError(f"{self.disk!r}: {problems[0]}")

    def _live(self) -> None:
        self.lives += 1
        if self.lives > LIVES_MAX:
            raise LostError(f"{self.disk!r}: nothing gets done any more after step {self.done}")
        store = None
        under_way = self.done
        try:
            store = self.story.open(self.disk)
            self.done = self._found(state_of(store), self.done)
            for step in self.story.steps[self.done :]:
                under_way = self.done + 1
                step(store)
                self.done += 1
                self.after_step()
            store.close()
        except Crashed:
            self._may_be(under_way)
        except DefiniteError as error:
            raise LostError(f"{self.disk!r}: refused after step {self.done}: {error}") from error
        except (sqlite3.Error, OSError):
            self.disk.process_kill(self.story.path)
            self.disk.capacity = None  # somebody makes room
            self._may_be(under_way)

    def _may_be(self, under_way: int) -> None:
        self._reach = max(self._reach, under_way)

    _reach = 0

    def _found(self, state: State, done: int) -> int:
        """How many steps the store has made, by what it holds."""
        for steps in range(max(self._reach, done), done - 1, -1):
            if state == self.states[steps]:
                return steps
        raise LostError(f"{self.disk!r}: after {done} acknowledged steps the store is found as {self._nearest(state)}")

    def _nearest(self, state: State) -> str:
        earlier = [steps for steps, known in enumerate(self.states) if known == state]
        if earlier:
            return f"after step {earlier[-1]}"
        tables = [table for table, rows in state.items() if rows != self.states[self.done].get(table)]
        return f"no state it ever had; other than expected: {', '.join(tables)}"


def _purge(store: Store, watermark_ms: int) -> None:
    store.begin()
    store.retain(Retention(watermark_ms))
    store.commit({}, {})


def _verify_log(disk: SimulatedDisk) -> list[str]:
    reader = LogReader(LOG, disk.files)
    try:
        return reader.verify()
    finally:
        reader.close()


def _verify_store(disk: SimulatedDisk) -> list[str]:
    reader = read_store(disk)
    try:
        return reader.audit().violations
    finally:
        reader.close()


