"""Damaged files are refused or told of, never silently believed; `tests/chaos/flip_bytes.py` damages every byte."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from chaos import flip_bytes
from chaos.flip_bytes import CLASSES, damages, judge, subjects, sweep


def test_no_damage_is_silent(occurred) -> None:
    counted, silent = sweep(997, 1)
    assert silent == []
    classes = sum((count for kinds in counted.values() for count in kinds.values()), Counter())
    assert set(classes) <= set(CLASSES)
    assert classes["refused"] > 150
    assert classes["verified"] > 3
    for store in ("log killed", "service killed"):
        assert counted[store]["wal cut"]["refused"] > 3
        assert counted[store]["mark flipped"]["harmless"] == counted[store]["mark flipped"].total()
    occurred("41", "55", "56")


def test_silence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without checksums that anybody looks at, damage would be silent: then the sweep says so."""
    monkeypatch.setattr(flip_bytes, "found", lambda _subject, _disk: False)
    (subject,) = [found for found in subjects(1) if found.name == "service closed"]
    draw = random.Random(1)
    assert any(judge(subject, path, damaged) == "silent" for path, _, damaged in damages(subject, 61, draw))


@pytest.mark.parametrize("kind", ["log closed", "service closed"])
def test_what_is_judged_is_what_the_store_holds(kind: str) -> None:
    (subject,) = [found for found in subjects(1) if found.name == kind]
    assert judge(subject, str(subject.story.path), subject.files[str(subject.story.path)]) == "harmless"
    assert judge(subject, str(subject.story.path), b"") == "refused"
    less = subject._replace(state={table: rows[1:] for table, rows in subject.state.items()})
    assert judge(less, str(subject.story.path), subject.files[str(subject.story.path)]) == "silent"


def test_an_error_that_says_nothing_of_damage_is_bad() -> None:
    """A store that raises whatever it stumbles over, where it should refuse."""
    def stumbles(_disk: object) -> object:
        raise TypeError("a bytes-like object is required, not 'int'")

    (subject,) = [found for found in subjects(1) if found.name == "log closed"]
    careless = subject._replace(story=subject.story._replace(open=stumbles))
    assert judge(careless, str(subject.story.path), b"") == "raw"
    assert "raw" in flip_bytes.BAD


@pytest.mark.parametrize("capital", [b"Tabletransactions", b"tableTransactions", b"tAblerecords", b"tablereCords"])
def test_a_capital_in_a_tables_name_changes_nothing(capital: bytes) -> None:
    """A flipped bit may make one of a letter; SQLite goes on finding the table."""
    (subject,) = [found for found in subjects(1) if found.name == "log closed"]
    content = subject.files[str(subject.story.path)]
    assert capital.lower() in content
    damaged = content.replace(capital.lower(), capital)
    assert judge(subject, str(subject.story.path), damaged) == "harmless"


def test_an_id_that_is_no_text_any_more_is_refused() -> None:
    """One bit of a row's header makes bytes of a text, and the next columns one byte longer or shorter."""
    (subject,) = [found for found in subjects(1) if found.name == "log closed"]
    content = subject.files[str(subject.story.path)]
    rows = [at for at in range(len(content) - 8) if content[at] == 0x4d and content[at + 1] in (0x55, 0x53, 0x51, 0x57)]
    judged = {judge(subject, str(subject.story.path), content[:at] + b"\x4c" + content[at + 1:]) for at in rows}
    assert rows
    assert judged <= {"refused", "verified"}
