"""Arrival traces: what a file may look like, how it is played, and how processes share it."""

from __future__ import annotations

import gzip
from itertools import pairwise

import pytest

from loadgen.arrivals import NS, Arrivals, read_arrivals
from loadgen.options import parse_arrivals
from orchestrator.errors import DefiniteError


def trace(tmp_path, text, name="arrivals.csv"):
    path = tmp_path / name
    with gzip.open(path, "wt") if name.endswith(".gz") else path.open("w") as file:
        file.write(text)
    return path


def seconds(schedule):
    return [at_ns / NS for at_ns in schedule.offsets()]


def test_rows_are_arrivals_at_their_times_from_the_first_one(tmp_path):
    path = trace(tmp_path, "time\n10.5\n11\n11\n14.5\n")
    found = read_arrivals(path)
    assert seconds(found) == [0.0, 0.5, 0.5, 4.0]
    assert (found.duration_s, found.rate_per_s, found.expected >= 4) == (4.0, 1.0, True)


def test_times_may_be_iso_with_any_number_of_decimals_and_further_columns_are_ignored(tmp_path):
    text = "TIMESTAMP,ContextTokens\n2023-11-16 18:15:46.6805900,374\n2023-11-16 18:15:50.9951690,396\n"
    path = trace(tmp_path, text, "a.csv.gz")
    assert seconds(read_arrivals(path)) == pytest.approx([0.0, 4.314579], abs=1e-6)


def test_a_column_of_counts_spreads_arrivals_over_their_interval(tmp_path):
    path = trace(tmp_path, "minute_utc,requests\n1998-07-07 17:00,3\n1998-07-07 17:01,0\n1998-07-07 17:02,5\n")
    found = read_arrivals(path, seed=4)
    times = seconds(found)
    assert (len([t for t in times if t < 60]), len([t for t in times if 120 <= t < 180]), len(times)) == (3, 5, 8)
    assert found.duration_s == 180.0  # the last interval is as long as the one before
    assert times == sorted(times) == seconds(read_arrivals(path, seed=4)) != seconds(read_arrivals(path, seed=5))


def test_it_is_played_in_another_time_and_at_another_rate_with_its_shape(tmp_path):
    path = trace(tmp_path, "second,count\n" + "".join(f"{n},{10 if n % 10 else 100}\n" for n in range(100)))
    found = read_arrivals(path, rate_per_s=400.0, duration_s=10.0)
    times = seconds(found)
    assert (found.duration_s, found.rate_per_s) == (10.0, 400.0)
    assert 3_900 < len(times) < 4_100
    assert len(times) <= found.expected
    assert 0.0 <= times[0] < times[-1] < 10.0
    assert sum(t < 0.1 for t in times) > 5 * sum(0.1 <= t < 0.2 for t in times)  # the first second had ten times as many


def test_single_arrivals_that_are_multiplied_stay_and_get_company_before_the_next_one(tmp_path):
    path = trace(tmp_path, "time\n0\n1\n2\n")
    times = seconds(read_arrivals(path, rate_per_s=4.5))
    assert [t for t in times if t in {0.0, 1.0, 2.0}][:3] == [0.0, 1.0, 2.0]
    assert len(times) == 9


def test_fewer_than_recorded_are_chosen_by_the_seed(tmp_path):
    path = trace(tmp_path, "time\n" + "".join(f"{n / 100}\n" for n in range(1_001)))
    times = seconds(read_arrivals(path, rate_per_s=20.0))
    assert 150 < len(times) < 250
    assert times == seconds(read_arrivals(path, rate_per_s=20.0))


def test_processes_share_a_trace_and_a_rate(tmp_path):
    found = read_arrivals(trace(tmp_path, "second,count\n0,50\n1,50\n"))
    parts = [found.share(index, 3) for index in range(3)]
    assert sorted(at for part in parts for at in part.offsets()) == list(found.offsets())
    assert sum(part.rate_per_s for part in parts) == pytest.approx(found.rate_per_s)
    poisson = [Arrivals(300.0, 10.0).share(index, 3) for index in range(3)]
    assert len({next(part.offsets()) for part in poisson}) == 3
    assert 2_700 < sum(len(list(part.offsets())) for part in poisson) < 3_300
    assert Arrivals(300.0, 10.0).share(0, 1) == Arrivals(300.0, 10.0)


def test_poisson_arrivals_rise_and_end_in_time():
    times = seconds(Arrivals(1_000.0, 2.0, 3))
    assert all(a <= b for a, b in pairwise(times))
    assert times[-1] <= 2.0


@pytest.mark.parametrize(("text", "told"), [
    ("", "two rows"), ("time\n1\n", "two rows"), ("time\n1\n1\n", "one time"), ("time\n2\n1\n", "row 3: it is earlier"),
    ("time\n1\nx\n", "row 3"), ("t,count\n1,2\n2,-1\n", "-1 arrivals"), ("t,count\n1,2\n2\n", "row 3"),
    ("t,count\n0,1000000000\n1000,1000000000\n", "name a lower --rate"), ("t,count\n0,0\n1,0\n", "no arrivals"),
    ("time\n1\n\n1.5\n0.5\n", "row 5: it is earlier"), ("time\n1\n" + "x" * 140_000, "row 3: field larger")])
def test_a_file_that_says_no_such_thing_is_refused(tmp_path, text, told):
    with pytest.raises(DefiniteError, match=told) as caught:
        read_arrivals(trace(tmp_path, text))
    assert caught.value.code == "E_INVALID_INPUT"


def test_a_file_without_arrivals_is_refused_by_its_name_whatever_the_rate(tmp_path):
    path = trace(tmp_path, "t,count\n0,0\n1,0\n")
    with pytest.raises(DefiniteError, match=f"--arrivals: {path}: it has no arrivals"):
        read_arrivals(path, rate_per_s=10.0)


def test_empty_rows_are_none(tmp_path):
    assert seconds(read_arrivals(trace(tmp_path, "time\n0\n\n1\n3\n\n"))) == [0.0, 1.0, 3.0]


@pytest.mark.parametrize("damage", [lambda whole: whole[:-20], lambda whole: whole[:20] + b"\xff" * 20 + whole[40:]])
def test_a_damaged_archive_is_refused(tmp_path, damage):
    path = trace(tmp_path, "time\n" + "".join(f"{n}\n" for n in range(1_000)), "a.csv.gz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DefiniteError, match=r"--arrivals: .*a\.csv\.gz: "):
        read_arrivals(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DefiniteError, match="--arrivals"):
        read_arrivals(tmp_path / "none.csv")


def test_options_make_a_schedule(tmp_path):
    path = trace(tmp_path, "time\n0\n1\n2\n")
    assert parse_arrivals(None, None, 1) is None
    assert parse_arrivals(None, 5.0, 1) is None  # a closed loop for so long
    assert parse_arrivals(50.0, None, 3, warm_up_s=2.0) == Arrivals(50.0, 12.0, 3)
    found = parse_arrivals(None, 5.0, 1, warm_up_s=1.0, trace=path)
    assert (found.duration_s, found.rate_per_s) == (6.0, 0.5)
