"""Finding transactions in the log: what may be asked, and which rows answer it, page by page, never by counting them off."""

from __future__ import annotations

from heapq import merge
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.facets import (
    ABORTED,
    AFTER_HEX,
    COMMITTED,
    STRETCH_DIGITS,
    code_facet,
    saga_facet,
    service_facet,
    stretches,
)
from orchestrator.log.rows import bound_to, load_parked
from orchestrator.protocol.identifiers import oldest_id
from orchestrator.protocol.records import Parked, State

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

LIMIT_MAX = 10_000
LEFT_MAX = 1_000  # of what is left open by a drain, so many are named
STATES = {state.name.lower(): state for state in State}
NAMES = [state.name.lower() for state in sorted(State)]
_FEW = {"open", *(state.name.lower() for state in (State.PREPARING, State.COMMITTING, State.ABORTING))}
COLUMNS = (
    "txn, key, saga, version, state, business_key, began_ms, deadline_ms, decided_ms, ended_ms, code, message, service, "
    "step, attempts, parked")
_BUSINESS_KEY = "business_key = ? AND business_key != ''"  # a partial index is used only where its term is repeated
_TERMS = {"saga": "saga = ?", "code": "code = ?", "service": "service = ?", "business_key": _BUSINESS_KEY}
_FACETS = {"saga": saga_facet, "code": code_facet, "service": service_facet}

Terms = list[tuple[str, list[Any]]]
Row = tuple[Any, ...]


class TransactionQuery(msgspec.Struct, frozen=True):
    """Which transactions to find; a field that is None (or empty) does not restrict.

    Args:
        state: preparing, committing, committed, aborting, aborted, or open (not ended).
        saga: name.
        code: why it aborted, or why one of its steps is parked.
        service: where it aborted, or where one of its steps is parked.
        parked: whether a step needs an operator.
        business_key: as the saga derives it from the input.
        key: business key or idempotency key.
        since_ms: begun at or after, Unix ms.
        until_ms: begun at or before, Unix ms.
        limit: at most so many, 1 to 10,000.
        after: only those older than this transaction: the last one of the page before.
    """

    state: str | None = None
    saga: str | None = None
    code: str | None = None
    parked: bool | None = None
    business_key: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    limit: int = 50
    after: str | None = None
    service: str | None = None
    key: str | None = None


class TransactionSummary(msgspec.Struct, frozen=True):
    """One line of a list of transactions; times in Unix ms, 0 = not yet.

    Attributes:
        code: why it aborted; with message, service, step and attempts.
        parked: whether a step needs an operator.
        parked_steps: which steps, and why; only where transactions are listed.
    """

    transaction: str
    key: str
    saga: str
    version: int
    state: str
    business_key: str
    began_ms: int
    deadline_ms: int
    decided_ms: int
    ended_ms: int
    code: str
    message: str
    service: str
    step: str
    attempts: int
    parked: bool
    parked_steps: list[Parked] = []


def summary_of(row: Row, parked: list[Parked] | None = None) -> TransactionSummary:
    """The line of one row of `COLUMNS`."""
    return TransactionSummary(*(*row[:4], NAMES[row[4]], *row[5:-1], row[-1] > 0, parked or []))


def how_many(found: Sequence[TransactionSummary], limit: int) -> str:
    """How many there are, as far as it was looked."""
    return f"{len(found)} or more" if len(found) >= limit else str(len(found))


def find(connection: sqlite3.Connection, query: TransactionQuery) -> list[TransactionSummary]:
    """The newest transactions that fit.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming the field.
    """
    if not 1 <= query.limit <= LIMIT_MAX:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"limit must be 1 to {LIMIT_MAX}; got {query.limit}")
    facets = _facets_of(query)
    sources = [
        _rows_by_facet(connection, query, terms, facets) if facets
        else _rows(connection, terms + _between(*_bounds(query)), query.limit)
        for terms in _alternatives(connection, query)]
    if query.parked is not False and (query.code or query.service):
        sources.append(_parked_rows(connection, query, []))
    newest = merge(*sources, key=_id, reverse=True)
    rows = islice((next(same) for _, same in groupby(newest, _id)), query.limit)
    return [summary_of(row, _parked_of(connection, row)) for row in rows]


def lookup(connection: sqlite3.Connection, transaction: str, query: TransactionQuery) -> TransactionSummary | None:
    """One transaction, where it fits the query.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming the field.
    """
    only: Terms = [("txn = ?", [transaction])]
    for terms in _alternatives(connection, query):
        for row in _rows(connection, terms + _between(*_bounds(query)) + only, 1):
            return summary_of(row, _parked_of(connection, row))
    if query.parked is not False and (query.code or query.service):
        for row in _parked_rows(connection, query, only):
            return summary_of(row, _parked_of(connection, row))
    return None


def _id(row: Row) -> str:
    return str(row[0])


def _rows(connection: sqlite3.Connection, terms: Terms, limit: int) -> Iterator[Row]:
    where = f"WHERE {' AND '.join(term for term, _ in terms)} " if terms else ""
    values = [value for _, values in terms for value in values]
    yield from connection.execute(
        f"SELECT {COLUMNS} FROM transactions {where}ORDER BY txn DESC LIMIT ?", [*values, limit])  # noqa: S608 - constant terms


def _rows_by_facet(connection: sqlite3.Connection, query: TransactionQuery, terms: Terms, facets: list[str]) -> Iterator[Row]:
    """Stretch by stretch, from the newest one."""
    oldest, below = _bounds(query)
    for stretch in stretches(connection, facets, min(below, "f" * STRETCH_DIGITS), oldest):
        within = _between(max(oldest, stretch), min(below, stretch + AFTER_HEX))
        yield from _rows(connection, terms + within, query.limit)


def _bounds(query: TransactionQuery) -> tuple[str, str]:
    """The oldest id that fits, and what is above all that fit."""
    until = AFTER_HEX if query.until_ms is None else oldest_id(query.until_ms + 1)
    return oldest_id(query.since_ms or 0), min(query.after or AFTER_HEX, until)


def _between(oldest: str, below: str) -> Terms:
    """One bound for each side: of two, SQLite searches from the one it likes, and reads all that lies before the other."""
    terms: Terms = [("txn >= ?", [oldest])] if oldest > oldest_id(0) else []
    return [*terms, ("txn < ?", [below])] if below < AFTER_HEX else terms


def _facets_of(query: TransactionQuery) -> list[str]:
    """What the coarse index knows of what is asked; nothing where an index of its own leads to few transactions."""
    if query.key or query.business_key or query.parked or query.state in _FEW:
        return []
    facets = [facet(getattr(query, name)) for name, facet in _FACETS.items() if getattr(query, name)]
    return facets + [state for state in (COMMITTED, ABORTED) if state == query.state]


def _alternatives(connection: sqlite3.Connection, query: TransactionQuery) -> list[Terms]:
    """One selection for each index that leads to some of the rows."""
    terms = _terms(query)
    if not query.key:
        return [terms]
    bound = bound_to(connection, [query.key]).get(query.key, "")
    return [[*terms, (_BUSINESS_KEY, [query.key])], [*terms, ("txn = ?", [bound])]]


def _parked_rows(connection: sqlite3.Connection, query: TransactionQuery, only: Terms) -> Iterator[Row]:
    """Those of which a parked step has the code and service; few are parked, and their records say so."""
    plain = msgspec.structs.replace(query, code=None, service=None, parked=True)
    for terms in _alternatives(connection, plain):
        for row in _rows(connection, terms + _between(*_bounds(plain)) + only, -1):
            if any(query.code in (None, "", one.code) and query.service in (None, "", one.service)
                   for one in _parked_of(connection, row)):
                yield row


def _parked_of(connection: sqlite3.Connection, row: Row) -> list[Parked]:
    return list(load_parked(connection, row[0]).values()) if row[-1] > 0 else []


def _terms(query: TransactionQuery) -> Terms:
    terms: Terms = [(term, [getattr(query, name)]) for name, term in _TERMS.items() if getattr(query, name)]
    if query.parked is not None:
        terms.append(("parked > 0" if query.parked else "parked = 0", []))
    if query.state:
        terms += [(term, []) for term in _state_terms(query.state)]
    return terms


def _state_terms(state: str) -> list[str]:
    if state == "open":
        return ["ended_sequence = 0"]
    if state not in STATES:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"state must be one of {', '.join(STATES)}, open; got {state!r}")
    terms = [f"state = {STATES[state].value}"]
    if state in _FEW:
        terms.append("ended_sequence = 0")  # few are open: their index finds them
    return terms
