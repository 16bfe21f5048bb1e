"""Known anomalies are found and named; histories that some serial order explains are not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.checker.cycles import CYCLES_MAX, Access, Anomaly, Transaction, find_anomalies


def txn(name, reads="", writes="", after="", aborted=False):
    def accesses(text):
        return [Access(word[0], int(word[1:])) for word in text.split()]

    return Transaction(name, accesses(reads), accesses(writes), after.split(), aborted)


def found(*transactions):
    return [(one.anomaly, set(one.names)) for one in find_anomalies(transactions)]


@pytest.mark.parametrize(("transactions", "anomaly"), [
    ([txn("a", writes="x1 y2"), txn("b", writes="x2 y1")], Anomaly.G0),
    ([txn("a", writes="x1", aborted=True), txn("b", reads="x1")], Anomaly.G1A),
    ([txn("a", writes="x1 x2"), txn("b", reads="x1", after="a")], Anomaly.G1B),
    ([txn("a", reads="y1", writes="x1"), txn("b", reads="x1", writes="y1")], Anomaly.G1C),
    ([txn("a", reads="x0", writes="x1"), txn("b", reads="x0", writes="x2")], Anomaly.LOST_UPDATE),
    ([txn("a", writes="x1 y1"), txn("b", reads="x1 y0")], Anomaly.G_SINGLE),
    ([txn("a", reads="x0 y0", writes="x1"), txn("b", reads="x0 y0", writes="y1")], Anomaly.G2),
])
def test_an_anomaly_is_found_and_named(transactions, anomaly):
    assert (anomaly, {"a", "b"}) in found(*transactions)


@pytest.mark.parametrize("transactions", [
    [],
    [txn("a", reads="x0", writes="x1"), txn("b", reads="x1", writes="x2"), txn("c", reads="x2")],
    [txn("a", writes="x1 y1"), txn("b", reads="x1 y1"), txn("c", reads="x0 y0")],
    [txn("a", writes="x1", aborted=True), txn("b", reads="x0", writes="x2")],
    [txn("a", writes="x1 x2"), txn("b", reads="x2")],
    [txn("a", writes="x1"), txn("b", writes="y1"), txn("r", reads="x1 y0")],  # concurrent: any order explains it
])
def test_a_history_with_a_serial_order_is_clean(transactions):
    assert found(*transactions) == []


def test_a_reader_that_goes_back_in_time_is_found():
    writer, first, second = txn("w", writes="x1"), txn("r1", reads="x1"), txn("r2", reads="x0", after="r1")
    assert found(writer, first, second) == [(Anomaly.G_SINGLE, {"w", "r1", "r2"})]


def test_a_reader_that_misses_an_earlier_commit_is_found():
    assert found(txn("a", writes="x1"), txn("b", writes="y1", after="a"), txn("r", reads="x0 y1")) == [
        (Anomaly.G_SINGLE, {"a", "b", "r"})]


def test_the_cycle_with_one_rw_is_preferred():
    skew = [txn("a", reads="x0 y0", writes="x1 z1"), txn("b", reads="x0 y0 z1", writes="y1")]
    assert found(*skew)[0][0] is Anomaly.G_SINGLE


def test_a_cycle_says_how_it_goes():
    (cycle,) = find_anomalies([txn("a", reads="y1", writes="x1"), txn("b", reads="x1", writes="y1")])
    assert cycle.text in ("a -wr x-> b -wr y-> a", "b -wr y-> a -wr x-> b")


def test_no_more_cycles_than_a_person_reads():
    lost = [txn(f"t{number}", reads="x0", writes=f"x{number + 1}") for number in range(50)]
    assert len(find_anomalies(lost)) == CYCLES_MAX


@given(st.lists(st.lists(st.tuples(st.sampled_from("xyz"), st.booleans()), max_size=4), max_size=12), st.randoms())
def test_what_ran_serially_is_clean(plans, random):
    versions = dict.fromkeys("xyz", 0)
    history = []
    for number, plan in enumerate(plans):
        reads, writes = {}, {}
        for key, is_write in plan:
            if key not in writes:
                reads.setdefault(key, versions[key])
            if is_write:
                versions[key] += 1
                writes[key] = versions[key]
        accesses = [[Access(*one) for one in some.items()] for some in (reads, writes)]
        history.append(Transaction(f"t{number}", *accesses))
    for first, then in pairwise(history):
        then.after.append(first.name)
    random.shuffle(history)
    assert find_anomalies(history) == []


@given(st.integers(2, 6), st.randoms())
def test_a_ring_of_skewed_writes_is_found(size, random):
    ring = [
        Transaction(f"t{at}", [Access(f"k{(at + 1) % size}", 0)], [Access(f"k{at}", 1)]) for at in range(size)]
    random.shuffle(ring)
    ((anomaly, names),) = found(*ring)
    assert anomaly is Anomaly.G2
    assert len(names) == size
