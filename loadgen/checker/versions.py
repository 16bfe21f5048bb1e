"""G: the dependencies between a service's local transitions and the snapshots that a reader took of it.

Every SKU, account and order record that was read is a key; its versions are rebuilt from the ledger's rows in the order
of their milliseconds, and a read is matched with the version that has its values. Transitions of one millisecond have no
order between them, so none is assumed; those of different milliseconds have, since a service commits one batch at a time.

Across services no such order is promised: two orders may well be reserved in one order and paid in the other. That is
what sagas are not: serialisable as a whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from loadgen.checker.cycles import Access, Transaction, find_anomalies
from loadgen.checker.prefixes import units_of
from loadgen.checker.report import CheckReport, Invariant
from loadgen.history import Read
from loadgen.watching import ABSENT, HELD, SETTLED
from orchestrator.app import LedgerRow

_BOOKS: Final = ("on_hand", "held", "sold", "returned", "received")
_HELD, _SOLD, _LET_GO = (0, 1, 0, 0, 0), (-1, -1, 1, 0, 0), (0, -1, 0, 0, 0)
_CAME_BACK, _CAME_IN = (1, 0, 0, 1, 0), (1, 0, 0, 0, 1)
_HOLDS: Final = frozenset({("inventory", "reserve"), ("payment", "authorize"), ("shipping", "create")})
_GIVES: Final = {
    ("inventory", "restock"): _CAME_BACK, ("inventory", "receive"): _CAME_IN,
    ("payment", "refund"): _CAME_BACK, ("payment", "deposit"): _CAME_IN}

Value = tuple[int, ...] | str  # books, or the phase of an order


class _Move(NamedTuple):
    """One transition of one key."""

    ms: int
    last: bool  # of its row: it comes after the first one, also in the same millisecond
    value: Value  # what it adds to books, or the phase that an order is in from then on


class VersionCheck:
    """Gathers the transitions of what was read; a `RowCheck`.

    Args:
        reads: of each service in the order in which they were made, by one reader.
        report: told of every anomaly.
    """

    def __init__(self, reads: Sequence[Read], report: CheckReport) -> None:
        self._reads, self._report = reads, report
        self._wanted: defaultdict[str, set[str]] = defaultdict(set)
        for read in reads:
            self._wanted[read.service].update(_observed(read))
        self._moves: defaultdict[str, defaultdict[str, list[_Move]]] = defaultdict(lambda: defaultdict(list))

    def row(self, service: str, row: LedgerRow) -> None:
        """See `RowCheck.row`."""
        if service not in self._wanted or row.state == "REFUSED" or not isinstance(row.request, dict):
            return
        if (service, row.operation) in _HOLDS:
            order = f"order {row.request['order_id']}"
            self._move(service, row, _HELD, order, HELD, last=False)
            if row.state != "PREPARED":
                settled = row.state == "COMMITTED"
                self._move(service, row, _SOLD if settled else _LET_GO, order, SETTLED if settled else ABSENT, last=True)
        elif row.state == "COMMITTED" and (service, row.operation) in _GIVES:
            self._move(service, row, _GIVES[service, row.operation], "", "", last=True)

    def finish(self, purged: Collection[str]) -> None:
        """Judge the reads of every service but those of which rows were purged."""
        for service in self._wanted:
            if service in purged:
                self._report.left_out.append(f"dependencies at {service}: rows were purged")
                continue
            chains = {name: _Chain(self._moves[service][name]) for name in self._wanted[service]}
            reads = [read for read in self._reads if read.service == service]
            history = [*_writers(service, chains), *self._readers(service, reads, chains)]
            for found in find_anomalies(history):
                self._report.add(Invariant.ACYCLIC, service, f"{found.anomaly}: {found.text}", weight=len(found.names))
            self._report.counts["dependencies_of"] += len(history)

    def _move(self, service: str, row: LedgerRow, effect: tuple[int, ...], order: str, phase: str, *, last: bool) -> None:
        wanted, moves = self._wanted[service], self._moves[service]
        ms = row.finished_ms if last else row.prepared_ms
        if order in wanted:
            moves[order].append(_Move(ms, last, phase))
        if service != "shipping":
            totals: Counter[str] = Counter()
            for name, units in units_of(service, row):
                totals[f"books {name}"] += units
            for name in totals.keys() & wanted:
                moves[name].append(_Move(ms, last, tuple(totals[name] * part for part in effect)))

    def _readers(self, service: str, reads: Iterable[Read], chains: Mapping[str, _Chain]) -> Iterator[Transaction]:
        before = ""
        for number, read in enumerate(reads, 1):
            name = f"read {number} of {service}"
            accesses = []
            for key, value in _observed(read).items():
                versions = chains[key].versions(value)
                if len(versions) == 1:
                    accesses.append(Access(key, versions[0]))
                elif not versions:
                    self._unexplained(service, name, key, value, chains[key])
            yield Transaction(name, reads=accesses, after=[before] if before else [])
            self._report.counts["versions_read"] += len(accesses)
            before = name

    def _unexplained(self, service: str, name: str, key: str, value: Value, chain: _Chain) -> None:
        if chain.between(value):
            self._report.counts["reads_within_a_millisecond"] += 1
        else:
            text = f"{name} saw {_shown(value)}, which was never so by the ledger"
            self._report.add(Invariant.ACYCLIC, f"{service} {key}", text)


class _Chain:
    """The versions of one key by the end of each millisecond; version 0 is before the first."""

    def __init__(self, moves: list[_Move]) -> None:
        self.ms: list[int] = []
        self._values: list[Value] = []
        self._crowded: list[tuple[Value, list[Value]]] = []
        value: Value = ()
        for ms, group in groupby(sorted(moves, key=lambda move: (move.ms, move.last)), key=lambda move: move.ms):
            changes = [move.value for move in group]
            if len(changes) > 1:
                self._crowded.append((value, changes))
            for change in changes:
                value = _after(value, change)
            self.ms.append(ms)
            self._values.append(value)

    def versions(self, value: Value) -> list[int]:
        """The versions that have this value."""
        first = ABSENT if isinstance(value, str) else (0,) * len(value)
        return [version for version, known in enumerate([first, *self._values]) if known == value]

    def between(self, value: Value) -> bool:
        """Whether some of the transitions of one millisecond may have led to this value."""
        return any(_within(value, before, changes) for before, changes in self._crowded)


def _within(value: Value, before: Value, changes: list[Value]) -> bool:
    if isinstance(value, str):
        return value in changes
    start = before or (0,) * len(value)
    return all(
        at + sum(min(part, 0) for part in parts) <= seen <= at + sum(max(part, 0) for part in parts)
        for seen, at, *parts in zip(value, start, *changes, strict=True))


def _after(value: Value, change: Value) -> Value:
    if isinstance(change, str):
        return change
    return tuple(one + more for one, more in zip(value or (0,) * len(change), change, strict=True))  # type: ignore[operator]


def _writers(service: str, chains: Mapping[str, _Chain]) -> Iterator[Transaction]:
    """The transitions, with a barrier between one millisecond and the next that has any."""
    by_ms: defaultdict[int, list[Access]] = defaultdict(list)
    for name, chain in chains.items():
        for version, ms in enumerate(chain.ms, 1):
            by_ms[ms].append(Access(name, version))
    before: list[str] = []
    for ms in sorted(by_ms):
        names = []
        for access in by_ms[ms]:
            names.append(f"{access.key}@{ms}")
            yield Transaction(names[-1], writes=[access], after=before)
        barrier = f"{service}@{ms}"
        yield Transaction(barrier, after=names)
        before = [barrier]


def _observed(read: Read) -> dict[str, Value]:
    books: dict[str, Value] = {f"books {name}": tuple(seen[what] for what in _BOOKS) for name, seen in read.books.items()}
    return books | {f"order {order}": phase for order, phase in read.phases.items()}


def _shown(value: Value) -> str:
    return (value or "it absent") if isinstance(value, str) else str(dict(zip(_BOOKS, value, strict=True)))
