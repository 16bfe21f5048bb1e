"""What operators did, as it lies in the log's database: numbered without gaps, checksummed, kept for more than a year."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.log.schema import decode_record, encode_record, is_whole
from orchestrator.protocol.records import Act, Pause, Pauses

if TYPE_CHECKING:
    import sqlite3

KEPT_MS = 400 * 24 * 3_600_000
INSERT_ACT = "INSERT INTO acts VALUES (?, ?, ?, ?, ?)"
_VERSION = "pauses_version"  # in meta

_PAUSE = msgspec.msgpack.Decoder(Pause)


class StoredAct(msgspec.Struct, frozen=True):
    """An act as it lies in the log; `stored_ms` is when the log stored it, Unix ms."""

    number: int
    stored_ms: int
    act: Act


def act_row(connection: sqlite3.Connection, act: Act, now_ms: int) -> tuple[Any, ...]:
    """The row of the next act."""
    (last,) = connection.execute("SELECT COALESCE(MAX(number), 0) FROM acts").fetchone()
    number, crc, data = encode_record(last + 1, now_ms, act)
    return number, act.transaction, now_ms, crc, data


def is_stored(connection: sqlite3.Connection, act: Act) -> bool:
    """Whether this very act is there already."""
    return any(stored.act == act for stored in load_acts(connection, act.transaction, -1))


def load_acts(connection: sqlite3.Connection, transaction: str | None, limit: int) -> list[StoredAct]:
    """The newest acts first.

    Args:
        connection: of the log.
        transaction: only those on this one; "" = pauses and resumptions; None = all.
        limit: at most so many, -1 = all.
    """
    where, values = ("", []) if transaction is None else ("WHERE txn = ? ", [transaction])
    rows = connection.execute(
        f"SELECT number, data FROM acts {where}ORDER BY number DESC LIMIT ?", [*values, limit])  # noqa: S608 - constant terms
    return [_stored(*row) for row in rows]


def act_problems(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with the acts: a gap, a checksum that does not fit, an index that says something else."""
    found, expected = [], None
    for number, txn, crc, data in connection.execute("SELECT number, txn, crc, data FROM acts ORDER BY number"):
        if expected is not None and number != expected:
            found.append(f"acts {expected} to {number - 1} are missing")
        expected = number + 1
        if not is_whole(number, crc, data):
            found.append(f"act {number} is damaged: its checksum does not fit")
        elif _stored(number, data).act.transaction != txn:
            found.append(f"act {number} is of another transaction than the index says")
    return found


def load_pauses(connection: sqlite3.Connection) -> Pauses:
    """All that is paused."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (_VERSION,)).fetchone()
    paused = [_PAUSE.decode(data) for (data,) in connection.execute("SELECT data FROM pauses ORDER BY saga, service")]
    return Pauses(row[0] if row else 0, paused)


def change_pause(connection: sqlite3.Connection, act: Act, *, paused: bool, now_ms: int) -> bool:
    """Pause or resume a saga or a service inside the caller's transaction; returns whether that changed anything."""
    found = connection.execute(
        "SELECT 1 FROM pauses WHERE saga = ? AND service = ?", (act.saga, act.service)).fetchone() is not None
    if found is paused:
        return False
    if paused:
        data = msgspec.msgpack.encode(Pause(act.saga, act.service, act.who, act.reason, act.at_ms))
        connection.execute("INSERT INTO pauses VALUES (?, ?, ?)", (act.saga, act.service, data))
    else:
        connection.execute("DELETE FROM pauses WHERE saga = ? AND service = ?", (act.saga, act.service))
    connection.execute(INSERT_ACT, act_row(connection, act, now_ms))
    version = load_pauses(connection).version + 1
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_VERSION, version))
    return True


def forget_acts(connection: sqlite3.Connection, before_ms: int, limit: int) -> None:
    """Forget up to `limit` acts that are older than that; the newest one stays, so that numbers go on."""
    connection.execute(
        "DELETE FROM acts WHERE number IN (SELECT number FROM acts WHERE at_ms < ? "
        "AND number < (SELECT MAX(number) FROM acts) ORDER BY number LIMIT ?)", (before_ms, limit))


def _stored(number: int, data: bytes) -> StoredAct:
    envelope = decode_record(data)
    assert isinstance(envelope.record, Act)
    return StoredAct(number, envelope.at_ms, envelope.record)
