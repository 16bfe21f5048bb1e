"""When a participant asks for the decision of what it holds."""

from itertools import pairwise

from actors.doubt import Doubts

KEY = ("t1", "reserve")


def test_a_row_is_due_once_it_was_unheard_of_for_long():
    doubts = Doubts(5_000)
    doubts.heard(KEY, 0)
    assert doubts.due(4_999, 10) == []
    assert doubts.due(5_000, 10) == [KEY]


def test_hearing_of_it_again_starts_the_time_anew():
    doubts = Doubts(5_000)
    doubts.heard(KEY, 0)
    doubts.heard(KEY, 3_000)
    assert doubts.due(7_000, 10) == []
    assert doubts.due(8_000, 10) == [KEY]


def test_asked_again_for_ever_with_a_growing_delay():
    doubts = Doubts(1_000)
    doubts.heard(KEY, 0)
    asked = [now for now in range(0, 600_000, 100) if doubts.due(now, 10)]
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert len(asked) > 8
    assert gaps[0] >= 500
    assert 30_000 <= max(gaps) <= 61_000
    assert gaps[-1] >= 30_000


def test_settled_rows_are_forgotten():
    doubts = Doubts(1_000)
    doubts.heard(KEY, 0)
    doubts.settled(KEY)
    doubts.heard(("t2", "reserve"), 0)
    assert doubts.due(1_000, 10) == [("t2", "reserve")]
    doubts.settled(("t2", "reserve"))
    assert len(doubts) == 0
    assert doubts.due(10**9, 10) == []


def test_a_restart_spreads_the_questions():
    doubts = Doubts(5_000)
    doubts.recovered([(f"t{n}", "s") for n in range(200)], 0)
    assert doubts.due(5_000, 1_000) == []
    early, late = doubts.due(7_500, 1_000), doubts.due(10_001, 1_000)
    assert len(early) > 50
    assert len(late) > 50
    assert len({*early, *late}) == 200


def test_no_more_than_asked_for():
    doubts = Doubts(1)
    for number in range(10):
        doubts.heard((f"t{number}", "s"), 0)
    assert len(doubts.due(100, 4)) == 4
    assert len(doubts.due(101, 100)) >= 6
