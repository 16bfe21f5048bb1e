"""The reader beside a deployment: it notes what it sees, waits out what cannot be read, and does not die unseen."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from loadgen.history import HistoryWriter, read_history
from loadgen.watching import HELD, SnapshotWatcher
from orchestrator.errors import DefiniteError, ErrorCode

ROW = SimpleNamespace(transaction="t", operation="reserve", request={"order_id": "o", "lines": [["A", 2], ["A", 1]]})


class Snapshot:
    def __init__(self, failure=None):
        self.failure, self.closed = failure, False

    def held(self):
        if self.failure is not None:
            raise self.failure
        return iter([ROW])

    def state(self):
        return {"order/o": "RESERVED", "sku/A": [5, 3, 0, 0, 5]}

    def close(self):
        self.closed = True


class Inventory:
    """Opens one scripted snapshot after the other, then says that all were seen."""

    def __init__(self, *snapshots):
        self.snapshots, self.all_seen = list(snapshots), threading.Event()

    def reader(self, path):
        if not self.snapshots:
            self.all_seen.set()
            raise DefiniteError(ErrorCode.STORE_REFUSED, "not just now")
        return self.snapshots.pop(0)


def watch(tmp_path, service):
    app = SimpleNamespace(by_service={"inventory": service})
    with HistoryWriter(tmp_path / "h", "reader") as history, SnapshotWatcher(tmp_path, app, history, pause_s=0.001):
        assert service.all_seen.wait(10)
    return read_history([tmp_path / "h"])


def test_what_is_held_is_noted_and_every_snapshot_released(tmp_path):
    snapshots = [Snapshot(), Snapshot()]
    history = watch(tmp_path, Inventory(*snapshots))
    assert len(history.reads) == 2
    for read in history.reads:
        assert (read.service, read.held, read.phases) == ("inventory", {"t": {"A": 3}}, {"o": HELD})
        assert read.books == {"A": {"on_hand": 5, "held": 3, "sold": 0, "returned": 0, "received": 5}}
    assert all(one.closed for one in snapshots)


def stumbling(tmp_path, history):
    app = SimpleNamespace(by_service={"inventory": Inventory(Snapshot(failure=ValueError("damaged")))})
    return SnapshotWatcher(tmp_path, app, history, pause_s=0.001)


def test_a_reader_that_stumbles_says_so(tmp_path):
    with (
        HistoryWriter(tmp_path / "h", "reader") as history, pytest.raises(ValueError, match="damaged"),
        stumbling(tmp_path, history) as watcher,
    ):
        watcher._thread.join(10)


def test_an_error_of_the_run_itself_is_not_hidden(tmp_path):
    with HistoryWriter(tmp_path / "h", "reader") as history:
        watcher = stumbling(tmp_path, history).__enter__()
        watcher._thread.join(10)
        watcher.__exit__(KeyError, KeyError("the run's own"), None)  # which goes on by itself
    assert isinstance(watcher._failure, ValueError)
