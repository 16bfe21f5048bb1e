"""A coarse index of what transactions have in common: in which stretches of time there are some of a saga, an outcome, a code.

An index with an entry per transaction would cost every append; this one has one row per facet and stretch, however many
transactions there are, and a common facet costs a look into a set. Whoever searches goes through the stretches that have all
facets asked for, and reads the transactions of each. A row promises nothing: the transactions say what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.migration import statements

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

STRETCH_DIGITS = 10  # of an id: its time in 256 ms
AFTER_HEX = "g"  # sorts behind every id that begins with what stands before it
_KNOWN_MAX = 4_096
COMMITTED, ABORTED = "committed", "aborted"

FACETS = statements(
    "CREATE TABLE facets (facet TEXT NOT NULL, stretch TEXT NOT NULL, PRIMARY KEY (facet, stretch)) WITHOUT ROWID",
    *(f"INSERT OR IGNORE INTO facets SELECT {facet}, substr(txn, 1, 10) FROM transactions WHERE {where}"  # noqa: S608 - constant
      for facet, where in (
          ("'saga ' || saga", "true"), ("'committed'", "decided_sequence > 0 AND code = ''"), ("'aborted'", "code != ''"),
          ("'code ' || code", "code != ''"), ("'service ' || service", "service != ''"))),
    "DROP INDEX transactions_code",
)


def saga_facet(saga: str) -> str:
    """Of all transactions of a saga."""
    return f"saga {saga}"


def code_facet(code: str) -> str:
    """Of those that aborted for a reason."""
    return f"code {code}"


def service_facet(service: str) -> str:
    """Of those that aborted at a service."""
    return f"service {service}"


class Facets:
    """Notes facets for the log's writer; what it knows must be dropped when a commit has failed."""

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}  # the stretch that each facet was noted in last: nearly always the same again
        self._known: set[str] = set()
        self._fresh: list[tuple[str, str]] = []

    def note(self, facet: str, transaction: str) -> None:
        """A transaction has a facet."""
        stretch = transaction[:STRETCH_DIGITS]
        if self._latest.get(facet) == stretch:
            return
        self._latest[facet] = stretch
        if stretch + facet not in self._known:
            self._known.add(stretch + facet)
            self._fresh.append((facet, stretch))

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what is new, inside the caller's transaction."""
        if self._fresh:
            connection.executemany("INSERT OR IGNORE INTO facets VALUES (?, ?)", self._fresh)
            self._fresh.clear()
            if len(self._known) > _KNOWN_MAX:
                self._known.clear()

    def forget(self, connection: sqlite3.Connection, forgotten: Sequence[str]) -> None:
        """Drop the stretches of forgotten transactions in which none is left."""
        emptied = [stretch for stretch in {txn[:STRETCH_DIGITS] for txn in forgotten} if connection.execute(
            "SELECT 1 FROM transactions WHERE txn >= ? AND txn < ? LIMIT 1", (stretch, stretch + AFTER_HEX)).fetchone() is None]
        if emptied:
            connection.executemany(
                "DELETE FROM facets WHERE facet = ? AND stretch = ?",
                [(facet, stretch) for facet in _names(connection) for stretch in emptied])
            self._known.clear()
            self._latest.clear()


def stretches(connection: sqlite3.Connection, facets: Sequence[str], newest: str, oldest: str) -> Iterator[str]:
    """Those that have all the facets, the newest first; as many look-ups as the rarest facet has stretches.

    Args:
        connection: of the log.
        facets: at least one.
        newest: an id, or the beginning of one: no stretch after its own.
        oldest: likewise, none before.
    """
    at = newest[:STRETCH_DIGITS].ljust(STRETCH_DIGITS, "f")
    while True:
        found = at
        for facet in facets:
            row = connection.execute(
                "SELECT max(stretch) FROM facets WHERE facet = ? AND stretch <= ?", (facet, found)).fetchone()
            if row[0] is None or row[0] < oldest[:STRETCH_DIGITS]:
                return
            found = row[0]
        if found == at or len(facets) == 1:
            yield found
            if not int(found, 16):
                return
            found = f"{int(found, 16) - 1:0{STRETCH_DIGITS}x}"
        at = found


def _names(connection: sqlite3.Connection) -> Iterator[str]:
    """All facets, one look-up each."""
    name = ""
    while (row := connection.execute("SELECT facet FROM facets WHERE facet > ? LIMIT 1", (name,)).fetchone()) is not None:
        name = row[0]
        yield name
