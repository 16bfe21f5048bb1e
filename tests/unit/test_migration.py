"""A database of an older program is migrated at one stroke when it is opened; one of a newer program is refused."""

from __future__ import annotations

import errno
import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from actors.reader import StoreReader
from actors.store import SCHEMA_SQL, STORE_MIGRATIONS, Store, create_store, store_kind
from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, open_reader
from orchestrator.errors import DefiniteError
from orchestrator.log.reader import LogReader, TransactionQuery
from orchestrator.log.schema import LOG_KIND, LOG_MIGRATIONS, LOG_SCHEMA
from orchestrator.log.store import LogStore, create_log
from orchestrator.migration import Migration, check_readable, schema_after, statements
from orchestrator.testing.disk.storage import Crashed, SimulatedDisk
from unit.disk_bench import ended, put
from unit.log_bench import Log

FIRST = "CREATE TABLE items (name TEXT PRIMARY KEY, price INTEGER NOT NULL);"


def in_cents(connection: sqlite3.Connection) -> None:
    """An example of a migration in Python: rows are rewritten."""
    for name, price in connection.execute("SELECT name, price FROM items").fetchall():
        connection.execute("UPDATE items SET price = ? WHERE name = ?", (price * 100, name))


def broken(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM items")
    raise ValueError("a price is no number")


SECOND: tuple[Migration, ...] = (
    statements("ALTER TABLE items ADD COLUMN shelf TEXT NOT NULL DEFAULT 'A'", "CREATE INDEX items_shelf ON items (shelf)"),
)
THIRD: tuple[Migration, ...] = (*SECOND, in_cents)
NEXT_LOG = (*LOG_MIGRATIONS, statements("CREATE TABLE notes (txn TEXT PRIMARY KEY, text TEXT NOT NULL)"))
NEXT_STORE = (*STORE_MIGRATIONS, statements("ALTER TABLE ledger ADD COLUMN note TEXT NOT NULL DEFAULT ''"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database that the first program has written."""
    path = tmp_path / "shop.sqlite"
    create_database(path, FIRST, "shop")
    with closing(OwnedDatabase(path, "shop", "run")) as database:
        database.begin()
        database.connection.execute("INSERT INTO items VALUES ('pen', 3), ('ink', 7)")
        database.commit()
    return path


def tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def items(path: Path) -> list[tuple[object, ...]]:
    with closing(open_reader(path)) as reader:
        return reader.execute("SELECT * FROM items ORDER BY name").fetchall()


def schema_of(path: Path) -> int:
    with closing(open_reader(path)) as reader:
        return int(reader.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()[0])


def test_an_older_database_is_migrated_when_it_is_opened(old: Path) -> None:
    with closing(OwnedDatabase(old, "shop", "run", migrations=THIRD)) as database:
        assert (database.sequence, database.epoch) == (3, 2)  # one commit with the change of owner
    assert items(old) == [("ink", 700, "A"), ("pen", 300, "A")]
    with closing(OwnedDatabase(old, "shop", "run", migrations=THIRD)):
        pass
    assert items(old) == [("ink", 700, "A"), ("pen", 300, "A")]  # once
    assert schema_of(old) == schema_after(THIRD) == 3


def test_only_what_is_missing_is_applied(old: Path) -> None:
    OwnedDatabase(old, "shop", "run", migrations=SECOND).close()
    assert items(old)[0] == ("ink", 7, "A")
    OwnedDatabase(old, "shop", "run", migrations=THIRD).close()
    assert items(old)[0] == ("ink", 700, "A")


def test_a_new_database_is_what_an_old_one_becomes(old: Path, tmp_path: Path) -> None:
    OwnedDatabase(old, "shop", "run", migrations=THIRD).close()
    create_database(tmp_path / "new.sqlite", FIRST, "shop", migrations=THIRD)
    with closing(open_reader(old)) as migrated, closing(open_reader(tmp_path / "new.sqlite")) as new:
        assert tables(migrated) == tables(new)
    assert schema_of(tmp_path / "new.sqlite") == 3


def test_a_migrated_database_is_refused_by_the_older_program(old: Path) -> None:
    OwnedDatabase(old, "shop", "run", migrations=THIRD).close()
    with pytest.raises(DefiniteError, match=r"E_STORE_REFUSED.*its schema 3 is newer than this program; upgrade"):
        OwnedDatabase(old, "shop", "run", migrations=SECOND)
    with pytest.raises(DefiniteError, match="newer than this program; upgrade"):
        create_database(old, FIRST, "shop", migrations=SECOND)
    OwnedDatabase(old, "shop", "run", migrations=THIRD).close()  # the refusal left it as it was


def test_a_migration_that_fails_changes_nothing(old: Path) -> None:
    with pytest.raises(DefiniteError, match=r"cannot be brought to schema 3: ValueError: a price is no number; nothing"):
        OwnedDatabase(old, "shop", "run", migrations=(*SECOND, broken))
    assert schema_of(old) == 1
    with closing(OwnedDatabase(old, "shop", "run")) as database:
        assert database.epoch == 2  # nobody has owned it meanwhile
    assert items(old) == [("ink", 7), ("pen", 3)]


def test_a_reader_migrates_nothing_and_says_who_does(old: Path) -> None:
    with pytest.raises(DefiniteError, match=r"its schema 1 is older than this program's 3: `raytx up` brings it"):
        check_readable(open_reader(old), old, THIRD)
    assert schema_of(old) == 1


@pytest.mark.parametrize("value", ["'x'", "NULL", "0"])
def test_a_damaged_number_is_refused(old: Path, value: str) -> None:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute(f"UPDATE meta SET value = {value} WHERE name = 'schema'")
    with pytest.raises(DefiniteError, match="meta value 'schema' is"):
        OwnedDatabase(old, "shop", "run", migrations=THIRD)
    with pytest.raises(DefiniteError, match=r"meta value 'schema' is|older than this program's"):
        check_readable(open_reader(old), old, THIRD)


def test_on_a_full_disk_the_ballast_makes_room_for_it(old: Path) -> None:
    tried: list[str] = []

    def needs_room(connection: sqlite3.Connection) -> None:
        tried.append("once more")
        connection.execute("DELETE FROM items")
        if len(tried) < 3:
            raise OSError(errno.ENOSPC, "no space left on device")

    with pytest.raises(OSError, match="no space left"):  # whoever opens it tries again later
        OwnedDatabase(old, "shop", "run", migrations=(*SECOND, needs_room))
    assert (len(tried), schema_of(old), len(items(old))) == (2, 1, 2)
    with closing(OwnedDatabase(old, "shop", "run", migrations=(*SECOND, needs_room))):
        pass
    assert (schema_of(old), items(old)) == (3, [])


def test_a_death_anywhere_leaves_the_old_one_or_the_new_one() -> None:
    path, found, deaths = Path("/data/shop.sqlite"), set(), 0
    while True:
        disk = SimulatedDisk(deaths)
        create_database(path, FIRST, "shop", disk.files)
        with closing(OwnedDatabase(path, "shop", "run", files=disk.files)) as database:
            database.begin()
            database.connection.execute("INSERT INTO items VALUES ('pen', 3)")
            database.commit()
        if not dies_while_migrated(disk, path, deaths):
            break
        deaths += 1
        with closing(open_reader(path, disk.files)) as reader:
            (schema,) = reader.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
            content = reader.execute("SELECT * FROM items").fetchall()
        assert (schema, content) in [(1, [("pen", 3)]), (3, [("pen", 300, "A")])]
        found.add(schema)
        OwnedDatabase(path, "shop", "run", files=disk.files, migrations=THIRD).close()  # it is gone on with
    assert found == {1, 3}
    assert deaths > 5


def dies_while_migrated(disk: SimulatedDisk, path: Path, point: int) -> bool:
    left = point

    def die(_path: str, _operation: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            disk.power_loss()

    disk.on_point = die
    try:
        OwnedDatabase(path, "shop", "run", files=disk.files, migrations=THIRD).close()
    except Crashed:
        pass
    finally:
        disk.on_point = None
    return left < 0


def test_a_log_of_this_program_in_the_hands_of_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    create_log(path)
    log = Log(path)
    log.take()
    identity = log.begin("k")
    log.store.close()
    with closing(OwnedDatabase(path, LOG_KIND, "run", migrations=NEXT_LOG)) as database:
        database.connection.execute("INSERT INTO notes VALUES (?, 'kept')", (identity,))
        (count,) = database.connection.execute("SELECT count(*) FROM transactions").fetchone()
        assert count == 1
    for opened in (lambda: LogStore(path, "run", 1), lambda: LogReader(path)):
        with pytest.raises(DefiniteError, match="newer than this program; upgrade"):
            opened()


def test_a_log_of_the_first_program(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    create_database(path, LOG_SCHEMA, LOG_KIND)
    assert schema_of(path) == 1
    log = Log(path)
    log.take()
    identity = log.begin("k")
    log.store.close()
    assert schema_of(path) == schema_after(LOG_MIGRATIONS)
    with closing(LogReader(path)) as reader:
        assert [one.transaction for one in reader.find(TransactionQuery())] == [identity]
        assert reader.verify() == []


def test_a_service_of_this_program_in_the_hands_of_the_next(tmp_path: Path) -> None:
    path = tmp_path / "vault.sqlite"
    create_store(path, "vault")
    with closing(Store(path, "vault", "run")) as store:
        put(store, [ended(1)], {"stock": b"\x01"})
    with closing(OwnedDatabase(path, store_kind("vault"), "run", migrations=NEXT_STORE)) as database:
        assert database.connection.execute("SELECT note FROM ledger").fetchall() == [("",)]
    for opened in (lambda: Store(path, "vault", "run"), lambda: StoreReader(path)):
        with pytest.raises(DefiniteError, match="newer than this program; upgrade"):
            opened()


def test_a_service_of_the_first_program(tmp_path: Path) -> None:
    path = tmp_path / "vault.sqlite"
    create_database(path, SCHEMA_SQL, store_kind("vault"))
    with closing(Store(path, "vault", "run")) as store:
        put(store, [ended(1)], {"stock": b"\x01"})
    assert schema_of(path) == schema_after(STORE_MIGRATIONS)
    with closing(StoreReader(path)) as reader:
        assert [row.state for row in reader.rows()] == ["COMMITTED"]


@pytest.mark.parametrize(
    ("sql", "digest"), [(LOG_SCHEMA, "a81c06d853a9d62e"), (SCHEMA_SQL, "a6e461694d2d9682")], ids=["log", "service"])
def test_the_first_schema_stays_for_ever(sql: str, digest: str) -> None:
    """Databases of the first program exist: change tables with a migration, not here."""
    assert hashlib.sha256(sql.encode()).hexdigest()[:16] == digest
