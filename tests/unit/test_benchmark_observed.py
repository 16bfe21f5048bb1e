"""What the benchmarks read from outside: what passed between two looks, when a shard served again, why a run failed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import pytest

from actors.ledger import Row, RowState
from actors.store import Store, create_store
from benchmarks import orders, verdict
from benchmarks.asynchronous import AsyncPort
from benchmarks.direct.stores import DirectStores
from benchmarks.execution import FailedRunError, execute
from benchmarks.observed import Snapshot, figures, look, size_of
from benchmarks.plan import Measured, Plan, System
from benchmarks.systems.recovery import last_prepared, served_again
from benchmarks.threaded import ThreadedPort
from loadgen.tally import Tally
from loadgen.workload import PLACE_ORDER, Told
from orchestrator.app import load_app
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.outcome import Handle, Outcome, OutcomeKind
from orchestrator.protocol.identifiers import make_id

BEFORE = Snapshot(
    rss={"log": 100}, written={"log": 1_000, "gone": 5}, commits={"log": 10, "payment": 4}, size={"log": 500, "payment": 100},
    appends=3, oldest_ms={"log": 1_000, "payment": 2_000})
AFTER = Snapshot(
    rss={"log": 150}, written={"log": 3_000, "new": 9}, commits={"log": 30, "payment": 14}, size={"log": 900, "payment": 300},
    appends=13, oldest_ms={"log": 61_000, "shipping": 2_000})


def test_what_passed_between_two_looks() -> None:
    found = figures(BEFORE, AFTER, 10)
    assert found["commits_per_order"] == pytest.approx(3.0)
    assert found["commits_per_order.payment"] == pytest.approx(1.0)
    assert found["bytes_on_disk_per_order"] == pytest.approx(60)
    assert found["bytes_written_per_order"] == pytest.approx(200), "a process that was not seen twice does not count"
    assert found["log_appends_per_order"] == pytest.approx(1.0)
    assert {name: value for name, value in found.items() if name.startswith("forgotten_s")} == {"forgotten_s.log": 60.0}


def test_the_oldest_that_a_database_knows(tmp_path: Path) -> None:
    app = load_app("actors.orders:app")
    with DirectStores(tmp_path, lambda: 5_000) as stores:
        assert look([], tmp_path, app).oldest_ms == {}
        stores.open_books("books", {"stock": [], "accounts": [{"account": "ann", "amount_minor": 5}]})
        found = look([], tmp_path, app).oldest_ms
    assert found == {"log": 5_000, "inventory": 5_000, "payment": 5_000}


def test_the_ballast_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "a.sqlite").write_bytes(b"x" * 70)
    (tmp_path / "services" / "a.sqlite.ballast").write_bytes(b"x" * 1_000)
    assert size_of(tmp_path) == 70


def test_a_shard_serves_again_when_the_log_gives_it_its_partitions(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    lines = [("2026-01-01T00:00:01.000Z", "partitions_taken"), ("2026-01-01T00:00:05.000Z", "serving"),
             ("2026-01-01T00:00:06.500Z", "partitions_taken")]
    text = "\n".join(json.dumps({"time": at, "event": event}) for at, event in lines)
    (tmp_path / "logs" / "log-7.jsonl").write_text(text)
    killed_s = 1_767_225_604.0  # 00:00:04
    assert served_again(tmp_path, killed_s) == pytest.approx(killed_s + 2.5)
    with pytest.raises(TimeoutError):
        served_again(tmp_path, killed_s + 10)


def test_when_the_last_open_one_was_driven_again(tmp_path: Path) -> None:
    path = DataDirectory(tmp_path).service_path("payment")
    path.parent.mkdir()
    create_store(path, "payment")
    store = Store(path, "payment", "run")
    row = Row(make_id(1, 1, 1, 1), "authorize", "authorize", RowState.PREPARED, b"", b"", b"", "", "", 1, 4_000, 0)
    later = msgspec.structs.replace(row, transaction=make_id(2, 1, 1, 2), prepared_ms=6_500)
    rows = {(each.transaction, each.step): each for each in (later, row)}
    store.begin()
    store.write(rows, {}, {}, {})
    store.commit(rows, {})
    store.close()
    assert last_prepared(tmp_path, "payment") == pytest.approx(6.5)


def one(*, orders: int = 1, committed: int = 1) -> Measured:
    return Measured(ok=True, orders=orders, committed=committed, wall_s=1)


@pytest.mark.parametrize(("event", "at", "ok"), [
    ("serving", "00:00:04", True), ("indirect", "00:00:04", False), ("indirect", "00:00:01", True)])
def test_what_is_called_direct_must_not_have_gone_through_ray(tmp_path: Path, event: str, at: str, *, ok: bool) -> None:
    (tmp_path / "logs").mkdir()
    line = {"time": f"2026-01-01T{at}.000Z", "level": "WARNING", "event": event}
    (tmp_path / "logs" / "client-7.jsonl").write_text(json.dumps(line) + "\n")
    measured = one()
    verdict.judge_plane(measured, tmp_path, 1_767_225_603_000)  # 00:00:03: what was before is another run's
    assert measured.ok is ok
    assert bool(measured.notes) is not ok


@pytest.mark.parametrize(("asked", "committed", "ok"), [(10, 10, True), (11, 10, False), (10, 9, False)])
def test_a_run_counts_only_if_all_that_was_asked_for_has_committed(asked: int, committed: int, *, ok: bool) -> None:
    measured = one(orders=10, committed=committed)
    verdict.judge_done(measured, asked)
    assert measured.ok is ok
    assert bool(measured.notes) is not ok


class Full:
    """A port that takes every third order, and refuses or loses the others."""

    def __init__(self) -> None:
        self._asked = itertools.count()

    def submit(self, saga: str, data: object, *, key: str) -> Handle:
        number = next(self._asked)
        if number % 3 == 1:
            raise DefiniteError(ErrorCode.OVERLOADED, "full")
        if number % 3 == 2:
            raise IndefiniteError(ErrorCode.UNREACHABLE, "lost")
        handle = Handle(key, 0, lambda same: same)
        handle.settle(Outcome(key, key, OutcomeKind.COMMITTED, ""), None)
        return handle


def test_an_open_loop_counts_only_if_all_that_arrived_has_committed() -> None:
    plan = Plan(orders=30, rate_per_s=3_000)
    tally = orders.measure(Full(), orders.workload_of(plan), plan)
    count, committed = orders.told(tally)
    assert 0 < count == committed < orders.asked(plan, tally) == tally.orders.told.total()
    measured = one(orders=count, committed=committed)
    verdict.judge_done(measured, orders.asked(plan, tally))
    assert not measured.ok
    assert "have an outcome" in measured.notes[0]


def test_what_a_closed_loop_was_asked_for_is_what_its_plan_says() -> None:
    assert orders.asked(Plan(orders=30), Tally()) == 30


def test_an_open_loop_tells_how_late_it_was_itself() -> None:
    plan = Plan(orders=30, rate_per_s=3_000)
    found = orders.lateness_ms(orders.measure(Full(), orders.workload_of(plan), plan))
    assert 0 < found["lateness_ms.p99"] <= found["lateness_ms.max"]
    assert orders.lateness_ms(Tally()) == {}, "nothing is due in a closed loop"


@pytest.mark.parametrize("adds_up", [True, False])
def test_the_others_books_must_add_up(*, adds_up: bool) -> None:
    measured = one()
    verdict.judge_books(measured, adds_up=adds_up)
    assert measured.ok is adds_up
    assert bool(measured.notes) is not adds_up


def test_a_run_that_never_came_to_rest_does_not_count() -> None:
    measured = one()
    verdict.judge_rest(measured, 60, rested=True)
    assert measured.ok
    verdict.judge_rest(measured, 60, rested=False)
    assert not measured.ok


def test_a_run_that_fails_says_why() -> None:
    with pytest.raises(FailedRunError, match="floor ended with exit code 1") as found:
        execute(Plan(system=System.FLOOR, orders=1, lines="many"))
    assert "--lines" in str(found.value)


def answers(key: str, data: dict[str, object]) -> str:
    """A system that refuses every other order, and breaks at one."""
    number = int(key.rpartition("-")[0].rpartition("-")[2]) if key.count("-") > 1 else 0
    if number == 500_004:
        raise ValueError("broken")
    return "REFUSED" if number % 2 else ""


async def answers_later(key: str, data: dict[str, object]) -> str:
    return answers(key, data)


@pytest.mark.parametrize("threads", [True, False])
def test_the_ports_tell_what_the_other_systems_answer(*, threads: bool) -> None:
    workload = orders.workload_of(Plan(orders=10))
    port = ThreadedPort({PLACE_ORDER: answers}, 2) if threads else AsyncPort({PLACE_ORDER: answers_later})
    with port:
        tally = orders.place(port, workload, 0, 4, 2)
    assert orders.told(tally) == (4, 2)
    assert tally.orders.told[Told.ABORTED] == 2
    assert tally.orders.aborted_by_code == {"REFUSED": 2}


def test_what_another_system_raises_is_of_unknown_outcome() -> None:
    workload = orders.workload_of(Plan(orders=10))
    tried: list[str] = []

    def broken_at_first(key: str, data: dict[str, object]) -> str:
        tried.append(key)
        return answers(key, data) if len(tried) == 1 else ""

    with ThreadedPort({PLACE_ORDER: broken_at_first}, 1) as port:
        tally = orders.place(port, workload, 4, 1, 1)
    assert orders.told(tally) == (1, 1)
    assert tally.repeats == 1
    assert len(tried) == 2


def test_a_range_of_orders_is_placed_once() -> None:
    workload = orders.workload_of(Plan(orders=10))
    feed = orders.OrderRange(workload, 3, 2)
    taken = [feed.take(), feed.take(), feed.take()]
    assert [work.number if work else None for work in taken] == [3, 4, None]
    assert feed.again(3) == taken[0]
