"""The store of a service over a journal of batches: contents and rules as in `actors.store`, without SQLite or a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from actors.ledger import RowState
from actors.store import Retention
from orchestrator.local import SupersededError
from orchestrator.protocol.identifiers import oldest_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from actors.ledger import Key, Row
    from orchestrator.local import Journal


class Entry(NamedTuple):
    """What one batch changed."""

    rows: Mapping[Key, Row]
    values: Mapping[str, bytes | None]  # None = deleted
    epochs: Mapping[int, int]
    retention: Retention
    purged: tuple[Key, ...]


class Contents:
    """What the entries of a journal amount to.

    Attributes:
        rows, values, epochs, retention: after the last entry applied.
        was_purged: whether rows are gone.
    """

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.values: dict[str, bytes] = {}
        self.epochs_seen: dict[int, int] = {}
        self.retention = Retention()
        self.was_purged = False

    def copy_of(self, other: Contents) -> None:
        """Take over what another one has come to."""
        self.rows, self.values, self.epochs_seen = dict(other.rows), dict(other.values), dict(other.epochs_seen)
        self.retention, self.was_purged = other.retention, other.was_purged

    def apply(self, entry: Entry) -> None:
        """One entry more."""
        for key in entry.purged:
            self.rows.pop(key, None)
            self.was_purged = True
        self.rows.update(entry.rows)
        for name, value in entry.values.items():
            if value is None:
                self.values.pop(name, None)
            else:
                self.values[name] = value
        self.epochs_seen.update(entry.epochs)
        self.retention = entry.retention


class MemoryStore(Contents):
    """A service's rows, state and epochs, rebuilt from the journal when it is opened.

    Args:
        journal: what is durable.
        read_only: look at it beside its owner; otherwise it is taken over, and an earlier owner cannot write any more.
    """

    def __init__(self, journal: Journal, *, read_only: bool = False) -> None:
        Contents.__init__(self)
        self._journal = journal
        self.copy_of(_begun(journal.beginning))
        for entry in journal.entries[len(journal.beginning):]:
            self.apply(entry)
        self._staged = self._nothing()
        self._purged: tuple[Key, ...] = ()
        if not read_only:
            journal.owner += 1
            journal.commit(self._staged)  # nothing is answered from what was never synced
        self._owner = journal.owner

    def epochs(self) -> dict[int, int]:
        """Highest epoch seen per partition."""
        return dict(self.epochs_seen)

    def prepared_keys(self) -> list[Key]:
        """What is held, oldest first."""
        return sorted(key for key, row in self.rows.items() if row.state is RowState.PREPARED)

    def still_prepared(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the keys whose rows are PREPARED."""
        return [key for key, row in self.load(keys).items() if row.state is RowState.PREPARED]

    def begin(self) -> None:
        """Start a batch's local transaction.

        Raises:
            SupersededError: another life has opened the journal since.
        """
        if self._journal.owner != self._owner:
            raise SupersededError("a successor owns the journal")
        self._purged = ()

    def rollback(self) -> None:
        """Undo the transaction."""
        self._staged, self._purged = self._nothing(), ()

    def load(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """The rows that exist among these."""
        rows = self.rows
        return {key: rows[key] for key in keys if key in rows and key not in self._purged}

    def value(self, key: str) -> bytes | None:
        """The encoded value of a key of the state, None where it is absent."""
        return self.values.get(key)

    def keys(self) -> Iterator[str]:
        """All keys of the state."""
        return iter(list(self.values))

    def write(
        self, rows: Mapping[Key, Row], was: Mapping[Key, Row], values: Mapping[str, bytes | None],  # noqa: ARG002 - the port
        epochs: Mapping[int, int],
    ) -> None:
        """Stage what a batch changed."""
        self._staged = Entry(dict(rows), dict(values), dict(epochs), self.retention, self._purged)

    def commit(self, rows: Mapping[Key, Row], values: Mapping[str, bytes | None]) -> None:  # noqa: ARG002 - the port
        """Make the batch durable.

        Raises:
            OSError: the outcome is unknown; this life must end.
        """
        self._journal.commit(self._staged)
        self.apply(self._staged)
        self.rollback()

    def retain(self, retention: Retention) -> bool:
        """Note what is known of the watermark, and purge below it; returns whether anything changed."""
        joined = self.retention.joined(retention.watermark_ms, retention.exempt)
        end = oldest_id(joined.watermark_ms)
        self._purged = tuple([
            key for key, row in self.rows.items()
            if key[0] < end and row.state is not RowState.PREPARED and key[0] not in joined.exempt])
        changed = joined is not self.retention or bool(self._purged)
        self.retention = joined
        return changed

    def _nothing(self) -> Entry:
        return Entry({}, {}, {}, self.retention, ())


def history(entries: Iterable[Any]) -> Iterator[tuple[Key, Row]]:
    """Every row ever written, in the order of writing."""
    for entry in entries:
        yield from entry.rows.items()


_BEGINNINGS_MAX = 64
_beginnings: dict[int, tuple[tuple[Entry, ...], Contents]] = {}  # by identity: thousands of journals begin with the same


def _begun(entries: tuple[Entry, ...]) -> Contents:
    known = _beginnings.get(id(entries))
    if known is not None and known[0] is entries:
        return known[1]
    contents = Contents()
    for entry in entries:
        contents.apply(entry)
    if len(_beginnings) >= _BEGINNINGS_MAX:
        _beginnings.clear()
    _beginnings[id(entries)] = entries, contents
    return contents
