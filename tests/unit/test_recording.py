"""Every request and every answer of a driver is noted, in the order in which it matters: noted before the driver knows."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from loadgen.driver import Driver
from loadgen.history import HistoryWriter, read_history
from loadgen.recording import RecordedClient, histories, history_file
from loadgen.workload import Told, Work
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError, OverloadedError
from orchestrator.outcome import Handle, Outcome, OutcomeKind


class ScriptedClient:
    """Answers every submit of a key with the next thing of its script: an outcome, or an error from submit or handle."""

    def __init__(self, script):
        self.deployment = SimpleNamespace()
        self._script = {key: iter(answers) for key, answers in script.items()}

    def submit(self, saga, data, *, key):
        answer, at_once = next(self._script[key])
        if at_once:
            raise answer
        handle = Handle(key, 1, lambda found: found)
        handle.settle(*((None, answer) if isinstance(answer, Exception) else (answer, None)))
        return handle


class OneByOne:
    """A feed of the keys of a script."""

    def __init__(self, keys):
        self._works = [Work(number, "place_order", key, {"amount_minor": 7}) for number, key in enumerate(keys)]
        self._next = iter(self._works)
        self.told = {}

    def take(self):
        return next(self._next, None)

    def again(self, number):
        return self._works[number]

    def settle(self, number, told, code):
        self.told[self._works[number].key] = told


SCRIPT = {
    "fine": [(Outcome("t1", "fine", OutcomeKind.COMMITTED), False)],
    "aborted": [(Outcome("t2", "aborted", OutcomeKind.ABORTED, "OUT_OF_STOCK"), False)],
    "lost": [(IndefiniteError(ErrorCode.UNREACHABLE, "gone"), False), (Outcome("t3", "lost", OutcomeKind.COMMITTED), False)],
    "unreachable": [
        (IndefiniteError(ErrorCode.UNREACHABLE, "closed"), True), (Outcome("t4", "x", OutcomeKind.COMMITTED), False)],
    "busy": [(OverloadedError("full", 1), False), (Outcome("t5", "busy", OutcomeKind.COMMITTED), False)],
    "wrong": [(DefiniteError(ErrorCode.INVALID_INPUT, "no"), True)],
}


def test_a_driver_through_a_recorded_client_leaves_its_history(tmp_path):
    feed = OneByOne(SCRIPT)
    with HistoryWriter(tmp_path / "h", "driver") as history:
        Driver(RecordedClient(ScriptedClient(SCRIPT), history), feed, concurrency=3, patience_s=30.0).run()
    found = {}
    for one in read_history([tmp_path / "h"]).operations:
        assert (one.saga, one.asked) == ("place_order", {"amount_minor": 7})
        found.setdefault(one.key, []).append((one.told, one.transaction or one.code))
    assert found == {
        "fine": [(Told.COMMITTED, "t1")],
        "aborted": [(Told.ABORTED, "t2")],
        "lost": [(Told.UNKNOWN, "E_UNREACHABLE"), (Told.COMMITTED, "t3")],
        "unreachable": [(Told.UNKNOWN, "E_UNREACHABLE"), (Told.COMMITTED, "t4")],
        "busy": [(Told.REJECTED, "E_OVERLOADED"), (Told.COMMITTED, "t5")],
        "wrong": [(Told.REJECTED, "E_INVALID_INPUT")],
    }
    assert feed.told == {key: answers[-1][0] for key, answers in found.items()}


def test_a_history_is_kept_in_a_new_file_only(tmp_path):
    kept = tmp_path / "kept.jsonl"
    with history_file(kept) as path:
        assert path == kept
    with pytest.raises(DefiniteError, match="name a new file"), history_file(kept):
        pass
    with pytest.raises(DefiniteError, match="E_INVALID_INPUT"), history_file(tmp_path / "no" / "such"):
        pass
    with history_file(None) as path:
        path.write_text("x")
    assert not path.exists()


def test_a_run_that_was_refused_leaves_no_history_in_the_way_of_the_next_one(tmp_path):
    kept = tmp_path / "kept.jsonl"
    with contextlib.suppress(KeyboardInterrupt), histories(kept) as files:
        files.more(2)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with contextlib.suppress(KeyboardInterrupt), histories(kept) as files:
        files.more(1)[0].write_text("told")
        files.main.write_text("asked")
        raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {"kept.jsonl", "kept.jsonl.0"}
