"""That a mutant which the tests notice is killed, one that they do not survives, and one that hangs is ended."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutation.mutant import Mutant, replaced
from orchestrator.protocol import identifiers

TESTS = Path(__file__).resolve().parents[1]
MODULE = "orchestrator.protocol.identifiers"
WEAK = """
from orchestrator.protocol import identifiers
def test_nothing(): assert identifiers.is_id("0" * 32)
def test_made(): assert identifiers.make_id(1, 2, 3, 4) == "000000000001" "02" "00000003" "0000000004"
"""
PROGRAM = """
import json, sys, pytest
from functools import partial
from mutation.killing import Killing
from unit.test_mutation_tool import made
names = [("is_id", "return _ID.fullmatch(text) is not None", "return True"), ("make_id", "{epoch:08x}", "{epoch:09x}"),
         ("make_id", "return", "while True: began_ms += 0\\n    return"), ("epoch_of", "14:22", "14:21")]
found = []
killing = Killing([partial(made, *name) for name in names], 600, lambda mutant, fate: found.append(fate.name))
pytest.main([sys.argv[1], "-q", "-s", "-p", "no:cacheprovider", "--rootdir=" + sys.argv[2]], plugins=[killing])
print(json.dumps([found, killing.fates.baseline_failed]))
"""


def made(function: str, was: str, becomes: str) -> Mutant:
    where, source = f"{MODULE}:{function}", inspect.getsource(identifiers)
    body = inspect.getsource(getattr(identifiers, function))
    text = source.replace(body, body.replace(was, becomes))
    assert text != source
    return Mutant(where, was, becomes, lambda: replaced(where, text))


def test_each_mutant_comes_to_what_its_tests_deserve(tmp_path: Path) -> None:
    (tmp_path / "test_weak.py").write_text(WEAK)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path)], env=environment, check=True, capture_output=True,
        text=True)
    assert json.loads(run.stdout.splitlines()[-1]) == [["SURVIVED", "KILLED", "HUNG", "NOT_RUN"], []]


def test_mutants_are_made_of_every_kind() -> None:
    pytest.importorskip("mutmut", reason="comes with the extra `proof`")
    from mutation.mutants import mutants_of  # noqa: PLC0415 - it imports mutmut

    found = [make() for make in mutants_of([Path(identifiers.__file__).with_name(name) for name in (
        "timers.py", "transaction.py")])]
    told = {(m.where.rpartition(".")[2], m.was, m.becomes) for m in found}
    assert {
        ("arm", "bucket.append(transaction)", "pass"),
        ("arm", "if bucket is None:", "if True:"),
        ("due", "while self._order and self._order[0] * BUCKET_MS <= now_ms:",
         "while self._order and self._order[0] * BUCKET_MS < now_ms:"),
    } <= told
    tables = [m for m in found if m.where.endswith(":TRANSITIONS")]
    assert len(tables) == 6 * 4
    assert not [m for m in found if "__repr__" in m.where]
