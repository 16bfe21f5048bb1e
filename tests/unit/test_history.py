"""Histories survive the death of whoever writes them: what was not closed is unknown, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from threading import Thread

import pytest

from loadgen.history import Call, HistoryWriter, read_history
from loadgen.workload import Told
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.outcome import Outcome, OutcomeKind


class Done:
    def __init__(self, outcome=None, error=None):
        self._outcome, self._error = outcome, error

    def outcome(self, timeout_s=None):
        if self._error is not None:
            raise self._error
        return self._outcome


@pytest.fixture
def path(tmp_path):
    return tmp_path / "driver.jsonl"


def test_operations_are_closed_by_what_was_told(path):
    with HistoryWriter(path, "driver") as writer:
        writer.ok(writer.invoke("a", saga="place_order", asked={"amount_minor": 5}), "t1")
        writer.fail(writer.invoke("b"), "OUT_OF_STOCK", "t2")
        writer.fail(writer.invoke("c", call=Call.CANCEL), "E_OVERLOADED")
        writer.unknown(writer.invoke("d", call=Call.LOOKUP), "E_PENDING")
        writer.invoke("e")
    a, b, c, d, e = read_history([path]).operations
    assert (a.process, a.call, a.key, a.saga, a.asked) == ("driver", Call.SUBMIT, "a", "place_order", {"amount_minor": 5})
    assert [(one.told, one.transaction, one.code) for one in (a, b, c, d, e)] == [
        (Told.COMMITTED, "t1", ""), (Told.ABORTED, "t2", "OUT_OF_STOCK"), (Told.REJECTED, "", "E_OVERLOADED"),
        (Told.UNKNOWN, "", "E_PENDING"), (Told.UNKNOWN, "", "")]
    assert c.call is Call.CANCEL
    assert 0 < a.invoked_ms <= a.told_ms
    assert e.told_ms == 0


@pytest.mark.parametrize(("handle", "told", "code"), [
    (Done(Outcome("t", "k", OutcomeKind.COMMITTED)), Told.COMMITTED, ""),
    (Done(Outcome("t", "k", OutcomeKind.ABORTED, "E_TIMEOUT")), Told.ABORTED, "E_TIMEOUT"),
    (Done(error=DefiniteError(ErrorCode.KEY_CONFLICT, "other")), Told.REJECTED, "E_KEY_CONFLICT"),
    (Done(error=IndefiniteError(ErrorCode.PENDING, "waiting")), Told.UNKNOWN, "E_PENDING"),
])
def test_a_handle_closes_its_operation(path, handle, told, code):
    with HistoryWriter(path, "driver") as writer:
        writer.told(writer.invoke("k"), handle)
    (operation,) = read_history([path]).operations
    assert (operation.told, operation.code) == (told, code)


def test_reads_and_notes_are_kept(path):
    with HistoryWriter(path, "driver") as writer:
        writer.read("inventory", held={"t": {"A": 2}}, books={"A": {"on_hand": 5}}, phases={"o1": "", "o2": "RESERVED"})
        writer.note("killed", "shard-0")
        writer.note("measured", values={"rss_bytes": 7})
    history = read_history([path])
    (read,) = history.reads
    assert (read.service, read.held, read.books) == ("inventory", {"t": {"A": 2}}, {"A": {"on_hand": 5}})
    assert read.phases == {"o1": "", "o2": "RESERVED"}
    assert [note.about for note in history.noted("killed")] == ["shard-0"]
    assert history.noted("measured")[0].values == {"rss_bytes": 7}


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_tail_is_unknown_and_the_next_process_writes_on(path, cut):
    with HistoryWriter(path, "first") as writer:
        number = writer.invoke("a")
        writer.ok(number, "0" * 32)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1])[:-cut])  # without the line that says that the process closed
    with HistoryWriter(path, "second") as writer:
        writer.ok(writer.invoke("b"), "t2")
    a, b = read_history([path]).operations
    assert (a.key, a.told) == ("a", Told.COMMITTED if cut == 1 else Told.UNKNOWN)  # the last byte is the line's end
    assert (b.process, b.told) == ("second", Told.COMMITTED)


def test_who_did_not_close_its_file_was_killed(path, tmp_path):
    for name in ("first", "second"):
        with HistoryWriter(path, name) as writer:
            writer.invoke(name)
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"type":"closed"', b'"type":"note","what":"x"', 1))
    assert read_history([path]).killed == ["first"]
    path.write_bytes(text[: text.rindex(b"\n", 0, -1) + 1])
    assert read_history([path]).killed == ["second"]
    path.write_bytes(text)
    assert read_history([path]).killed == []


def test_numbers_of_a_process_that_died_are_not_those_of_its_successor(path):
    with HistoryWriter(path, "first") as first:
        first.invoke("a")
    with HistoryWriter(path, "first") as second:
        second.ok(second.invoke("b"), "t")
    assert {one.key: one.told for one in read_history([path]).operations} == {"a": Told.UNKNOWN, "b": Told.COMMITTED}


def test_what_is_told_after_closing_stays_unknown(path):
    writer = HistoryWriter(path, "driver")
    number = writer.invoke("a")
    writer.close()
    writer.ok(number, "t")
    writer.close()
    assert read_history([path]).operations[0].told is Told.UNKNOWN


def test_a_damaged_line_in_the_middle_is_refused(path):
    with HistoryWriter(path, "driver") as writer:
        writer.invoke("a")
        writer.invoke("b")
    path.write_bytes(path.read_bytes().replace(b'"key":"a"', b'"key":a'))
    with pytest.raises(DefiniteError, match="line 2"):
        read_history([path])


def test_closing_what_is_not_open_is_refused(path):
    with HistoryWriter(path, "driver") as writer:
        writer.ok(7, "t")
    with pytest.raises(DefiniteError, match="operation 7"):
        read_history([path])


def test_a_newer_schema_is_refused(path):
    with HistoryWriter(path, "driver"):
        pass
    path.write_bytes(path.read_bytes().replace(b'"process"', b'"schema":99,"process"'))
    with pytest.raises(DefiniteError, match="schema 99"):
        read_history([path])


def test_several_processes_are_one_history(tmp_path):
    for name in ("a", "b"):
        with HistoryWriter(tmp_path / name, name) as writer:
            writer.ok(writer.invoke("shared"), "t")
    history = read_history([tmp_path / "a", tmp_path / "b"])
    assert [(one.process, one.key) for one in history.operations] == [("a", "shared"), ("b", "shared")]


def test_threads_write_whole_lines(path):
    def work(name):
        for number in range(500):
            writer.ok(writer.invoke(f"{name}-{number}"), f"{name}{number}")

    with HistoryWriter(path, "driver") as writer:
        threads = [Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    operations = read_history([path]).operations
    assert len(operations) == 1_500
    assert all(one.told is Told.COMMITTED and one.transaction == one.key.replace("-", "") for one in operations)


def test_a_killed_writer_leaves_a_history_that_can_be_read(path):
    script = (
        "import os, sys; from pathlib import Path; from loadgen.history import HistoryWriter\n"
        "writer = HistoryWriter(Path(sys.argv[1]), 'victim')\n"
        "for number in range(5_000): writer.ok(writer.invoke(str(number)), f't{number}')\n"
        "os.kill(os.getpid(), 9)\n")
    ended = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert ended.returncode == -9
    operations = read_history([path]).operations
    assert 4_000 < len(operations) <= 5_000
    for one in operations[:-1]:
        assert one.transaction == f"t{one.key}"
