"""Databases and logs where the disk answers what it seldom does, and what full verification lets pass or finds."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from orchestrator.ballast import Ballast
from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, open_reader
from orchestrator.errors import DefiniteError
from orchestrator.files import DataFile, RealFiles
from orchestrator.log.reader import LogReader
from orchestrator.log.rows import load_parked, select_in
from orchestrator.log.schema import Envelope, crc_of, decode_record, encode_record
from orchestrator.log.store import LogStore, create_log
from orchestrator.mark import create_mark, mark_path, read_mark
from orchestrator.ownership import HeldError
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import AppendRequest, Begun, Decided, Decision, Ended, EpochRecord, Parked, TakeRequest

SCHEMA = "CREATE TABLE items (name TEXT PRIMARY KEY);"
NOW = 1_700_000_000_000
FIRST, SECOND = make_id(NOW, 7, 1, 1), make_id(NOW + 5, 7, 1, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "data" / "shop.sqlite"
    create_database(found, SCHEMA, "shop")
    OwnedDatabase(found, "shop", "run").close()
    return found


class Odd(RealFiles):
    """A disk on which some calls go otherwise: an error is raised, anything else is the answer."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.modes: list[str] = []

    def _answer(self, what: str, path: Path) -> Any:
        found = self._answers.get(what)
        found = found(path) if callable(found) else found
        if isinstance(found, Exception):
            raise found
        return found

    def connect(self, path: Path, mode: Literal["rw", "ro"]) -> sqlite3.Connection:
        self.modes.append(mode)
        self._answer(f"connect_{mode}", path)
        return super().connect(path, mode)

    def open(self, path: Path, *, create: bool = False) -> DataFile:
        self._answer("open", path)
        return super().open(path, create=create)

    def lock(self, path: Path) -> Any:
        self._answer("lock", path)
        return super().lock(path)

    def size(self, path: Path) -> int:
        return self._answer("size", path) or super().size(path)

    def identity(self, path: Path) -> int:
        self._answer("identity", path)
        return super().identity(path)


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def refusal(path: Path, files: Odd, **more: Any) -> str:
    with pytest.raises(DefiniteError) as caught:
        OwnedDatabase(path, "shop", "run", files=files, **more)
    assert caught.value.code == "E_STORE_REFUSED"
    OwnedDatabase(path, "shop", "run").close()  # the lock is free, and nothing has changed
    return caught.value.message


def test_a_holder_that_cannot_be_ended_is_named(path: Path) -> None:
    assert "another process owns it: pid 7" in refusal(path, Odd(lock=HeldError("pid 7")))


def test_a_mark_that_cannot_be_opened_is_told_from_a_lost_one(path: Path) -> None:
    def closed(asked: Path) -> Exception | None:
        return os_error(errno.EACCES) if asked == mark_path(path) else None

    told = refusal(path, Odd(open=closed))
    assert (str(mark_path(path)) in told, "nothing is lost" in told) == (True, True)


def test_a_connection_that_cannot_be_made_is_no_damage(path: Path) -> None:
    told = refusal(path, Odd(connect_rw=sqlite3.OperationalError("unable to open database file")))
    assert ("unable to open" in told, "nothing is lost" in told) == (True, True)


def test_sqlites_own_check_is_left_out_for_a_big_file(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-4_096:-4_032] = b"\xff" * 64  # the head of the last page, which belongs to `items`
    path.write_bytes(bytes(content))
    OwnedDatabase(path, "shop", "run", files=Odd(size=1 << 40)).close()
    with pytest.raises(DefiniteError, match="E_STORE_REFUSED"):
        OwnedDatabase(path, "shop", "run")


def test_a_reader_takes_the_second_way_where_the_first_is_barred(path: Path) -> None:
    files = Odd(connect_ro=sqlite3.OperationalError("unable to open database file"))
    open_reader(path, files).close()
    assert files.modes == ["ro", "rw"]
    barred = Odd(connect_ro=sqlite3.OperationalError("first"), connect_rw=sqlite3.OperationalError("second"))
    with pytest.raises(DefiniteError, match=r"E_STORE_REFUSED.*cannot be read: second"):
        open_reader(path, barred)


def test_a_reader_that_may_not_look_says_so(path: Path) -> None:
    with pytest.raises(DefiniteError, match=r"E_STORE_REFUSED.*cannot be opened.*nothing is lost"):
        open_reader(path, Odd(identity=os_error(errno.EACCES)))


def test_a_ballast_fails_where_more_than_room_is_missing(tmp_path: Path) -> None:
    closed: list[int] = []

    class File:
        def __init__(self, number: int) -> None:
            self.number = number

        def allocate(self, size: int) -> None:
            assert size == 10
            raise os_error(self.number)

        def close(self) -> None:
            closed.append(self.number)

    class Disk(RealFiles):
        number = errno.EIO

        def open(self, path: Path, *, create: bool = False) -> Any:
            assert create
            return File(self.number)

    disk = Disk()
    with pytest.raises(OSError, match="Input/output error"):
        Ballast(disk, tmp_path / "shop.sqlite", 10)
    disk.number = errno.EDQUOT
    assert not Ballast(disk, tmp_path / "shop.sqlite", 10).held
    assert closed == [errno.EIO, errno.EDQUOT]
    assert Ballast(disk, tmp_path / "shop.sqlite", 0).held


def test_a_mark_that_was_cut_short_has_the_slots_that_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite.mark"
    create_mark(path, "0" * 32)
    whole = path.read_bytes()
    path.write_bytes(whole[:5_000])
    assert read_mark(path) == ("0" * 32, 0)
    path.write_bytes(whole[:4_100])
    assert read_mark(path) == ("0" * 32, 0)
    path.write_bytes(whole[:40])
    with pytest.raises(ValueError, match="neither slot"):
        read_mark(path)


def test_a_record_of_a_newer_schema_is_not_guessed_at() -> None:
    record = Ended(FIRST, NOW)
    assert decode_record(encode_record(1, NOW, record)[2]).record == record
    with pytest.raises(ValueError, match="newer than this program's 1: upgrade"):
        decode_record(msgspec.msgpack.encode(Envelope(2, NOW, record)))
    with pytest.raises(ValueError, match="it is a str, not bytes"):
        decode_record("a text that was a blob")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A committed and a parked transaction; the second was parked twice and unparked once."""
    path = tmp_path / "log.sqlite"
    create_log(path)
    store = LogStore(path, "run", 7 * 24 * 3_600_000)
    store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW)
    records = [
        *(Begun(txn, f"key-{txn[-1]}", b"a" * 16, "order", 1, b"", NOW, NOW + 1, 1) for txn in (FIRST, SECOND)),
        Decided(FIRST, Decision.COMMIT, NOW), Ended(FIRST, NOW), Decided(SECOND, Decision.ABORT, NOW, "E_TIMEOUT"),
        Parked(SECOND, "a", "E_X", "", NOW), Parked(SECOND, "b", "E_Y", "", NOW), Parked(SECOND, "a", "", "", NOW)]
    store.append([AppendRequest(1, 0, "first", 1, [EpochRecord(1, record) for record in records])], NOW)
    store.close()
    return path


def changed(path: Path, *statements: str) -> list[str]:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()
    reader = LogReader(path)
    found = reader.verify()
    reader.close()
    return found


def moved(sequence: int, to: int, record: Any) -> str:
    """A record that stands elsewhere, with the checksum that fits there."""
    _, crc, data = encode_record(to, NOW, record)
    assert crc == crc_of(to, data)
    return f"INSERT OR REPLACE INTO records VALUES ({to}, {crc}, x'{data.hex()}')"


def test_what_is_unparked_is_parked_no_more(log: Path) -> None:
    connection = sqlite3.connect(log)
    assert {step: parked.code for step, parked in load_parked(connection, SECOND).items()} == {"b": "E_Y"}
    connection.close()


def test_many_values_are_asked_for_in_few_statements(log: Path) -> None:
    connection = sqlite3.connect(log)
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    values = [f"absent{n}" for n in range(600)] + [FIRST, SECOND]
    found = list(select_in(connection, "SELECT txn FROM transactions WHERE txn IN", values))
    assert (sorted(found), len(asked)) == ([(FIRST,), (SECOND,)], 2 + 5 + 10)
    connection.close()


def test_records_of_what_was_forgotten_may_stay_behind_the_base(log: Path) -> None:
    """Compaction forgets a transaction first, its records later."""
    forget = [f"DELETE FROM transactions WHERE txn = '{FIRST}'", "DELETE FROM keys WHERE begun_sequence = 1"]
    assert any("which was never begun" in problem for problem in changed(log, *forget))
    assert changed(log, f"UPDATE meta SET value = {NOW + 1} WHERE name = 'watermark_ms'") == []
    below = changed(log, "UPDATE meta SET value = 5 WHERE name = 'base_sequence'")
    assert any("record 1 (Begun)" in problem and "never begun" in problem for problem in below)


@pytest.mark.parametrize(("place", "record", "row", "problem"), [
    (0, Parked(SECOND, "a", "E_X", "", NOW), "UPDATE parkings SET sequence = 0 WHERE sequence = 6", "record 0 (Parked)"),
    (0, Decided(SECOND, Decision.ABORT, NOW, "E_TIMEOUT"),
     f"UPDATE transactions SET decided_sequence = 0 WHERE txn = '{SECOND}'", "record 0 (Decided)"),
    (0, Ended(FIRST, NOW), f"UPDATE transactions SET ended_sequence = 0 WHERE txn = '{FIRST}'", "record 0 (Ended)"),
])
def test_what_stands_before_its_begun_is_found(log: Path, place: int, record: Any, row: str, problem: str) -> None:
    found = changed(log, moved(-1, place, record), row, "UPDATE meta SET value = 0 WHERE name = 'base_sequence'")
    wanted = "before a decision" if isinstance(record, Ended) else "before its Begun"
    assert any(problem in told and wanted in told for told in found), found
