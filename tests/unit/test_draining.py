"""A shard that is drained begins nothing new; what it has accepted goes on, and is told to whoever repeats it."""

from __future__ import annotations

import pickle

import msgspec

from orchestrator.errors import RefusedForNowError
from orchestrator.outcome import from_message
from orchestrator.protocol.messages import Kind, OutcomeMessage, OutcomeStatus, Status
from orchestrator.protocol.records import Decision
from unit.core_alone import Alone, commands, opened, outcomes, told


def draining(lease_ms: int = 1_000) -> Alone:
    alone = Alone()
    alone.core.drain_until_ms = alone.now_ms + lease_ms
    return alone


def test_what_is_new_is_refused_unless_the_log_knows_its_key() -> None:
    alone = draining()
    effects = alone.submit(1, "new")
    assert (effects.records, effects.outcomes) == ([], [])
    (lookup,) = effects.lookups
    (refusal,) = outcomes(alone.core.loaded(lookup, None, alone.now_ms))
    assert (refusal.status, refusal.code, refusal.retry_after_ms) == (OutcomeStatus.REJECTED, "E_DRAINING", 1_000)


def test_a_repeat_of_what_was_accepted_is_answered() -> None:
    alone = draining()
    (lookup,) = alone.submit(1, "q1").lookups
    stored = opened(1, Decision.ABORT, ended=True)
    begun = msgspec.structs.replace(stored.begun, fingerprint=lookup.joiner.fingerprint)
    stored = msgspec.structs.replace(stored, begun=begun)
    assert told(alone.core.loaded(lookup, stored, alone.now_ms)) == [(1, "ABORTED", "E_TIMEOUT")]


def test_what_is_open_ends_and_is_joined() -> None:
    alone = Alone()
    prepared = alone.begun(key="k")
    alone.core.drain_until_ms = alone.now_ms + 1_000
    assert alone.submit(2, "k").outcomes == []  # it has joined
    (prepare,) = commands(prepared)
    alone.stored(alone.say(prepare, Status.YES))
    assert prepare.kind is Kind.PREPARE
    assert alone.core.open_count == 1  # decided; the commit is on its way


def test_the_lease_ends_by_itself() -> None:
    alone = draining(lease_ms=500)
    assert alone.submit(1, "early").records == []
    alone.tick(500)
    assert len(alone.submit(2, "late").records) == 1


def test_the_caller_meets_a_typed_error_with_a_time() -> None:
    message = OutcomeMessage(1, "", OutcomeStatus.REJECTED, [], "E_DRAINING", "about to be stopped", retry_after_ms=1_000)
    outcome, error = from_message(message, "k")
    assert outcome is None
    assert isinstance(error, RefusedForNowError)
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.code, copied.message, copied.retry_after_ms) == ("E_DRAINING", "about to be stopped", 1_000)
