"""Anomalies in a history of reads and writes, found as cycles of dependencies.

After Adya's definitions and Elle: every key has an order of versions; a transaction that wrote the next version depends
on the one that wrote the last (ww), one that read a version on who wrote it (wr), and who overwrote a version on those
that had read it (rw). A cycle says that no serial order explains what was seen.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

CYCLES_MAX: Final = 10  # of one history; every further one is as good a proof


class Anomaly(StrEnum):
    """What was found, the worst first."""

    G0 = "G0, dirty write"
    G1A = "G1a, aborted read"
    G1B = "G1b, intermediate read"
    G1C = "G1c, circular information flow"
    LOST_UPDATE = "P4, lost update"
    G_SINGLE = "G-single, read skew"
    G2 = "G2-item, write skew"


class Access(NamedTuple):
    """One version of one key; version 0 is what was there before the first write."""

    key: str
    version: int


class Edge(NamedTuple):
    """A dependency's kind and the key that it is about."""

    kind: int
    key: str


class Transaction(msgspec.Struct):
    """What one transaction read and wrote.

    Attributes:
        after: names of transactions that are known to have come before it, in its session or by its commit number.
        aborted: nobody may have read what it wrote.
    """

    name: str
    reads: list[Access] = []
    writes: list[Access] = []
    after: list[str] = []
    aborted: bool = False


class Found(NamedTuple):
    """One anomaly: the transactions of the cycle in order, or those that a single read concerns."""

    anomaly: Anomaly
    names: tuple[str, ...]
    text: str


_WW, _WR, _RW = 0, 1, 2  # an edge of a lower kind is the stronger evidence
_KIND_NAMES = ("ww", "wr", "rw")
Edges = dict[str, dict[str, Edge]]


def find_anomalies(transactions: Iterable[Transaction]) -> list[Found]:
    """All wrong reads, and cycles up to ten, in a history.

    Args:
        transactions: all of it, in any order; aborted ones write no versions that others build on.
    """
    by_name = {one.name: one for one in transactions}
    writers = _writers(by_name.values())
    found = list(_wrong_reads(by_name.values(), writers))
    edges = _edges(by_name, writers)
    for _ in range(CYCLES_MAX):
        cycle = _worst_cycle(edges)
        if cycle is None:
            break
        found.append(_classified(cycle, edges, by_name))
        edges[cycle[0]].pop(cycle[1])  # the next search finds another one
    return found


def _writers(transactions: Iterable[Transaction]) -> dict[str, dict[int, Transaction]]:
    writers: defaultdict[str, dict[int, Transaction]] = defaultdict(dict)
    for one in transactions:
        for key, version in one.writes:
            writers[key][version] = one
    return writers


def _wrong_reads(
    transactions: Iterable[Transaction], writers: Mapping[str, Mapping[int, Transaction]],
) -> Iterable[Found]:
    for reader in transactions:
        for key, version in reader.reads:
            writer = writers.get(key, {}).get(version)
            if writer is None or writer is reader:
                continue
            text = f"{reader.name} read version {version} of {key}"
            if writer.aborted:
                yield Found(Anomaly.G1A, (reader.name, writer.name), f"{text}, which {writer.name} wrote and took back")
            elif version < max(own for name, own in writer.writes if name == key):
                yield Found(
                    Anomaly.G1B, (reader.name, writer.name), f"{text}, which {writer.name} wrote and overwrote itself")


def _edges(by_name: Mapping[str, Transaction], writers: Mapping[str, Mapping[int, Transaction]]) -> Edges:
    graph = _Graph(by_name)
    readers: defaultdict[Access, list[Transaction]] = defaultdict(list)
    for one in by_name.values():
        for name in one.after:
            graph.depend(by_name[name], one, _WW, "order")
        for access in one.reads:
            readers[access].append(one)
    for key, versions in writers.items():
        ordered = sorted(version for version, writer in versions.items() if not writer.aborted)
        for last, version in pairwise([0, *ordered]):
            if last in versions:
                graph.depend(versions[last], versions[version], _WW, key)
            for reader in readers[Access(key, last)]:
                graph.depend(reader, versions[version], _RW, key)
            for reader in readers[Access(key, version)]:
                graph.depend(versions[version], reader, _WR, key)
    return graph.edges


class _Graph:
    def __init__(self, names: Iterable[str]) -> None:
        self.edges: Edges = {name: {} for name in names}

    def depend(self, first: Transaction, then: Transaction, kind: int, key: str) -> None:
        known = self.edges[first.name].get(then.name)
        if first is not then and (known is None or kind < known.kind):
            self.edges[first.name][then.name] = Edge(kind, key)


def _worst_cycle(edges: Edges) -> list[str] | None:
    """A cycle of the strongest dependencies that have one, first name = last."""
    for kind in (_WW, _WR, _RW):
        cycle = _cycle(edges, kind)
        if cycle is not None:
            return cycle if kind < _RW else _fewest_rw(cycle, edges)
    return None


def _cycle(edges: Edges, kind_max: int) -> list[str] | None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, then in edges.items():
        for other, edge in then.items():
            if edge.kind <= kind_max:
                sorter.add(other, name)
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def _fewest_rw(cycle: list[str], edges: Edges) -> list[str]:
    """A cycle with one rw where one of those in the cycle closes such a one, else the cycle."""
    for first, then in pairwise(cycle):
        if edges[first][then].kind == _RW:
            path = _path(edges, then, first)
            if path is not None:
                return [first, *path]
    return cycle


def _path(edges: Edges, start: str, end: str) -> list[str] | None:
    """The shortest way without rw."""
    came: dict[str, str] = {start: ""}
    waiting = deque([start])
    while waiting:
        name = waiting.popleft()
        if name == end:
            path = [name]
            while came[path[-1]]:
                path.append(came[path[-1]])
            return path[::-1]
        for then, edge in edges[name].items():
            if edge.kind < _RW and then not in came:
                came[then] = name
                waiting.append(then)
    return None


def _classified(cycle: list[str], edges: Edges, by_name: Mapping[str, Transaction]) -> Found:
    steps = [(first, edges[first][then], then) for first, then in pairwise(cycle)]
    kinds = [edge.kind for _, edge, _ in steps]
    if _RW in kinds:
        anomaly = Anomaly.G_SINGLE if kinds.count(_RW) == 1 else Anomaly.G2
        if _lost_update([by_name[name] for name in cycle[:-1]]):
            anomaly = Anomaly.LOST_UPDATE
    else:
        anomaly = Anomaly.G1C if _WR in kinds else Anomaly.G0
    text = cycle[0] + "".join(f" -{_KIND_NAMES[edge.kind]} {edge.key}-> {then}" for _, edge, then in steps)
    return Found(anomaly, tuple(cycle[:-1]), text)


def _lost_update(members: list[Transaction]) -> bool:
    """Two that read the same version of a key and both wrote it."""
    if len(members) != 2:  # noqa: PLR2004 - it takes two
        return False
    one, other = ({access for access in each.reads if access.key in {key for key, _ in each.writes}} for each in members)
    return bool(one & other)
