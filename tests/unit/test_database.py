"""Databases are created once and durably, opened by one owner, and refused where they are not what they were."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, open_reader
from orchestrator.errors import DefiniteError
from orchestrator.mark import Mark, create_mark, mark_path, read_mark
from orchestrator.ownership import Holder, end_process, this_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = "CREATE TABLE items (name TEXT PRIMARY KEY);"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "data" / "shop.sqlite"
    create_database(found, SCHEMA, "shop")
    return found


def put(database: OwnedDatabase, name: str) -> None:
    database.begin()
    database.connection.execute("INSERT INTO items VALUES (?)", (name,))
    database.commit()


def items(path: Path) -> list[str]:
    reader = open_reader(path)
    try:
        return [row[0] for row in reader.execute("SELECT name FROM items ORDER BY name")]
    finally:
        reader.close()


def copy_of(path: Path, to: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copy(source, to.with_name(to.name + suffix))


def refusal(path: Path, **expected: str) -> str:
    with pytest.raises(DefiniteError) as caught:
        OwnedDatabase(path, "shop", "run", **expected)
    assert caught.value.code == "E_STORE_REFUSED"
    assert str(path) in caught.value.message
    return caught.value.message


def test_creating_again_finds_the_same_database(path: Path) -> None:
    database = OwnedDatabase(path, "shop", "run")
    put(database, "pen")
    database.close()
    assert create_database(path, SCHEMA, "shop") == database.uuid
    assert items(path) == ["pen"]


def test_files_and_directory_are_private(path: Path) -> None:
    database = OwnedDatabase(path, "shop", "run")
    put(database, "pen")
    assert {entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    database.close()


def test_a_creation_that_was_cut_short_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    path.with_name("shop.sqlite.new").write_bytes(b"half a file")
    create_mark(mark_path(path), "0" * 32)
    uuid = create_database(path, SCHEMA, "shop")
    assert read_mark(mark_path(path)) == (uuid, 0)
    OwnedDatabase(path, "shop", "run").close()


def test_a_lost_database_is_never_created_anew(path: Path, occurred) -> None:
    OwnedDatabase(path, "shop", "run").close()
    path.unlink()
    with pytest.raises(DefiniteError, match=r"E_STORE_REFUSED.*it had 1 commits"):
        create_database(path, SCHEMA, "shop")
    occurred("25", "69")


def test_a_lost_database_with_its_write_ahead_log_is_never_created_anew(tmp_path: Path) -> None:
    (tmp_path / "shop.sqlite-wal").write_bytes(b"frames")
    with pytest.raises(DefiniteError, match=r"E_STORE_REFUSED.*shop\.sqlite-wal is still there"):
        create_database(tmp_path / "shop.sqlite", SCHEMA, "shop")


def test_another_kind_is_refused_by_creation_and_by_opening(path: Path) -> None:
    with pytest.raises(DefiniteError, match="not a database of kind 'log' but 'shop'"):
        create_database(path, SCHEMA, "log")
    with pytest.raises(DefiniteError, match="not a database of kind 'log' but 'shop'"):
        OwnedDatabase(path, "log", "run")


def test_a_directory_that_is_a_file_is_a_definite_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DefiniteError, match="E_DATA_DIR"):
        create_database(tmp_path / "data" / "shop.sqlite", SCHEMA, "shop")


def test_every_opening_raises_the_epoch_and_counts_within_its_run(path: Path) -> None:
    seen = []
    for run in ("monday", "monday", "tuesday"):
        database = OwnedDatabase(path, "shop", run)
        seen.append((database.epoch, database.restarts))
        database.close()
    assert seen == [(1, 0), (2, 1), (3, 0)]


def test_the_sequence_counts_commits_and_the_mark_follows(path: Path) -> None:
    database = OwnedDatabase(path, "shop", "run")
    before = database.sequence
    put(database, "pen")
    put(database, "ink")
    assert database.sequence == before + 2
    assert read_mark(mark_path(path)) == (database.uuid, database.sequence)
    database.close()


def test_rollback_leaves_nothing(path: Path) -> None:
    database = OwnedDatabase(path, "shop", "run")
    database.begin()
    database.connection.execute("INSERT INTO items VALUES ('pen')")
    database.rollback()
    database.rollback()
    database.close()
    assert items(path) == []


def test_a_successor_fences_the_first_owner(path: Path, occurred) -> None:
    """The lock is bypassed: as if the file lay on a file system whose locks do not hold."""
    first = OwnedDatabase(path, "shop", "run")
    path.with_name(path.name + ".lock").unlink()
    second = OwnedDatabase(path, "shop", "run")
    with pytest.raises(DefiniteError, match=r"E_STORE_REFUSED.*a successor"):
        first.begin()
    put(second, "pen")
    first.connection.close()
    second.close()
    assert items(path) == ["pen"]
    occurred("66")


def test_this_process_does_not_own_a_database_twice(path: Path) -> None:
    database = OwnedDatabase(path, "shop", "run")
    assert "held by this very process" in refusal(path)
    database.close()


HOLD = """
import pathlib, signal, sys
from orchestrator.database import OwnedDatabase
database = OwnedDatabase(pathlib.Path(sys.argv[1]), "shop", "run")
database.begin()
database.connection.execute("INSERT INTO items VALUES ('pen')")
database.commit()
database.begin()
database.connection.execute("INSERT INTO items VALUES ('never committed')")
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_live_holder_is_killed_and_its_uncommitted_work_is_gone(path: Path, holder: subprocess.Popen[str]) -> None:
    database = OwnedDatabase(path, "shop", "run")
    assert holder.wait(timeout=10) == -signal.SIGKILL
    assert database.restarts == 1
    database.close()
    assert items(path) == ["pen"]


def test_a_stopped_holder_is_killed_too(path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGSTOP)
    OwnedDatabase(path, "shop", "run").close()
    assert holder.wait(timeout=10) == -signal.SIGKILL


def test_a_reused_pid_is_never_killed(holder: subprocess.Popen[str]) -> None:
    here = this_process()
    assert end_process(Holder(here.boot, here.namespace, holder.pid, 1), 0.1)  # gone: the pid is another's now
    assert not end_process(Holder("another boot", here.namespace, holder.pid, 1), 0.1)
    assert holder.poll() is None


def test_what_a_killed_owner_committed_is_read(path: Path, holder: subprocess.Popen[str]) -> None:
    assert items(path) == ["pen"]
    holder.kill()
    holder.wait()
    assert items(path) == ["pen"]


def test_a_reader_sees_one_snapshot_and_writes_nothing(path: Path) -> None:
    database = OwnedDatabase(path, "shop", "run")
    reader = open_reader(path)
    put(database, "pen")
    assert reader.execute("SELECT COUNT(*) FROM items").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO items VALUES ('ink')")
    reader.close()
    assert items(path) == ["pen"]
    database.close()


def test_reading_what_is_missing_or_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database" * 100)
    for name in ("nothing", "text"):
        with pytest.raises(DefiniteError, match="E_STORE_REFUSED"):
            open_reader(tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["text"]


def test_an_older_copy_is_refused(path: Path, tmp_path: Path, occurred) -> None:
    database = OwnedDatabase(path, "shop", "run")
    put(database, "pen")
    copy_of(path, tmp_path / "old.sqlite")
    put(database, "ink")
    database.close()
    copy_of(tmp_path / "old.sqlite", path)
    assert "an older copy: it ends at commit 2, its mark at 3" in refusal(path)
    occurred("25")


def test_a_database_without_its_mark_is_refused(path: Path) -> None:
    mark_path(path).unlink()
    assert "mark shop.sqlite.mark is missing" in refusal(path)


def test_a_mark_without_a_valid_slot_is_refused(path: Path) -> None:
    mark_path(path).write_bytes(b"\0" * 8192)
    assert "neither slot" in refusal(path)


def test_another_database_in_its_place_is_refused(path: Path, tmp_path: Path) -> None:
    create_database(tmp_path / "other.sqlite", SCHEMA, "shop")
    shutil.copy(tmp_path / "other.sqlite", path)
    assert "than the one its mark belongs to" in refusal(path)


def test_another_uuid_than_the_deployments_is_refused(path: Path) -> None:
    assert "another database" in refusal(path, expected_uuid="f" * 32)


def test_a_missing_database_is_refused_and_not_created(path: Path) -> None:
    path.unlink()
    assert "it is missing" in refusal(path)
    assert not path.exists()


def test_a_newer_schema_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE name = 'schema'")
    connection.close()
    assert "newer than this program; upgrade" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 8192])
def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refusal(path)


def test_a_damaged_page_is_refused(path: Path) -> None:
    database = OwnedDatabase(path, "shop", "run")
    for number in range(50):
        put(database, f"{number:0200}")
    database.close()
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 3 * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def test_a_torn_slot_costs_one_step_of_the_mark(tmp_path: Path) -> None:
    create_mark(tmp_path / "mark", "a" * 32)
    mark = Mark(tmp_path / "mark")
    mark.write(1)
    mark.write(2)
    mark.close()
    content = bytearray((tmp_path / "mark").read_bytes())
    newest = max(range(2), key=lambda slot: content[slot * 4096 + 40])
    content[newest * 4096 + 44] ^= 1
    (tmp_path / "mark").write_bytes(content)
    assert read_mark(tmp_path / "mark") == ("a" * 32, 1)


def test_a_refused_opening_leaves_the_lock_free(path: Path) -> None:
    refusal(path, expected_uuid="f" * 32)
    OwnedDatabase(path, "shop", "run").close()
