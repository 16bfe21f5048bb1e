"""W3C Trace Context at the borders, and what an older reader makes of the new fields."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.protocol.messages import Command, Kind, SubmitRequest
from orchestrator.protocol.records import Begun, encode
from orchestrator.protocol.traceparent import TraceParent, parse, problem_of, span_id_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_what_is_sampled_and_what_is_not() -> None:
    found = parse(GOOD)
    assert found == TraceParent(TRACE, SPAN, 1)
    assert found.sampled
    assert not found.is_root
    assert str(found) == GOOD
    unsampled = parse(f"00-{TRACE}-{SPAN}-02")
    assert unsampled is not None
    assert not unsampled.sampled


def test_a_later_version_is_read_by_what_this_one_knows() -> None:
    found = parse(f"cc-{TRACE}-{SPAN}-fd-what-the-future-will-be-like")
    assert found is not None
    assert str(found) == GOOD


@pytest.mark.parametrize("text", [
    "", "nonsense", GOOD.upper(), GOOD[:-1], GOOD + "0", GOOD + "-more", f"ff-{TRACE}-{SPAN}-01", GOOD + "\n",
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{SPAN}-0g", f"01-{TRACE}-{SPAN}-01-" + "x" * 300, None, 7, GOOD.encode(),
    GOOD.replace("4", "\u0664"),
])
def test_what_is_no_traceparent(text: object) -> None:
    assert parse(text) is None
    assert "traceparent" in str(problem_of(text))


def test_a_caller_has_to_name_its_span() -> None:
    rootless = f"00-{TRACE}-{'0' * 16}-01"
    assert problem_of(rootless)
    assert problem_of(GOOD) is None
    found = parse(rootless)  # how the log keeps a transaction that is the root of its trace
    assert found is not None
    assert found.is_root


@given(st.text())
def test_no_text_raises(text: str) -> None:
    found = parse(text)
    assert found is None or parse(str(found)) == found


def test_span_ids_are_derived() -> None:
    ids = {span_id_of("t"), span_id_of("t", "a"), span_id_of("t", "b"), span_id_of("u", "a")}
    assert len(ids) == 4
    assert all(len(one) == 16 and int(one, 16) for one in ids)
    assert span_id_of("t", "a") == span_id_of("t", "a")


class OldCommand(msgspec.Struct, frozen=True, array_like=True):
    transaction: str
    step: str
    kind: Kind
    attempt: int
    epoch: int
    operation: str
    request: bytes = b""


class OldBegun(msgspec.Struct, frozen=True, array_like=True, tag="begun"):
    transaction: str
    key: str
    fingerprint: bytes
    saga: str
    version: int
    input: bytes
    began_ms: int
    deadline_ms: int
    duration_ms: int
    business_key: str = ""


def test_older_readers_skip_the_new_field_and_newer_ones_fill_it_in() -> None:
    command = Command("t", "s", Kind.PREPARE, 1, 1, "o", b"r", GOOD)
    old = msgspec.msgpack.decode(encode(command), type=OldCommand)
    assert old == OldCommand("t", "s", Kind.PREPARE, 1, 1, "o", b"r")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=Command).traceparent == ""
    begun = Begun("t", "k", b"f", "g", 1, b"i", 1, 2, 1, "b", GOOD)
    former = msgspec.msgpack.decode(encode(begun), type=OldBegun)
    assert former.business_key == "b"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(former), type=Begun).traceparent == ""
    assert SubmitRequest(1, "k", "s", b"", 0).traceparent == ""


def test_a_place_below_another_span_is_in_the_same_trace() -> None:
    place = parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    below = place.under("00f067aa0ba902b7")
    assert str(below) == "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
