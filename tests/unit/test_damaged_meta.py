"""A damaged page on which a scan still finds a named value, and a look-up does not: refused, never a raw error."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from orchestrator.creation import create_database
from orchestrator.database import OwnedDatabase, _check
from orchestrator.errors import DefiniteError
from orchestrator.log.store import LogStore
from unit.disk_bench import LOG, TEMPLATE

AROUND = 160  # bytes on either side of a name: the other names and values of the page


def test_every_flip_beside_the_named_values_is_refused_or_harmless() -> None:
    content = TEMPLATE.fork("meta").contents()[str(LOG)]
    place = content.rindex(b"sequence")  # of the rows: the schema, which names it as well, is the first page
    refused = 0
    for offset in range(max(place - AROUND, 0), min(place + AROUND, len(content))):
        for mask in (0x01, 0x20, 0x80):
            disk = TEMPLATE.fork(offset)
            damaged = bytearray(content)
            damaged[offset] ^= mask
            disk.store(str(LOG), bytes(damaged))
            try:
                store = LogStore(LOG, "run", 10**12, files=disk.files, ballast_bytes=0)
            except DefiniteError:
                refused += 1
            else:
                store.close()
    assert refused > AROUND // 2


def test_a_value_that_a_scan_finds_and_a_look_up_does_not_is_refused(tmp_path) -> None:
    path = tmp_path / "shop.sqlite"
    create_database(path, "", "shop")
    database = OwnedDatabase(path, "shop", "run")

    def execute(sql: str, parameters: tuple[str, ...] = ()) -> object:
        nothing = SimpleNamespace(fetchone=lambda: None)
        return nothing if parameters == ("uuid",) else database.connection.execute(sql, parameters)

    with pytest.raises(DefiniteError, match="its meta value 'uuid' cannot be looked up"):
        _check(SimpleNamespace(execute=execute), path, "shop", database._mark, "")
    database.close()
