"""A whole run of `raytx load` in this process, without Ray: the phases, their order, and the judgement at the end of each."""

from __future__ import annotations

import io
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from loadgen import apart, load
from loadgen.arrivals import Arrivals
from loadgen.capacity import Capacity
from loadgen.load import LoadPlan, run_load
from loadgen.nemesis import beside
from orchestrator.config import Settings
from orchestrator.deployment import DIRECTORY_SCHEMA, DataDirectory, DeploymentRecord
from orchestrator.errors import DefiniteError, IndefiniteError
from orchestrator.outcome import Handle, Outcome, OutcomeKind
from orchestrator.ownership import this_process
from unit.shop_in_process import Shop


class Client:
    """Of a shop in this process, which answers at once; `seen` has the keys, and `at` says what happens at a call."""

    def __init__(self, shop: Shop, at: dict) -> None:
        self._shop, self._at, self.seen, self.order_ids = shop, at, [], []
        self.deployment = SimpleNamespace(
            app=shop.app, settings=Settings(), owned=True, data_dir=shop.path, statuses=lambda _timeout_s: [])

    def submit(self, saga, data, *, key):
        self.seen.append(key)
        if isinstance(data, dict) and "order_id" in data:
            self.order_ids.append(data["order_id"])
        if (act := self._at.get(len(self.seen))) is not None:
            act()
        handle = Handle(key, 0, lambda handle: handle)
        told = self._shop.submit(key, saga, data)
        handle.settle(Outcome(told.transaction, key, OutcomeKind(told.status.name), told.code), None)
        return handle


class Run:
    """What a run did: what it said on the console, and which keys it placed."""

    def __init__(self, path, monkeypatch, **at) -> None:
        self.path, self.console, self.at = path, Console(file=io.StringIO(), width=200), {}
        self.keys: list[str] = []
        monkeypatch.setattr(load, "connect", self._connect)

    @contextmanager
    def _connect(self, _data, *, app, settings):
        shop = Shop(self.path, incarnation=f"shard-{time.time_ns()}")
        shop.now_ms = time.time_ns() // 1_000_000
        client = Client(shop, self.at)
        self.keys, self.order_ids = client.seen, client.order_ids
        try:
            yield client
        finally:
            shop.close()

    @property
    def said(self) -> str:
        return self.console.file.getvalue()

    def load(self, **values):
        return run_load(LoadPlan(**{"data": self.path, "app": "actors.orders:app", "concurrency": 2, **values}), self.console)


def raises(error):
    def act(*_arguments, **_values):
        raise error

    return act


def wait_until(done, limit_s):
    end_s = time.monotonic() + limit_s
    while not done() and time.monotonic() < end_s:
        time.sleep(0.01)
    return done()


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Run(tmp_path / "data", monkeypatch)


def test_a_run_places_what_was_asked_for_and_is_judged(run):
    summary = run.load(orders=20)
    assert summary.ok
    assert summary.to_json()["committed"] == 20


def test_samples_of_ones_own_saga_go_on_though_most_were_refused(run):
    own = {"workload": "actors.orders:place_order", "orders": 40}
    run.at = dict.fromkeys(range(9, 41), raises(DefiniteError("E_TOO_LARGE", "refused")))
    assert run.load(**own).to_json()["rejected"] == 32
    placed, run.at = set(run.order_ids), {}
    summary = run.load(**own)
    assert summary.check.ok
    assert len(placed) == len(set(run.order_ids)) == 40
    assert placed.isdisjoint(run.order_ids)


@pytest.mark.parametrize("error", [
    KeyboardInterrupt(), IndefiniteError("E_UNREACHABLE", "driver-0 died"), DefiniteError("E_INVALID_INPUT", "a failing feed")])
def test_a_run_that_is_ended_is_judged_all_the_same_and_says_so(run, monkeypatch, error):
    def fails(client, prepared, **_rest):
        for _ in range(3):
            work = prepared.workload.feed().take()
            client.submit(work.saga, work.input, key=work.key)
        raise error

    monkeypatch.setattr(load, "place", fails)
    with pytest.raises(type(error)):
        run.load(orders=20)
    assert "the run did not come to its end" in run.said
    assert "audit ok; 0 open" in run.said
    assert "history ok" in run.said


def _notes_at_the_end(_plan, _run, history, pipe):
    pipe.send(("ready", None))
    with suppress(EOFError):
        pipe.recv()
    time.sleep(0.2)
    history.write_text("noted")


def test_drivers_note_what_they_were_told_before_a_run_that_is_ended_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "_work", _notes_at_the_end)
    plan, history = LoadPlan(data=tmp_path, app="a:b", processes=1), tmp_path / "history"
    with pytest.raises(KeyboardInterrupt), apart.apart(plan, "run", [history]):
        raise KeyboardInterrupt
    assert history.read_text() == "noted"


def test_what_a_run_that_is_ended_left_wrong_is_told(run, monkeypatch):
    def fails(client, _prepared, **_rest):
        client.history.ok(client.history.invoke("no-such-key", saga="place_order"), "0" * 32)
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "place", fails)
    with pytest.raises(KeyboardInterrupt):
        run.load(orders=20)
    assert "audit ok" in run.said
    assert "history ok" not in run.said
    assert "no-such-key" in run.said


def test_stores_that_cannot_be_judged_do_not_hide_what_ended_the_run(run, monkeypatch):
    monkeypatch.setattr(load, "place", raises(KeyboardInterrupt()))
    monkeypatch.setattr(load, "audit", raises(DefiniteError("E_STORE_REFUSED", "the log is [damaged]")))
    with pytest.raises(KeyboardInterrupt):
        run.load(orders=20)
    assert "cannot be judged: E_STORE_REFUSED: the log is [damaged]" in run.said


def test_nothing_is_judged_where_nothing_was_reached(run, monkeypatch):
    monkeypatch.setattr(load, "connect", raises(IndefiniteError("E_UNREACHABLE", "nobody is there")))
    with pytest.raises(IndefiniteError):
        run.load(orders=20)
    assert run.said == ""


def test_the_books_are_open_before_anything_is_struck(run, monkeypatch):
    begun_at = []

    @contextmanager
    def strike(_text, _deployment, _console):
        begun_at.append(list(run.keys))
        yield SimpleNamespace(watch=lambda _key, _began_ns, _ended_ns: None), beside.Struck()

    monkeypatch.setattr(load, "beside", strike)
    summary = run.load(orders=5, chaos="seed=1,seconds=20,faults=kill")
    assert summary.chaos.strikes == []
    assert all("-books-" in key for key in begun_at[0])
    assert len(begun_at[0]) == len(run.keys) - 5 > 0


def test_strikes_begin_with_the_first_outcome(tmp_path):
    DataDirectory(tmp_path).write_record(DeploymentRecord(
        DIRECTORY_SCHEMA, 1, "serving", "space", "run", "a:b", [], {}, this_process(), False, ["inventory"], 1))
    deployment = SimpleNamespace(data_dir=tmp_path, settings=Settings(), actor=raises(IndefiniteError("E_UNREACHABLE", "gone")))
    with beside.beside("seed=1,seconds=20,faults=ray-kill", deployment, Console(file=io.StringIO())) as (outcomes, struck):
        pause_s = struck.plan.steps[0].pause_ms / 1_000
        time.sleep(pause_s + 0.1)
        assert struck.strikes == []
        told_ns = time.perf_counter_ns()
        outcomes.watch("key", told_ns - 5, told_ns)
        assert wait_until(lambda: struck.strikes, pause_s + 5)
    assert struck.strikes[0].at_ns > told_ns


def test_a_plan_into_which_nothing_fits_is_refused_before_anything_is_placed(run):
    with pytest.raises(DefiniteError, match="no fault fits"):
        run.load(orders=5, chaos="seconds=0")
    assert not run.path.exists()


def test_the_result_of_a_search_says_how_long_its_steps_were(run, monkeypatch):
    monkeypatch.setattr(load, "find_capacity", lambda plan, bound, step, _console: Capacity(bound, step(
        replace(plan, capacity_p99_ms=None, warm_up_s=0.1, arrivals=Arrivals(40.0, 0.6))).orders))
    settings = run.load(capacity_p99_ms=50.0).to_json()["settings"]
    assert [settings[name] for name in ("capacity_p99_ms", "warm_up_s", "duration_s", "rate_per_s")] == [50.0, 0.1, 0.5, 40.0]
