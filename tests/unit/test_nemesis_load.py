"""What a chaos run places, records and repeats; and which of its options go together."""

from __future__ import annotations

import zlib
from collections import Counter

import pytest

from loadgen.history import Call, HistoryWriter, read_history
from loadgen.history import Told as Heard
from loadgen.nemesis.beside import PlanText
from loadgen.nemesis.choice import choose
from loadgen.nemesis.marks import Marks
from loadgen.nemesis.orders import PROBES, EndlessFeed, Probes, make_workload, scarce_books
from loadgen.nemesis.partitions import PartitionOptions
from loadgen.nemesis.plan import ON_ACTORS, Kind
from loadgen.nemesis.run import ChaosOptions
from loadgen.nemesis.witness import CANCELLED_ONE_IN, TWICE_ONE_IN, Witness
from loadgen.nemesis.zombies import ZombieOptions
from loadgen.shapes import LineRange
from loadgen.workload import Told
from orchestrator.config import Transport
from orchestrator.errors import DefiniteError
from orchestrator.outcome import Outcome, OutcomeKind
from orchestrator.protocol.identifiers import partition_of_key


@pytest.fixture(scope="module")
def workload():
    return make_workload("run", 3, 50, LineRange(1, 2))


class Handle:
    def __init__(self, key, status=OutcomeKind.COMMITTED):
        self.key, self._status = key, status

    def outcome(self, timeout_s=None):
        return Outcome(f"id-{self.key}", self.key, self._status, "" if self._status is OutcomeKind.COMMITTED else "CODE")

    def add_done_callback(self, callback):
        callback(self)


class Client:
    """Answers at once; cancels come too late."""

    def __init__(self):
        self.submitted, self.cancelled = Counter(), Counter()

    def submit(self, saga, data, *, key):
        self.submitted[key] += 1
        return Handle(key)

    def cancel(self, *, key):
        self.cancelled[key] += 1
        return Handle(key)


def key_with(one_in, rest):
    return next(key for key in (f"key-{n}" for n in range(10_000)) if zlib.crc32(key.encode()) % one_in == rest)


def test_every_life_of_a_driver_places_the_same_orders_under_the_same_keys(workload):
    again = make_workload("run", 3, 50, LineRange(1, 2))
    assert [workload.work(n) for n in range(50)] == [again.work(n) for n in range(50)]
    feed = EndlessFeed(workload, 48)
    assert [feed.take().number, feed.take().number, feed.take()] == [48, 49, None]  # the rest are probes


def test_a_feed_that_drains_gives_nothing_more(workload):
    feed = EndlessFeed(workload, 0)
    assert feed.take() == feed.again(0)
    feed.draining = True
    assert feed.take() is None
    feed.settle(0, Told.ABORTED, "CODE")
    assert (feed.told[Told.ABORTED], feed.aborted_by_code["CODE"]) == (1, 1)


def test_a_probe_is_an_order_that_nobody_else_places_and_fits_the_shard(workload):
    probes = Probes(workload, 0, 2)
    taken = [probes.take(actor) for actor in ("log", "shard-0", "shard-1", "payment")]
    assert len({work.key for work in taken}) == 4
    assert all(50 <= work.number < 50 + PROBES for work in taken)
    assert [partition_of_key(work.key) % 2 for work in taken[1:3]] == [0, 1]
    after = Probes(workload, probes.taken, 2).take("log")
    assert after.key not in {work.key for work in taken}


def test_the_books_leave_too_little_of_some_goods(workload):
    enough = {line["sku"]: line["quantity"] for books in workload.opening_books() for line in books["stock"]}
    scarce = {line["sku"]: line["quantity"] for books in scarce_books(workload) for line in books["stock"]}
    short = [sku for sku, quantity in scarce.items() if quantity < enough[sku]]
    assert 0 < len(short) < len(enough) / 4


def test_everything_that_is_asked_is_recorded(tmp_path):
    client, path = Client(), tmp_path / "driver.jsonl"
    plain, twice, cancelled = "key-0", key_with(TWICE_ONE_IN, 0), key_with(CANCELLED_ONE_IN, 1)
    with HistoryWriter(path, "driver-1") as history:
        witness = Witness(client, history, Marks(2, lambda *_: None))
        for key in (plain, twice, cancelled):
            witness.submit("place_order", {"amount_minor": 5}, key=key)
    assert client.submitted == {plain: 1, twice: 2, cancelled: 1}
    assert client.cancelled == {cancelled: 1}
    assert witness.counts == {"repeated": 1, "cancelled": 1}
    operations = read_history([path]).operations
    assert [(one.call, one.key) for one in operations] == [
        (Call.SUBMIT, plain), (Call.SUBMIT, twice), (Call.SUBMIT, twice), (Call.SUBMIT, cancelled), (Call.CANCEL, cancelled)]
    assert {one.told for one in operations} == {Heard.COMMITTED}


@pytest.mark.parametrize(("text", "parsed"), [
    ("usual", PlanText()),
    ("seed=7", PlanText(seed=7)),
    ("seed=7,seconds=30,faults=kill+stop", PlanText(7, 30.0, "kill,stop")),
])
def test_a_plan_as_text(text, parsed):
    assert PlanText.parse(text) == parsed
    kinds = {step.kind for step in parsed.plan(["log", "payment", "shard-0"]).steps}
    assert kinds <= ({Kind.KILL, Kind.STOP} if parsed.faults else ON_ACTORS)


@pytest.mark.parametrize("text", ["", "seed", "seed=x", "minutes=3", "faults=gcs", "faults=all"])
def test_a_plan_that_cannot_be_read_is_refused(text):
    with pytest.raises(DefiniteError):
        PlanText.parse(text)


ASKED = {"minutes": 1.0, "faults": None, "disk_mb": None, "rpc_percent": 0, "zombies": None, "partitions": None,
         "seed": 9, "data": None, "shards": 3, "concurrency": 64, "lines": "1-2",
         "transport": Transport.DIRECT}


@pytest.mark.parametrize(("more", "kind"), [
    ({"faults": "kill,all", "rpc_percent": 2}, ChaosOptions),
    ({"transport": Transport.RAY}, ChaosOptions),
    ({"zombies": 20}, ZombieOptions),
    ({"zombies": 20, "transport": Transport.RAY}, ZombieOptions),
    ({"partitions": 4}, PartitionOptions),
])
def test_a_run_tells_the_command_that_repeats_it(more, kind):
    chosen = choose("app", **ASKED | more).args[0]
    assert isinstance(chosen, kind)
    words = chosen.replay().split()
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert (options["--seed"], options["--shards"], options["--concurrency"], options["--lines"]) == ("9", "3", "64", "1-2")
    for name, value in more.items():
        told = options["--" + name.replace("_", "-")]
        assert sorted(told.split(",")) == sorted(str(value).split(","))


@pytest.mark.parametrize("more", [
    {"zombies": 1, "partitions": 1}, {"zombies": 1, "faults": "kill"}, {"partitions": 1, "disk_mb": 512},
    {"zombies": 1, "rpc_percent": 1}])
def test_options_that_do_not_go_together_are_refused(more):
    with pytest.raises(DefiniteError, match=r"do not go|of their own"):
        choose("app", **ASKED | more)


def test_failing_calls_are_asked_for_in_the_environment():
    calm, failing = ChaosOptions(app="").environment(), ChaosOptions(app="", rpc_percent=3).environment()
    assert "RAY_testing_rpc_failure" not in calm
    assert '"req_failure_prob": 3' in failing["RAY_testing_rpc_failure"]
